"""Conversations as tokens, by the model's own chat template."""

from __future__ import annotations

from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from stages.config.errors import UserError
from stages.data.records import BadRow, Message
from stages.trees import Node, Tree

PROBE = [Message(role="user", content="one"), Message(role="assistant", content="two")]


class ChatTemplate:
    """The tokenizer's chat template, checked once: an answer continues its prompt and ends; one BOS at most.

    stop_ids: tokens that end an assistant turn; where the template ends its turns with another special token,
        that one is added, for a model that learns it must be stopped by it.
    Raises UserError where the model could not learn from conversations in this template.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop_ids: set[int], system_prompt: str | None
    ) -> None:
        self.tokenizer = tokenizer
        self.system = [Message(role="system", content=system_prompt)] if system_prompt is not None else []
        try:
            self.stop_ids = stop_ids | {self._end_of_turn(stop_ids)}
            self._check_bos()
            self.tree(PROBE[:1], [PROBE[1:]])
        except BadRow as error:
            raise UserError(f"the model's chat template cannot be trained on: {error}") from error

    def tree(self, prompt: list[Message], completions: list[list[Message]]) -> Tree:
        """The prompt up to where an answer begins, and each completion to the end of its last assistant turn.

        Assistant turns are targets, their end included; what is between them is not. Raises BadRow.
        """
        if not any(message["role"] == "user" for message in prompt):
            raise BadRow("no user turn in the prompt")
        if self.system and prompt[0]["role"] not in ("system", "developer"):
            prompt = [*self.system, *prompt]
        opening = self.render(prompt, generate=True)
        prompt_ids = self.encode(opening)
        answers = [self._answer(prompt, completion, opening, prompt_ids) for completion in completions]
        return Tree(Node(prompt_ids, [False] * len(prompt_ids)), answers)

    def _answer(
        self, prompt: list[Message], completion: list[Message], text: str, prompt_ids: list[int]
    ) -> Node:
        turns = [index for index, message in enumerate(completion) if message["role"] == "assistant"]
        if not turns or turns[0] != 0:
            raise BadRow("a completion does not begin with an assistant turn")
        dialogue = [*prompt, *completion[: turns[-1] + 1]]
        ends = [self.render(dialogue[: len(prompt) + turn], generate=True) for turn in turns[1:]]
        ids, mask = list(prompt_ids), []
        for end in [*ends, self.render(dialogue, generate=False)]:
            new = self._continue(ids, text, end)
            stop = next((index for index, token in enumerate(new) if token in self.stop_ids), None)
            if stop is None:
                raise BadRow("an assistant turn has no end-of-turn token")
            mask += [index <= stop for index in range(len(new))]
            ids, text = ids + new, end
        length = len(mask) - mask[::-1].index(True)
        return Node(ids[len(prompt_ids) :][:length], mask[:length])

    def _continue(self, ids: list[int], text: str, end: str) -> list[int]:
        """The tokens by which `end` goes on after `text`, whose tokens are `ids`."""
        if not end.startswith(text):
            detail = "it rewrites a dialogue's beginning once more follows; train on single turns"
            raise BadRow(
                "the chat template is not prefix-stable", f"the chat template is not prefix-stable: {detail}"
            )
        joint = self.encode(end)
        # Where a token would span the border, the prompt stays as the sampler will see it.
        return joint[len(ids) :] if joint[: len(ids)] == ids else self.encode(end[len(text) :])

    def render(self, messages: list[Message], generate: bool) -> str:
        conversation: list[dict[str, str]] = [dict(message) for message in messages]  # pyright: ignore[reportAssignmentType]
        try:
            text: Any = self.tokenizer.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=generate
            )
        except TemplateError as error:
            raise BadRow(
                "the chat template refuses the conversation", f"the chat template says: {error}"
            ) from error
        return text

    def encode(self, text: str) -> list[int]:
        # The template writes its own special tokens; adding the tokenizer's would double the BOS.
        return self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids

    def _end_of_turn(self, stop_ids: set[int]) -> int:
        opening = self.render(PROBE[:1], generate=True)
        new = self._continue(self.encode(opening), opening, self.render(PROBE[:2], generate=False))
        special = set(self.tokenizer.all_special_ids) | _special_added(self.tokenizer)
        ends = [token for token in new if token in stop_ids] or [
            token for token in reversed(new) if token in special
        ]
        if not ends:
            raise BadRow(
                "it ends an assistant turn without a special token, so the model would never learn to stop"
            )
        return ends[0]

    def _check_bos(self) -> None:
        bos = self.tokenizer.bos_token_id
        if bos is not None and self.encode(self.render(PROBE[:1], generate=True))[:2] == [bos, bos]:
            raise BadRow("it begins with two BOS tokens")


def _special_added(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    return {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}

"""Conversations as tokens, by the model's own chat template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NoReturn

from transformers import PreTrainedTokenizerBase

from stages.config.errors import UserError
from stages.data.control import ControlTokens
from stages.data.probes import PROBE, choose_probe, fit_forms
from stages.data.records import BadRow, LeftOut, Message
from stages.data.template import Template, Tools
from stages.data.turntexts import TurnTexts
from stages.data.written import Written, mark, shape_of
from stages.trees import Node, Tree


class ChatTemplate:
    """The tokenizer's chat template, checked once: an answer continues its prompt and ends; one BOS at most.

    stop_ids: tokens that end an assistant turn; where the template ends its turns with another special token,
        that one is added, for a model that learns it must be stopped by it.
    Raises UserError where the model could not learn from conversations in this template.
    """

    def __init__(self, template: Template, stop_ids: set[int], system_prompt: str | None) -> None:
        self.tokenizer = tokenizer = template.tokenizer
        self.system = [Message(role="system", content=system_prompt)] if system_prompt is not None else []
        self.texts = TurnTexts(template)
        self.written = Written(self.texts.whole)
        self.stable: dict[Any, bool] = {}
        try:
            fit_forms(template)
            probe = choose_probe(self.texts)
            rendered = template.render([*self.system, *probe], [], generate=False)
            self.stop_ids = stop_ids | {self._end_of_turn(probe, stop_ids)}
            self.control = ControlTokens(tokenizer, self.stop_ids, rendered)
            self._check_bos()
            self.trees(probe[:1], [probe[1:]], [])
        except BadRow as error:
            raise UserError(f"the model's chat template cannot be trained on: {error}") from error

    def trees(
        self, prompt: list[Message], completions: list[list[Message]], tools: Tools, *, split: bool = False
    ) -> list[Tree]:
        """One tree: the prompt up to where an answer begins, and each completion to the end of its last answer.

        Assistant turns are targets, their end included; what is between them is not. split: where the template
        writes an answer in another way once more follows, each turn is a tree of its own, with what the model sees
        before it as the prompt. Raises LeftOut, and BadRow.
        """
        if not any(message["role"] == "user" for message in prompt):
            raise BadRow("no user turn in the prompt")
        if self.system and prompt[0]["role"] not in ("system", "developer"):
            prompt = [*self.system, *prompt]
        self._check_control(prompt, completions, tools)
        if split and len(completions) == 1 and not self._is_stable(prompt, completions[0], tools):
            return self._split(prompt, completions[0], tools)
        opening = self.texts.opening(prompt, tools)
        ids = self.encode(opening)
        if not completions:
            self.written.check(opening, prompt, tools, ())
        answers = [self._answer(prompt, completion, tools, opening, ids) for completion in completions]
        return [Tree(_no_targets(ids), answers)]

    def _split(self, prompt: list[Message], completion: list[Message], tools: Tools) -> list[Tree]:
        """A tree for each answer, its history as the model will see it."""
        dialogue, first = [*prompt, *completion], len(prompt)
        trees = []
        for turn in (
            first + index for index in answers_of(completion) if completion[index].get("train", True)
        ):
            opening = self.texts.opening(dialogue[:turn], tools)
            ids = self.encode(opening)
            answer = self._answer(dialogue[:turn], dialogue[turn : turn + 1], tools, opening, ids)
            trees.append(Tree(_no_targets(ids), [answer]))
        if not trees:
            _nothing_trained()
        return trees

    def _answer(
        self, prompt: list[Message], completion: list[Message], tools: Tools, text: str, prompt_ids: list[int]
    ) -> Node:
        turns = answers_of(completion)
        if not self._is_stable(prompt, completion, tools):
            raise BadRow(
                "the chat template rewrites answers once more follows",
                "the chat template writes an answer in another way once more follows, so that a completion of "
                "several answers cannot be compared: let chosen and rejected differ in the last answer alone",
            )
        dialogue = [*prompt, *completion[: turns[-1] + 1]]
        ends = [self.texts.opening(dialogue[: len(prompt) + turn], tools) for turn in turns[1:]]
        ends.append(self.texts.closing(dialogue, tools, ends[-1] if ends else text))
        targets = tuple(len(prompt) + turn for turn in turns if completion[turn].get("train", True))
        self.written.check(ends[-1], dialogue, tools, targets)
        ids, mask = list(prompt_ids), []
        for turn, end in zip(turns, ends, strict=True):
            new = self._continue(ids, text, end)
            stop = self._stop(new)
            if stop is None:
                raise BadRow("an assistant turn has no end-of-turn token")
            trained = completion[turn].get("train", True)
            mask += [trained and index <= stop for index in range(len(new))]
            ids, text = ids + new, end
        if True not in mask:
            _nothing_trained()
        length = len(mask) - mask[::-1].index(True)
        return Node(ids[len(prompt_ids) :][:length], mask[:length])

    def _is_stable(self, prompt: list[Message], completion: list[Message], tools: Tools) -> bool:
        """Whether an answer's tokens are the same when more follows; looked at once per shape of a dialogue."""
        turns = answers_of(completion)
        if not turns or turns[0] != 0:
            raise BadRow("a completion does not begin with an assistant turn")
        if len(turns) == 1:
            return True
        dialogue = [*prompt, *completion[: turns[-1] + 1]]
        shape = (shape_of(dialogue), len(prompt), len(tools))
        if shape not in self.stable:
            marked, marked_tools, _ = mark(dialogue, tools)
            places = [len(prompt) + turn for turn in turns]
            self.stable[shape] = all(
                self._same_target(marked, marked_tools, turn, following)
                for turn, following in pairwise(places)
            )
        return self.stable[shape]

    def _same_target(self, dialogue: list[Message], tools: Tools, turn: int, following: int) -> bool:
        opening, later = (self.texts.opening(dialogue[:end], tools) for end in (turn, following))
        if not later.startswith(opening):
            return False
        closing = self.texts.closing(dialogue[: turn + 1], tools, opening)
        first, again = (self.encode(text[len(opening) :]) for text in (closing, later))
        stop, stop_again = self._stop(first), self._stop(again)
        return stop is not None and stop_again is not None and first[: stop + 1] == again[: stop_again + 1]

    def _stop(self, ids: list[int]) -> int | None:
        return next((index for index, token in enumerate(ids) if token in self.stop_ids), None)

    def _continue(self, ids: list[int], text: str, end: str) -> list[int]:
        """The tokens by which `end` goes on after `text`, whose tokens are `ids`."""
        if not end.startswith(text):
            raise BadRow(
                "the chat template is not prefix-stable",
                "the chat template is not prefix-stable: it rewrites a dialogue's beginning once more follows",
            )
        joint = self.encode(end)
        # Where a token would span the border, the prompt stays as the sampler will see it.
        return joint[len(ids) :] if joint[: len(ids)] == ids else self.encode(end[len(text) :])

    def encode(self, text: str) -> list[int]:
        # The template writes its own special tokens; adding the tokenizer's would double the BOS.
        return self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids

    def _check_control(
        self, prompt: list[Message], completions: Iterable[list[Message]], tools: Tools
    ) -> None:
        for messages in (prompt, *completions):
            for message in messages:
                self.control.refuse_in(message)
        if tools:
            self.control.refuse(str(tools), "a tool's definition")

    def _end_of_turn(self, probe: list[Message], stop_ids: set[int]) -> int:
        opening = self.texts.opening(probe[:1], [])
        new = self._continue(self.encode(opening), opening, self.texts.closing(probe, [], opening))
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
        if bos is not None and self.encode(self.texts.opening(PROBE[:1], []))[:2] == [bos, bos]:
            raise BadRow("it begins with two BOS tokens")


def answers_of(completion: Sequence[Message]) -> list[int]:
    """Where the assistant's turns are."""
    return [index for index, message in enumerate(completion) if message["role"] == "assistant"]


def _no_targets(ids: list[int]) -> Node:
    return Node(ids, [False] * len(ids))


def _nothing_trained() -> NoReturn:
    raise LeftOut("no answer is a target (train, weight and the like say no to all)")


def _special_added(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    return {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}

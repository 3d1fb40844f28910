"""Plain text as tokens, without a chat template."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from stages.config.errors import UserError
from stages.trees import Node, Tree


class PlainText:
    """Text as it stands: BOS where the tokenizer would write one, and EOS after every completion.

    Raises UserError where the tokenizer has no EOS, for then nothing would teach the model to stop.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        eos = tokenizer.eos_token_id
        if not isinstance(eos, int):
            raise UserError("the model's tokenizer has no EOS token, so no completion could be ended")
        self.tokenizer, self.eos = tokenizer, eos
        begins = tokenizer("a").input_ids[:1]
        self.bos = begins if begins == [tokenizer.bos_token_id] != self.encode("a")[:1] else []

    def tree(self, prompt: str, completions: list[str]) -> Tree:
        """The prompt, and what each completion adds to it. Without a prompt the first token is the prompt."""
        if not prompt and completions:
            ids = [*self.bos, *self.encode(completions[0]), self.eos]
            return Tree(Node(ids[:1], [False]), [_targets(ids[1:])])
        prompt_ids = [*self.bos, *self.encode(prompt)]
        answers = [_targets([*self._continue(prompt, completion), self.eos]) for completion in completions]
        return Tree(Node(prompt_ids, [False] * len(prompt_ids)), answers)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids

    def _continue(self, prompt: str, completion: str) -> list[int]:
        ids, joint = self.encode(prompt), self.encode(prompt + completion)
        # Where a token would span the border, the prompt stays as the sampler will see it.
        return joint[len(ids) :] if joint[: len(ids)] == ids else self.encode(completion)


def _targets(input_ids: list[int]) -> Node:
    return Node(input_ids, [True] * len(input_ids))

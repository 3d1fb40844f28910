"""Length limits: what is cut, and which rows are left without anything to learn."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from stages.data.records import BadRow, LeftOut
from stages.data.settings import DataSettings
from stages.trees import Node, Tree


@dataclass(frozen=True)
class Limits:
    """In tokens: of a prompt (None: no limit of its own), and of a prompt and its completion together."""

    max_prompt_length: int | None
    max_length: int

    @classmethod
    def of_role(cls, role: str, settings: DataSettings) -> Limits:
        """Only where completions are sampled or compared must a long prompt be refused; sft just cuts."""
        return cls(None if role == "sft" else settings.max_prompt_length, settings.max_length)

    def fit(self, tree: Tree) -> Tree:
        """The tree with completions cut at the limit; the same object where nothing is cut.

        Raises BadRow on an overlong prompt, LeftOut where a completion loses every target or its difference.
        """
        length = len(tree.prompt.input_ids)
        if self.max_prompt_length is not None and length > self.max_prompt_length:
            detail = f"the prompt has {length} tokens and data.max_prompt_length is {self.max_prompt_length}"
            raise BadRow("prompt longer than data.max_prompt_length", detail)
        room = self.max_length - length
        if all(len(completion.input_ids) <= room for completion in tree.completions):
            return tree
        cut = [_cut(completion, room) for completion in tree.completions]
        if any(one.input_ids == other.input_ids for one, other in combinations(cut, 2)):
            raise LeftOut("completions are equal once truncated at data.max_length")
        return Tree(tree.prompt, cut)


def _cut(node: Node, room: int) -> Node:
    """The first `room` tokens, without what follows the last target among them."""
    mask = node.loss_mask[: max(room, 0)]
    if True not in mask:
        raise LeftOut("every target truncated at data.max_length")
    length = len(mask) - mask[::-1].index(True)
    return Node(node.input_ids[:length], mask[:length])

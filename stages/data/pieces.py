"""A run of tokens for people to see: which are targets, which are special, and where one ends."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from stages.trees import Node


class Piece(NamedTuple):
    """Text of neighbouring tokens of one kind. omitted: it stands for tokens that are left out, and says how many."""

    text: str
    target: bool
    special: bool
    omitted: bool = False


@dataclass(frozen=True)
class Cutter:
    """Cuts nodes into pieces. limit: tokens of a node that are shown, the middle of a longer one is left out.

    borders: every token is a piece of its own (or several, where it takes them to make a character).
    """

    tokenizer: PreTrainedTokenizerBase
    limit: int
    borders: bool = False

    def pieces(self, node: Node) -> list[Piece]:
        """In the order of the tokens."""
        length = len(node.input_ids)
        if length <= self.limit:
            return self._run(node.input_ids, node.loss_mask)
        head, tail = -(-self.limit // 2), self.limit // 2
        start = length - tail
        omitted = node.loss_mask[head:start]
        targets = f", {sum(omitted)} of them targets" if any(omitted) else ""
        gap = Piece(f"… {len(omitted)} tokens{targets} …", False, False, omitted=True)
        first = self._run(node.input_ids[:head], node.loss_mask[:head])
        return [*first, gap, *self._run(node.input_ids[start:], node.loss_mask[start:])]

    def _run(self, ids: Sequence[int], mask: Sequence[bool]) -> list[Piece]:
        special = special_ids(self.tokenizer)
        kinds = [(is_target, token in special) for token, is_target in zip(ids, mask, strict=True)]
        last = len(ids)
        ends = [
            end for end in range(1, last + 1) if self.borders or end == last or kinds[end - 1] != kinds[end]
        ]
        pieces: list[Piece] = []
        before = ""
        for end in ends:
            # From the start each time: by itself, a token in the middle may lose the space before it.
            text = str(self.tokenizer.decode(list(ids[:end]), skip_special_tokens=False))
            if text.endswith("\ufffd") and end < len(ids) and kinds[end] == kinds[end - 1]:
                continue  # the next token completes the character
            pieces.append(Piece(text.removeprefix(before), *kinds[end - 1]))
            before = text
        return pieces


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that no text is encoded into."""
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def visible(text: str) -> str:
    """The text with its line ends marked, and with what would steer a terminal, or turn text around, spelled out."""
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    if character == "\n":
        return "↵\n"
    if character == "\t" or unicodedata.category(character) not in ("Cc", "Cf", "Zl", "Zp"):
        return character
    return f"\\x{ord(character):02x}" if ord(character) < 256 else f"\\u{ord(character):04x}"

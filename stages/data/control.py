"""Control tokens in a user's text: one would forge a turn, or end an answer in its middle."""

from __future__ import annotations

import re
from collections.abc import Iterable

from transformers import PreTrainedTokenizerBase

from stages.data.records import BadRow, Message

# Thoughts stand in contents too, and templates take them for what they are.
THOUGHTS = {"<think>", "</think>"}


class ControlTokens:
    """The tokenizer's own special tokens, those that end a turn, and whatever the chat template writes around turns.

    Other special tokens of the vocabulary (`<filename>`) mean no more in a text than they say, and stay.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_ids: Iterable[int], rendered: str) -> None:
        added = {index: token.content for index, token in tokenizer.added_tokens_decoder.items()}
        written = {text for text in added.values() if text.strip() and text in rendered}
        ends = {added[index] for index in stop_ids if index in added}
        # What stands for unknown characters ends nothing.
        special = set(tokenizer.all_special_tokens) - {str(tokenizer.unk_token)}
        longest_first = sorted((special | written | ends) - THOUGHTS, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def refuse(self, text: str, where: str) -> None:
        """Raises BadRow where a text holds one."""
        if found := self.pattern.search(text):
            raise BadRow(
                "a control token in the text",
                f"{where} holds the control token {found[0]}, which the model would not read as text: write it in "
                "another way (text that has its template already needs data.chat: never)",
            )

    def refuse_in(self, message: Message) -> None:
        """Raises BadRow where anything that a message says holds one."""
        where = f"a message of '{message['role']}'"
        self.refuse(message["content"], where)
        if len(message) > 2:
            self.refuse(str([message[key] for key in message if key not in ("role", "content")]), where)

"""What models and users write, made safe to show: on a page it is text, whatever it would be elsewhere."""

from __future__ import annotations

import re

# Ends of lines by Unicode; a tab and a line feed are the only other control characters that stay.
LINE_ENDS = re.compile(r"\r\n|[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]")
# The rest of them, marks that turn the direction of what stands around them, and halves of characters.
UNSEEN = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
# Emphasis, code, links, images, mathematics, strikethrough, cells; and what becomes a link by itself.
MARKUP = re.compile(r"([\\`*_\[\]~|$]|:(?=//)|(?<=www)\.)")


def visible(text: str) -> str:
    """Lines end in a line feed, and what cannot be seen (terminals' codes, changes of direction) is named: `\\x1b`."""
    return UNSEEN.sub(lambda found: ascii(found[0])[1:-1], LINE_ENDS.sub("\n", text))


def markdown_cell(text: str) -> str:
    """Text inside a cell of a Markdown table, shown as it is."""
    return MARKUP.sub(r"\\\1", visible(text).translate(ENTITIES)).replace("\n", "<br>")

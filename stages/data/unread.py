"""Columns that say what a model should see or learn, in a row whose format does not read them."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from stages.data.records import BadRow, Record
from stages.data.tools import is_empty

MEDIA = frozenset({"image", "images", "video", "videos", "audio", "audios"})
# Beside a prompt, a part of what the model is to answer from; or how the template is to write it.
CONTEXT = frozenset({"context", "documents", "system", "system_prompt", "history", "tools", "functions"})
KWARGS = frozenset({"chat_template_kwargs"})
# How good a completion is, or how much it counts.
WEIGHTS = frozenset({"weight", "weights", "sample_weight", "loss_weight"})
JUDGEMENTS = WEIGHTS | {
    *("label", "labels", "kto_tag", "score", "scores", "rating", "ratings", "reward", "margin"),
    *("chosen", "rejected", "responses", "chosen_response", "rejected_response", "rejected_messages"),
}
REFUSED = {
    "sft": MEDIA | CONTEXT | KWARGS | JUDGEMENTS,
    "preference": MEDIA | CONTEXT | KWARGS | JUDGEMENTS,
    "prompt": MEDIA | CONTEXT | KWARGS,  # the rest is for its rewards
}


def refuse_unread(role: str, form: str, record: Record, ignore: Set[str]) -> None:
    """Raises BadRow where a column that its format does not read says something that must not be lost."""
    for name in sorted(REFUSED[role] & record.columns.keys() - record.read - ignore):
        if not _says_nothing(name, record.columns[name]):
            why = (
                "images and the like cannot be trained on" if name in MEDIA else f"{form} data do not read it"
            )
            detail = f"the column '{name}' would be lost ({why}): map or remove it, or name it in data.{role}.ignore"
            raise BadRow(f"the column '{name}' is not read", detail)


def _says_nothing(name: str, value: Any) -> bool:
    return is_empty(value) or (name in WEIGHTS and value == 1)

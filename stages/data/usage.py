"""What became of each column of a role's rows, for the log and report.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stages.data.messages import unread_in
from stages.data.records import Record, Row

WHY_IGNORED = {
    "sft": "sft has no rewards that could read them",
    "preference": "the preferences are given, so nothing is verified",
}


@dataclass
class Usage:
    """Columns by name: those that the format or a template read, those that stay with the row, and keys of messages
    that nothing reads. What the prompt role does not train on stays, too."""

    read: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    message_keys: set[str] = field(default_factory=set)

    def see(self, row: Row, record: Record) -> None:
        """A row and the record that was made of it."""
        self.read |= record.read
        self.kept |= record.columns.keys()
        for name in record.read - (row.prompt_from or frozenset()):
            if name in row.values:
                self.message_keys |= unread_in(row.values[name])

    def describe(self, role: str, verified: bool) -> dict[str, Any]:
        """The columns' part of report.json. verified: whether rewards or a verifier will see the role's rows."""
        kept, ignored = (sorted(self.kept), []) if verified else ([], sorted(self.kept - self.read))
        return {
            "read": sorted(self.read),
            "kept_for_rewards": kept,
            "ignored": ignored,
            "why_ignored": WHY_IGNORED[role] if ignored else None,
            "ignored_message_keys": sorted(self.message_keys),
        }


def columns_line(columns: dict[str, Any]) -> str:
    """What became of the columns, in one line for the log."""
    parts = [f"columns read: {_names(columns['read'])}"]
    parts.append(f"kept for rewards: {_names(columns['kept_for_rewards'])}")
    why = f" ({columns['why_ignored']})" if columns["why_ignored"] else ""
    parts.append(f"ignored: {_names(columns['ignored'])}{why}")
    if columns["ignored_message_keys"]:
        parts.append(f"keys of messages that nothing reads: {_names(columns['ignored_message_keys'])}")
    return "; ".join(parts)


def _names(names: list[str]) -> str:
    return ", ".join(names) or "none"

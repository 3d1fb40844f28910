"""Column names: canonical ones, a user's own, and which of them a row has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from stages.config.errors import UserError
from stages.data.messages import like_messages
from stages.data.nearest import nearest
from stages.data.records import BadRow

# No format uses it; a verifier reads it.
ANSWER = "answer"
CANONICAL = {
    *("text", "prompt", "completion", "messages", "instruction", "input", "output"),
    *("chosen", "rejected", "responses", "scores", "label"),
    *("system", "history", "tools"),
    ANSWER,
}
# Names that say the same wherever they are used; the others of the field (question, response) are for the user to map.
ALIASES = {
    "messages": ("conversations", "conversation", "dialogue", "dialog", "turns"),
    "system": ("system_prompt",),
    "tools": ("functions",),
    "label": ("kto_tag",),
}
Mapping = dict[str, str | list[str]]


class NoColumn(Exception):
    """A column that the mapping names and the row does not have."""


@dataclass(frozen=True)
class Columns:
    """A role's mapping from canonical names to the columns' own names.

    key: where it stands in the config. ignore: columns that no format may use, whatever they are called.
    """

    mapping: Mapping
    key: str
    ignore: frozenset[str] = frozenset()

    @cached_property
    def _taken(self) -> set[str]:
        return own_names(self.mapping, but=set()) | self.ignore

    def _own(self, row: dict[str, Any], name: str) -> str | list[str] | None:
        """What a row calls a canonical column: as mapped, by its canonical name or an alias; None where it has none."""
        if name in self.mapping:
            return self.mapping[name]
        if name in row and name not in self.ignore:
            return name
        for alias in ALIASES.get(name, ()):
            if (
                alias in row
                and alias not in self._taken
                and (name != "messages" or like_messages(row[alias]))
            ):
                return alias
        return None

    def check(self, row: dict[str, Any], where: str) -> None:
        """Raises UserError on an unknown canonical name in the mapping, and on a column that is not there."""
        for name, own in self.mapping.items():
            if name not in CANONICAL:
                raise UserError(f"{self.key}: '{name}' is no canonical column{nearest(name, CANONICAL)}")
            for path in [own] if isinstance(own, str) else own:
                self._check_path(row, name, path, where)

    def _check_path(self, row: dict[str, Any], name: str, path: str, where: str) -> None:
        try:
            _look_up(row, path)
        except NoColumn:
            near = nearest(path, _paths(row))
            raise UserError(f"{where}: no column '{path}', which {self.key}.{name} names{near}") from None

    def available(self, row: dict[str, Any]) -> set[str]:
        """The canonical names that a row has, by mapping or by its own names."""
        return {name for name in CANONICAL if self._own(row, name) is not None}

    def filled(self, row: dict[str, Any]) -> set[str]:
        """Those of the available names whose column is not null: files of several sources have one for each."""
        return {name for name in self.available(row) if self.pick(row, [name])[name] is not None}

    def pick(self, row: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
        """The canonical columns of a row, a list of own names as the list of their values. Raises BadRow."""
        picked = {}
        for name in names:
            own = self._own(row, name) or name
            try:
                picked[name] = (
                    _look_up(row, own) if isinstance(own, str) else [_look_up(row, path) for path in own]
                )
            except NoColumn as error:
                raise BadRow(f"no column '{error}'") from None
        return picked

    def answer(self, row: dict[str, Any]) -> dict[str, Any]:
        """The answer for verifiers under its canonical name, where the mapping names it. Raises BadRow."""
        return self.pick(row, [ANSWER]) if ANSWER in self.mapping else {}

    def tops(self, row: dict[str, Any], names: Iterable[str]) -> set[str]:
        """The row's own top-level columns that the canonical names take."""
        owns = own_names({name: self._own(row, name) or name for name in names}, but=set())
        return {own if own in row else own.split(".")[0] for own in owns}


def own_names(mapping: Mapping, but: set[str]) -> set[str]:
    """Every own name that a mapping mentions, except those of the canonical names in `but`."""
    names: set[str] = set()
    for name, own in mapping.items():
        if name not in but:
            names.update([own] if isinstance(own, str) else own)
    return names


def _look_up(row: dict[str, Any], path: str) -> Any:
    if path in row:
        return row[path]
    value: Any = row
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            raise NoColumn(path)
        value = value[part]
    return value


def _paths(row: dict[str, Any], prefix: str = "") -> list[str]:
    paths = []
    for name, value in row.items():
        paths.append(prefix + name)
        if isinstance(value, dict):
            paths += _paths(value, f"{prefix}{name}.")
    return paths

"""The prompt of a role's rows, written by a Jinja template over their own columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from jinja2 import Environment, StrictUndefined, Template, TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from stages.config.errors import UserError
from stages.data.nearest import nearest
from stages.data.records import Row

PROMPT = "prompt"
SHOWN = 200  # characters of what Jinja says, which may quote the row
# What asks whether there is a column, or says what stands in its place.
ASKING = ("defined", "undefined", "default", "d")


class PromptTemplate:
    """A template for the column `prompt`, which a row may have already.

    source: as `compiled` has taken it. key: where it stands in the config. names: the columns that it reads where a row
    has them.
    """

    def __init__(self, source: str, key: str) -> None:
        tree = _environment().parse(source)
        self.key, self.template = key, compiled(source)
        self.names = frozenset(meta.find_undeclared_variables(tree))
        self._needed = self.names - _asked_for(tree)

    def fill(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows with their prompts; one for which it cannot be written is marked as bad.

        Raises UserError where the first good row lacks a column, which is a misspelled one then.
        """
        checked = False
        for row in rows:
            if not row.bad:
                if not checked:
                    self._check_columns(row)
                checked = True
                row = self._filled(row)
            yield row

    def _check_columns(self, row: Row) -> None:
        for name in sorted(self._needed - row.values.keys()):
            found = nearest(name, row.values)
            near = found if "did you mean" in found else ""
            own = ", ".join(row.values) or "none"
            raise UserError(
                f"{row.where}: no column '{name}', which {self.key} reads, and the columns are {own}{near}"
            )

    def _filled(self, row: Row) -> Row:
        try:
            prompt = self.template.render(row.values)
        except Exception as error:  # a template is a program, and may raise anything
            return replace(row, values={}, bad=f"{self.key}: {self._said(error, row)}")
        used = frozenset((self.names | {PROMPT}) & row.values.keys())
        return replace(row, values={**row.values, PROMPT: prompt}, prompt_from=used)

    def _said(self, error: Exception, row: Row) -> str:
        kind = "" if isinstance(error, TemplateError) else f"{type(error).__name__}: "
        null = ", ".join(sorted(name for name in self.names if row.values.get(name, "") is None))
        return f"{kind}{' '.join(str(error).split())[:SHOWN]}" + (f" (null here: {null})" if null else "")


def compiled(source: str) -> Template:
    """Raises ValueError, in one line, where it is not valid Jinja."""
    try:
        return _environment().from_string(source)
    except TemplateSyntaxError as error:
        raise ValueError(f"line {error.lineno} is not valid Jinja: {error.message}") from error


def _environment() -> Environment:
    """Templates that cannot change a row, which rewards read later, and that write the same on every day."""
    made = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True, finalize=_written
    )
    del made.filters["random"], made.globals["lipsum"]
    return made


def _written(value: Any) -> Any:
    """What a template is about to write. Jinja itself would write None, and where in memory a function lies."""
    if isinstance(value, StrictUndefined):
        return value  # which says best itself what is missing
    if value is None:
        raise TemplateError("it writes a null")
    if isinstance(value, Iterator):
        raise TemplateError("it writes a generator: add | join(' ') or | list")
    if callable(value):
        raise TemplateError("it writes a function: read a key of that name as object['key']")
    return value


def _asked_for(tree: nodes.Template) -> set[str]:
    """Columns that a row may lack, for the template says what it writes then."""
    asking = (node for node in tree.find_all((nodes.Test, nodes.Filter)) if node.name in ASKING)
    return {node.node.name for node in asking if isinstance(node.node, nodes.Name)}

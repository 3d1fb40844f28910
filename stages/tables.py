"""Tables that can be read at any width: of a terminal, or in a file, which has none."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Table

ENDLESS = 10_000  # columns of a file or a pipe: a table there is as wide as it needs to be


def open_console() -> Console:
    """The console of stdout. Rich takes what is no terminal for one of 80 columns, and cuts numbers to fit."""
    console = Console()
    if not console.is_terminal:
        console.width = ENDLESS
    return console


def print_rows(console: Console, title: str, rows: Mapping[str, Mapping[str, str]]) -> None:
    """Rows of cells by the names of their columns; as a table where it fits, else a paragraph for each row."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    for name in columns:
        table.add_column(escape(name), justify="right", no_wrap=True)
    for name, row in rows.items():
        table.add_row(escape(name), *(escape(row.get(column, "")) for column in columns))
    wanted = console.measure(table, options=console.options.update(max_width=ENDLESS))
    if wanted.maximum <= console.width:
        console.print(table)
        return
    console.print(f"[bold]{escape(title)}[/bold]")
    for name, row in rows.items():
        cells = ", ".join(f"{column} {text}" for column, text in row.items())
        console.print(f"[bold]{escape(name)}[/bold]: {escape(cells)}", highlight=False)

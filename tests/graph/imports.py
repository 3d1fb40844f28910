"""Which files under stages/ a module reaches by its imports, read from the source and not by running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path


def closure(root: Path, start: str) -> set[str]:
    """`start` (a path below `root`) and every file of the project that its imports lead to, inside functions too."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += imported(root, path)
    return found


def imported(root: Path, path: str) -> Iterator[str]:
    """The project's files that one file imports. A package that it names counts by its __init__.py."""
    for node in ast.walk(ast.parse((root / path).read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            base = name.replace(".", "/")
            for candidate in (f"{base}.py", f"{base}/__init__.py"):
                if name.split(".")[0] == "stages" and (root / candidate).is_file():
                    yield candidate


def uncovered(files: set[str], deps: list[str]) -> list[str]:
    """The files that no dep names, neither themselves nor by a folder above. Empty files change nothing."""
    return sorted(f for f in files if not any(f == dep or f.startswith(f"{dep}/") for dep in deps))

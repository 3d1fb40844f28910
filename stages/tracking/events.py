"""The events of a run as its sender reads them: a line each, and a line that is none is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from stages.tracking.claim import is_held

EVENTS = "events.jsonl"
DAMAGED = ".damaged"  # in the spool: runs some of whose lines could not be read
# What the sender needs of each event. Others, and lines that a full disk or a power cut has spoilt, are not sent.
SHAPES: dict[str, dict[str, type | tuple[type, ...]]] = {
    "start": {"id": str, "time": int, "name": str, "parent": (dict, type(None)), "params": dict, "tags": dict,
              "config": str},
    "metrics": {"time": int, "step": int, "metrics": dict},
    "summary": {"time": int, "step": int, "metrics": dict},
    "dataset": {"name": str, "digest": str, "rows": int},
    "table": {"name": str, "rows": list},
    "artifact": {"path": str},
    "finish": {"time": int, "status": str},
}  # fmt: skip


class Read(NamedTuple):
    """Events, the number of lines that hold none, and the byte offset behind what was read."""

    events: list[dict[str, Any]]
    spoilt: int
    offset: int


def read_events(folder: Path, offset: int, *, alive: bool) -> Read:
    """What stands from a byte offset on. A last line without its end is left for later while the stage lives."""
    with (folder / EVENTS).open("rb") as file:
        file.seek(offset)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1] if alive else data
    found = [parse(line) for line in whole.splitlines()]
    events = [event for event in found if event is not None]
    return Read(events, len(found) - len(events), offset + len(whole))


def parse(line: bytes) -> dict[str, Any] | None:
    """An event, or None where the line is none."""
    try:
        event = json.loads(line)
        shape = SHAPES[event["event"]]
        return event if all(isinstance(event[name], kind) for name, kind in shape.items()) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def undelivered(folder: Path, offset: int) -> int:
    """How many lines stand behind a byte offset."""
    with (folder / EVENTS).open("rb") as file:
        file.seek(offset)
        return file.read().count(b"\n")


def is_alive(folder: Path) -> bool:
    """Whether the stage that writes here still runs: it holds a lock on its events."""
    return is_held(folder / EVENTS)

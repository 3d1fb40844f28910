"""How far a run is delivered: a small file beside its events."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stages.tracking.events import EVENTS

DELIVERED = "delivered.json"


class Delivered(BaseModel):
    """target: the store, without credentials. offset: bytes of the events that it has. spoilt: lines among them that
    hold no event. error: what the sender met last. finished: the store has the run's end."""

    model_config = ConfigDict(extra="ignore")

    target: str | None = None
    run_id: str | None = None
    offset: int = Field(default=0, ge=0)
    spoilt: int = Field(default=0, ge=0)
    error: str | None = None
    finished: bool = False


def peek(folder: Path) -> Delivered:
    """The state as it stands; that of a new run where it cannot be read."""
    try:
        return load(folder) or Delivered()
    except (OSError, ValidationError):
        return Delivered()


def read_delivered(folder: Path) -> Delivered:
    """The same for the sender, which sets a damaged file aside: a run may be sent again, and is the same then."""
    try:
        state = load(folder)
        if state is None or fits(folder, state):
            return state or Delivered()
    except ValidationError:
        pass
    (folder / DELIVERED).replace(folder / f"{DELIVERED}.damaged")
    print(
        f"{folder.name}/{DELIVERED} is damaged and set aside: the run is sent again, whole", file=sys.stderr
    )
    return Delivered()


def load(folder: Path) -> Delivered | None:
    """What the file says; None where there is none. Raises ValidationError where it says nothing of use."""
    try:
        return Delivered.model_validate_json((folder / DELIVERED).read_bytes())
    except FileNotFoundError:
        return None


def fits(folder: Path, state: Delivered) -> bool:
    """Whether the offset is the end of a line of the events."""
    if state.offset == 0:
        return True
    with (folder / EVENTS).open("rb") as file:
        file.seek(state.offset - 1)
        return file.read(1) == b"\n" or file.seek(0, 2) == state.offset


def write_delivered(folder: Path, state: Delivered) -> None:
    """Replace the state in one move, so that a killed sender leaves the old one or the new one."""
    hidden = folder / f".{DELIVERED}"
    hidden.write_text(json.dumps(state.model_dump()))
    hidden.replace(folder / DELIVERED)


def note(folder: Path, error: str) -> None:
    """Leave word of an error for the stage to tell. A full disk takes none: the log has it, or nobody."""
    with suppress(OSError):
        write_delivered(folder, peek(folder).model_copy(update={"error": error[:200]}))

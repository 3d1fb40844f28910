"""The end of a run of the pipeline: a moment for the senders, and word of what is not in MLflow yet."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from stages.tracking.claim import SENDER, is_held
from stages.tracking.delivered import peek
from stages.tracking.events import DAMAGED, EVENTS, is_alive

POLL = 0.1  # seconds


def settle(spool: Path, seconds: float) -> None:
    """Wait while senders are at work on finished runs and have met no error; then tell what waits in the spool."""
    deadline, told = time.monotonic() + seconds, False
    while any(map(is_arriving, waiting(spool))) and time.monotonic() < deadline:
        if not told:
            print(f"MLflow is taking the last numbers (at most {seconds:g} s more)", file=sys.stderr)
        told = True
        time.sleep(POLL)
    left = waiting(spool)
    if left:
        error = next(filter(None, (peek(folder).error for folder in left)), None)
        reason = f" ({error})" if error else ""
        warn(f"runs that wait in {spool} for MLflow: {len(left)}{reason}; the next run delivers them")
    if damaged := len(list((spool / DAMAGED).glob("*/"))):
        warn(f"runs with lines that could not be read: {damaged}; they are kept in {spool / DAMAGED}")


def warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def waiting(spool: Path) -> list[Path]:
    """The runs whose stages have ended, and that are not delivered."""
    return [
        folder
        for folder in sorted(spool.glob("[!.]*/"))
        if (folder / EVENTS).exists() and not is_alive(folder)
    ]


def is_arriving(folder: Path) -> bool:
    """Whether a sender is at work here, without an error so far."""
    return is_held(folder / SENDER) and peek(folder).error is None

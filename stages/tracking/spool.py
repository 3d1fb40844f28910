"""The spool: a folder per run that holds its events until MLflow has them.

    .spool/<id>/events.jsonl     one event per line; the stage appends, and holds a lock on it while it lives
    .spool/<id>/artifacts/       copies of the logged files
    .spool/<id>/delivered.json   how far the sender is, and the error that it met last

The stage writes and never reads; the sender (sender.py) reads and never writes to the events.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

EVENTS = "events.jsonl"
DELIVERED = "delivered.json"


class Spool:
    """The stage's end: appends events, and never raises, because a full disk must not stop a training."""

    def __init__(self, root: Path, start: dict[str, Any], finish_timeout: float) -> None:
        name = time.strftime("%Y%m%d-%H%M%S-") + uuid.uuid4().hex[:8]
        # Built under a hidden name and renamed when it holds a lock and a first event: another run's sender
        # that looks through the spool never takes it for one that was left behind.
        hidden = root / f".{name}"
        hidden.mkdir(parents=True)
        self.folder = root / name
        self._finish_timeout = finish_timeout
        self._events: IO[str] = (hidden / EVENTS).open("a", buffering=1)
        fcntl.flock(self._events, fcntl.LOCK_EX)
        self._healthy = True
        self.sender: subprocess.Popen[Any] | None = None  # started when the folder is there
        self.write({**start, "id": name})
        hidden.rename(self.folder)

    def write(self, event: dict[str, Any]) -> None:
        """Append one event; an artifact is copied first. The first failure is told, later ones are silent."""
        try:
            if event["event"] == "artifact":
                event = {**event, "path": self._copy(Path(event["path"]))}
            self._events.write(json.dumps(event, default=str) + "\n")
        except OSError as error:
            if self._healthy:
                print(f"warning: not all of this run is tracked: {self.folder}: {error}", file=sys.stderr)
            self._healthy = False

    def flush(self) -> None:
        """Every line is written when it is logged: nothing waits."""

    def close(self) -> None:
        """Let go of the lock, and give the sender a moment, unless it has met an error or gone."""
        self._events.close()
        deadline = time.monotonic() + self._finish_timeout
        while self.sender is not None and self.folder.exists() and time.monotonic() < deadline:
            gone = self.sender.poll() is not None
            error = read_delivered(self.folder)["error"] or ("see its sender.log" if gone else None)
            if error is not None and self.folder.exists():
                print(f"warning: MLflow is not reachable: {error}", file=sys.stderr)
                print(f"  the run waits in {self.folder}; the next one delivers it", file=sys.stderr)
                return
            time.sleep(0.05)

    def _copy(self, source: Path) -> str:
        target = self.folder / "artifacts" / source.name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copyfile(source, target)
        return f"artifacts/{source.name}"


def read_events(folder: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """The whole events from a byte offset on, and the offset behind them. A line still being written is left
    for later; one that a full disk has spoilt is left out."""
    with (folder / EVENTS).open("rb") as file:
        file.seek(offset)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    events = [parse(line) for line in whole.splitlines()]
    return [event for event in events if event is not None], offset + len(whole)


def parse(line: bytes) -> dict[str, Any] | None:
    """An event, or None where the line is none."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def is_alive(folder: Path) -> bool:
    """Whether the stage that writes here still runs: the kernel frees its lock however it dies."""
    with (folder / EVENTS).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def read_delivered(folder: Path) -> dict[str, Any]:
    """How far the run is delivered: uri, run_id, offset (bytes of the events), error, finished."""
    try:
        return json.loads((folder / DELIVERED).read_text())
    except FileNotFoundError:
        return {"uri": None, "run_id": None, "offset": 0, "error": None, "finished": False}


def write_delivered(folder: Path, delivered: dict[str, Any]) -> None:
    """Replace the state in one move, so that a killed sender leaves the old one or the new one."""
    hidden = folder / f".{DELIVERED}"
    hidden.write_text(json.dumps(delivered))
    hidden.replace(folder / DELIVERED)


@contextmanager
def claim(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold the lock file at `path`; yields False where its folder is gone or, without waiting, where another
    process holds it."""
    try:
        file = path.open("a")
    except FileNotFoundError:
        yield False
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True

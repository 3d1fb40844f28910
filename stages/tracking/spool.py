"""The spool: a folder per run that holds its events until MLflow has them.

    .spool/<id>/events.jsonl     one event per line; the stage appends, and holds a lock on it while it lives
    .spool/<id>/artifacts/       copies of the logged files
    .spool/<id>/delivered.json   how far the sender is, and the error that it met last
    .spool/<id>/sender.log       what went wrong
    .spool/.damaged/<id>/        delivered runs some of whose lines could not be read

The stage writes and never reads; the sender (sender.py) reads and never writes to the events.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from stages.tracking.delivered import peek
from stages.tracking.events import EVENTS, undelivered

MOST_UNWRITTEN = 2**24  # bytes that wait in memory while the disk is full


class Spool:
    """The stage's end: appends events, and never raises, because tracking must not stop a training."""

    def __init__(self, root: Path, start: dict[str, Any], finish_timeout: float) -> None:
        name = time.strftime("%Y%m%d-%H%M%S-") + uuid.uuid4().hex[:8]
        # Built under a hidden name and renamed when it holds a lock and a first event: another run's sender
        # that looks through the spool never takes it for one that was left behind.
        hidden = root / f".{name}"
        hidden.mkdir(parents=True)
        self.folder = root / name
        self._finish_timeout = finish_timeout
        self._events = (hidden / EVENTS).open("ab", buffering=0)
        fcntl.flock(self._events, fcntl.LOCK_EX)
        self._unwritten = b""
        self._healthy = True
        self.sender: subprocess.Popen[Any] | None = None  # started when the folder is there
        self.write({**start, "id": name})
        hidden.rename(self.folder)

    def write(self, event: dict[str, Any]) -> None:
        """Append one event; an artifact is copied first. The first failure is told, later ones are silent."""
        try:
            if event["event"] == "artifact":
                event = {**event, "path": self._copy(Path(event["path"]))}
            self._append(json.dumps(event, default=str).encode() + b"\n")
        except Exception as error:  # whatever a value or the disk does, the training goes on
            if self._healthy:
                self._say(f"not all of this run may be tracked: {self.folder}: {error}")
            self._healthy = False

    def flush(self) -> None:
        """Every line is written when it is logged: nothing waits."""

    def close(self) -> None:
        """Let go of the lock, and give the sender a moment. What it has not delivered then is told."""
        try:
            self._append(b"")
        except OSError as error:
            lost = self._unwritten.count(b"\n")
            self._say(f"the last {lost} events of this run are lost: {self.folder}: {error}")
        try:
            self._events.close()
            self._wait()
        except (
            Exception
        ) as error:  # the stage's work is done, and its output must not be lost to its tracking
            self._say(f"this run may not be in MLflow yet: {self.folder}: {error}")

    def _append(self, line: bytes) -> None:
        """What a full disk did not take goes first, from the byte on at which it stopped: no line is ever spoilt."""
        if len(self._unwritten) < MOST_UNWRITTEN:
            self._unwritten += line
        while self._unwritten:
            self._unwritten = self._unwritten[os.write(self._events.fileno(), self._unwritten) :]

    def _wait(self) -> None:
        """Until all is delivered, the time is up, or the sender has failed. Then a word."""
        deadline = time.monotonic() + self._finish_timeout
        while self.folder.exists():
            error, works = peek(self.folder).error, self.sender is not None and self.sender.poll() is None
            if error is not None or not works or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        else:
            return
        self._tell_rest(error, works)

    def _tell_rest(self, error: str | None, works: bool) -> None:
        try:
            count = undelivered(self.folder, peek(self.folder).offset)
        except FileNotFoundError:  # delivered in this moment
            return
        reason = f" ({error})" if error else "" if works else f" (see {self.folder / 'sender.log'})"
        kind = "warning" if reason else "note"  # a busy machine takes its time
        events = f"{count} event{'s' * (count != 1)} of this run"
        if not reason:
            self._say(
                f"{events} are on their way to MLflow; what does not arrive, the next run delivers", kind
            )
            return
        self._say(f"MLflow has not taken {events} yet{reason}", kind)
        now = "a process in the background goes on, and what it cannot deliver, the next run delivers"
        rest = now if works else "the next run delivers them"
        print(f"  they wait in {self.folder}: {rest}", file=sys.stderr)

    def _say(self, text: str, kind: str = "warning") -> None:
        print(f"{kind}: {text}", file=sys.stderr)

    def _copy(self, source: Path) -> str:
        target = self.folder / "artifacts" / source.name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            shutil.copyfile(source, target)
        return f"artifacts/{source.name}"

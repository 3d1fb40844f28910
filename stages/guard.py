"""No two runs of a stage at once, and none that outlives the process that asked for it."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from stages.config.errors import UserError
from stages.tracking.provenance import command_line, is_dvc

# Set by the dispatcher of a sweep: the id of its process.
DISPATCHER = "TREELINE_DISPATCHER"


@contextmanager
def lock(path: Path, stage: str) -> Iterator[None]:
    """Hold `path` while the stage runs; the first process of a multi-process run holds it for all.

    Raises UserError where another run of the stage holds it. The system releases it when the process dies.
    """
    if int(os.environ.get("RANK", "0")) != 0:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read() or "unknown"
            raise UserError(
                f"another run of {stage} is at work here (process {holder}): wait for it to end, or stop it"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def stop_with_parent() -> None:
    """End this process when the dvc or the sweep above it, or a launcher between them, is gone.

    Killing dvc alone leaves its commands running, and the next repro would run beside them.
    """
    above = _commissioners()
    if not above:
        return

    def watch() -> None:
        while all(map(alive, above)):
            time.sleep(0.5)
        os._exit(1)  # at once, as a kill would: the next run goes on from the last checkpoint

    threading.Thread(target=watch, name="stop-with-parent", daemon=True).start()


def _commissioners() -> list[psutil.Process]:
    """The processes above this one, up to the dvc or the sweep that asked for it; none where it runs by hand."""
    above: list[psutil.Process] = []
    dispatcher = os.environ.get(DISPATCHER)
    for process in psutil.Process().parents():
        above.append(process)
        if str(process.pid) == dispatcher or ("DVC_STAGE" in os.environ and is_dvc(command_line(process))):
            return above
    return []


def alive(process: psutil.Process) -> bool:
    """A zombie is dead: it is only waiting to be buried."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

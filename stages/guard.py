"""No two runs of a stage at once, and none that outlives the dvc that started it."""

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
            raise UserError(f"{stage} already runs here (process {holder}): wait for it, or stop it") from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def stop_with_dvc() -> None:
    """End this process when the dvc above it, or the launcher between them, is gone.

    Killing dvc alone leaves its commands running, and the next repro would run beside them.
    """
    if "DVC_STAGE" not in os.environ:
        return
    above = []
    for process in psutil.Process().parents():
        above.append(process)
        if is_dvc(command_line(process)):
            break
    else:
        return  # started by hand, with DVC_STAGE set

    def watch() -> None:
        while all(process.is_running() for process in above):
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, name="stop-with-dvc", daemon=True).start()

"""No two runs of a stage at once, and none that outlives the process that asked for it.

It is imported before all else (see stages/__init__.py), and so it imports nothing of torch.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from stages.config.errors import UserError

# Set by the dispatcher of a sweep: the id of its process.
DISPATCHER = "TREELINE_DISPATCHER"
LAUNCHERS = (
    "accelerate",
    "accelerate-launch",
    "accelerate.commands.launch",
    "torchrun",
    "torch.distributed.run",
)
PR_SET_PDEATHSIG = 1  # linux/prctl.h


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
    """End this process with the dvc or the sweep that asked for it, or with a launcher between them; at once, where one
    of them is gone already.

    Killing dvc alone leaves its commands running, and the next repro would run beside them. A stage that looked only
    after its long imports would not find a dvc that died before.
    """
    parents = psutil.Process().parents()
    if "DVC_STAGE" in os.environ:
        above = _up_to(parents, lambda process: is_dvc(command_line(process)))
        reason = (
            "DVC_STAGE is set, and no dvc is above this process: it was stopped, or the variable is left over"
        )
    elif DISPATCHER in os.environ:
        above = _up_to(parents, lambda process: str(process.pid) == os.environ[DISPATCHER])
        reason = "the sweep that asked for this stage was stopped"
    else:  # by hand, where only a launcher can be lost
        above = _up_to(parents[:1], lambda process: is_launcher(command_line(process)))
        reason = ""
    if above:
        _end_with(above)
    elif reason:
        print(f"error: {reason}", file=sys.stderr, flush=True)
        os._exit(1)


def _up_to(parents: list[psutil.Process], last: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    """The processes above this one up to the nearest that is asked for; none where there is none."""
    for depth, process in enumerate(parents, 1):
        if last(process):
            return parents[:depth]
    return []


def _end_with(above: list[psutil.Process]) -> None:
    """The system tells of the process right above without delay (on Linux); the others are asked twice a second."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    def watch() -> None:
        while all(map(alive, above)):
            time.sleep(0.5)
        os._exit(1)  # at once, as a kill would: the next run goes on from the last checkpoint

    threading.Thread(target=watch, name="stop-with-parent", daemon=True).start()


def dispatcher() -> int:
    """The process that a job of a sweep ends with: the one that was set, or this one, on another machine."""
    known = {str(process.pid) for process in [psutil.Process(), *psutil.Process().parents()]}
    named = os.environ.get(DISPATCHER, "")
    return int(named) if named in known else os.getpid()


def command_line(process: psutil.Process) -> list[str]:
    """The arguments of a process; none where the system hides them."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def is_dvc(arguments: list[str]) -> bool:
    """Whether a command line is dvc's: `dvc …`, `python …/bin/dvc …` or `python -m dvc …`."""
    return "dvc" in _program(arguments)


def is_launcher(arguments: list[str]) -> bool:
    """Whether a command line is that of what starts a stage's processes, and waits for them."""
    return any(name in LAUNCHERS for name in _program(arguments))


def _program(arguments: list[str]) -> list[str]:
    """What runs, and where that is Python, what it runs: a file's name or a module's. `-X` and `-W` take a value."""
    names = [Path(argument).name for argument in arguments]
    if not names or not names[0].lower().startswith("python"):
        return names[:1]
    rest = iter(names[1:])
    for name in rest:
        if name in ("-X", "-W"):
            next(rest, None)
        elif name == "-m" or not name.startswith("-"):
            return [next(rest, "") if name == "-m" else name]
    return []


def alive(process: psutil.Process) -> bool:
    """A zombie is dead: its parent has not asked for its exit code yet."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

"""Progress bars: live on a terminal, and in a log a line now and then."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from io import StringIO
from typing import Any

from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

LOG_SECONDS = 30.0  # between two lines of a log
LINE = "{l_bar} {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


def progress(items: Iterable | None = None, **options: Any) -> tqdm:
    """tqdm with its own `options`; lines where stderr is a file or a pipe, in which a bar would pile up in one."""
    return tqdm(items, **options) if sys.stderr.isatty() else LogLines(items, **options)


def say(text: str) -> None:
    """A line of stdout, above the bars of a terminal."""
    tqdm.write(text)
    sys.stdout.flush()


class LogLines(tqdm):
    """A state of the bar, every half a minute at most, as a line of stderr."""

    monitor_interval = 0  # no thread that draws bars which stand still

    def __init__(self, items: Iterable | None = None, **options: Any) -> None:
        timing: dict[str, Any] = {"mininterval": LOG_SECONDS, "miniters": 1}
        super().__init__(items, file=StringIO(), bar_format=LINE, **timing, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if line := str(self) if msg is None else msg:
            print(line, file=sys.stderr, flush=True)

    def set_postfix(self, *values: Any, **named: Any) -> None:
        """Shown with the next line: by itself tqdm would draw at once."""
        super().set_postfix(*values, **named | {"refresh": False})


def quiet_libraries() -> None:
    """Leave out what says nothing to a user: at every checkpoint, that tied weights are written once; and in a log,
    transformers' bars of loading weights."""
    logging.getLogger("accelerate.utils.other").addFilter(
        lambda record: "Removed shared tensor" not in record.getMessage()  # behind the rank
    )
    if not sys.stderr.isatty():
        disable_progress_bar()

"""Progress bars: live on a terminal, and in a log a line now and then."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

LOG_SECONDS = 30.0  # between two lines of a log


def progress(items: Iterable | None = None, **options: Any) -> tqdm:
    """tqdm with its own `options`. Where stderr is a file or a pipe, bars would pile up in one long line."""
    if sys.stderr.isatty():
        return tqdm(items, **options)
    return tqdm(items, file=Lines(), mininterval=LOG_SECONDS, maxinterval=LOG_SECONDS, ncols=100, **options)


def quiet_libraries() -> None:
    """Where stderr is not a terminal, no bars of transformers' own, which show for a second as weights are loaded."""
    if not sys.stderr.isatty():
        disable_progress_bar()


class Lines:
    """A text stream for tqdm: each state of the bar becomes a line of stderr."""

    def write(self, text: str) -> None:
        """Carriage returns and the blanks that wipe a bar are left out."""
        if line := text.strip():
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Nothing is held back."""

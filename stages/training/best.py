"""The weights of the best step so far, on disk: only what is trained, written and checked as a checkpoint is."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from accelerate import Accelerator
from torch import nn

from stages.disk import remove
from stages.seal import first_damaged
from stages.training.state import load_weights, misfit, save_weights, trained_bytes
from stages.training.whole import write_whole

BEST = "best-"  # and its step


class BestWeights:
    """A folder for each such step, beside the checkpoints. A resumed run needs the best weights that its checkpoint's
    story names, so those that either of the two checkpoints names stay, beside the newest: three at most."""

    def __init__(self, folder: Path, module: nn.Module, accelerator: Accelerator) -> None:
        self.folder, self.module, self.accelerator = folder, module, accelerator

    def save(self, step: int, named_steps: Callable[[], Collection[int]]) -> None:
        """Write the present weights as those of `step`. Of earlier ones those of `named_steps`, which checkpoints name,
        stay. The others are removed first, to make room: no run resumes from them. Raises Unwritable where the disk is
        full."""

        def fill(folder: Path) -> None:
            stay = {self._path(other) for other in named_steps()} - {self._path(step)}
            for path in set(self.folder.glob(f"{BEST}*")) - stay:
                remove(path)
            save_weights(folder, self.module)

        if self.accelerator.is_main_process:
            write_whole(self._path(step), trained_bytes(self.module), fill)
        self.accelerator.wait_for_everyone()

    def fault(self, step: int) -> str | None:
        """Why the weights of a step cannot be used; None where they can."""
        path = self._path(step)
        if name := first_damaged(path):
            return f"{name} of {path.name} is missing or damaged"
        return misfit(path, self.module)

    def load(self, step: int) -> None:
        """Load the weights of a step into the module, in every process."""
        load_weights(self._path(step), self.module)

    def _path(self, step: int) -> Path:
        return self.folder / f"{BEST}{step}"

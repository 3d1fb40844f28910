"""Checkpoints: written to one side, then renamed, and checked before they are read, so that there is always one, or the
start, to go on from."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer

from stages.disk import remove, sweep, write_out, writing
from stages.distributed import max_over_ranks
from stages.seal import first_damaged, seal
from stages.training.computing import computing
from stages.training.state import load_state, misfit, save_state
from stages.workspace import CHECKPOINT, continuation

log = logging.getLogger(__name__)

PARTIAL = "partial-"
DAMAGED = "damaged-"
STORY = "story.json"  # the step's number, the tracker's state, and what computed it


class Checkpoints:
    """The last two of one run: what `optimizer` moves in `module`, and its state. Between two steps there is no
    experience in flight, and the schedule and all randomness follow from the step's number: nothing else is kept."""

    def __init__(
        self, folder: Path, module: nn.Module, optimizer: Optimizer, accelerator: Accelerator
    ) -> None:
        self.folder = folder
        self.module, self.optimizer = module, optimizer
        self.accelerator = accelerator
        self.computing = computing(accelerator) | {"processes": str(accelerator.num_processes)}

    def save(self, step: int, tracker_state: dict) -> None:
        """Write the state after `step` steps; the one before it stays. Raises Unwritable where the disk is full."""
        if self.accelerator.is_main_process:
            partial = self.folder / f"{PARTIAL}{step}"
            try:
                with writing(partial, self._size(), lambda: continuation(self.folder)):
                    self._write(partial, step, tracker_state)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
        self.accelerator.wait_for_everyone()

    def _write(self, partial: Path, step: int, tracker_state: dict) -> None:
        for older in self._steps()[:-1]:  # makes room for this one
            remove(self._path(older))
        partial.mkdir(parents=True)
        save_state(partial, self.module, self.optimizer)
        story = {"step": step, "tracker": tracker_state, "computing": self.computing}
        (partial / STORY).write_text(json.dumps(story))
        seal(partial)
        write_out(*partial.iterdir(), partial)
        partial.rename(self._path(step))
        write_out(self.folder)

    def restore(self) -> tuple[int, dict]:
        """Load the newest checkpoint that is whole: how many steps it has seen (0: there is none) and the tracker's
        state. One that is not is set aside and named. Every process takes the same one."""
        if self.accelerator.is_main_process:
            self._tidy()
        while step := self._agree(max(self._steps(), default=0) if self.accelerator.is_main_process else 0):
            path = self._path(step)
            fault = self._fault(path, step)
            if not self._agree(fault is not None):
                load_state(path, self.module, self.optimizer)
                story = json.loads((path / STORY).read_text())
                if self.accelerator.is_main_process:
                    self._warn(story["computing"])
                return step, story["tracker"]
            if self.accelerator.is_main_process:
                self._set_aside(path, fault or "another process cannot read it")
            self.accelerator.wait_for_everyone()
        return 0, {"metrics": []}

    def _agree(self, number: int) -> int:
        """The highest of all processes'."""
        return int(max_over_ranks(torch.tensor(int(number), device=self.accelerator.device)))

    def _fault(self, path: Path, step: int) -> str | None:
        if name := first_damaged(path):
            return f"{name} is missing or damaged"
        written = json.loads((path / STORY).read_text())["step"]
        return misfit(path, self.module) if written == step else f"it is that of step {written}"

    def _tidy(self) -> None:
        """What killed runs left, and names that no run has given."""
        if not self.folder.exists():
            return
        sweep(self.folder)
        for path in sorted(self.folder.iterdir()):
            if path.name.startswith(PARTIAL):
                remove(path)
            elif path.name.startswith(CHECKPOINT) and _step(path) is None:
                self._set_aside(path, "its name has no step's number")

    def _set_aside(self, path: Path, fault: str) -> None:
        """Out of the way, for whoever wants to look into it, until the stage has succeeded."""
        aside = path.with_name(f"{DAMAGED}{path.name}")
        remove(aside)
        path.rename(aside)
        log.warning("the checkpoint %s cannot be used (%s); it is now %s", path, fault, aside.name)

    def _warn(self, before: dict[str, str]) -> None:
        """Where this process computes in another way than the one that was killed."""
        changes = [
            f"{name} {before.get(name)} -> {now}"
            for name, now in self.computing.items()
            if before.get(name) != now
        ]
        if changes:
            log.warning(
                "warning: this run resumes under other conditions than it began (%s): its bits will not be those of a "
                "run that was not stopped",
                ", ".join(changes),
            )

    def _steps(self) -> list[int]:
        """In order."""
        return sorted(step for path in self.folder.glob(f"{CHECKPOINT}*") if (step := _step(path)))

    def _path(self, step: int) -> Path:
        return self.folder / f"{CHECKPOINT}{step}"

    def _size(self) -> int:
        """About: what is trained, and two moments of it."""
        trained = (parameter for parameter in self.module.parameters() if parameter.requires_grad)
        return 3 * sum(parameter.numel() * parameter.element_size() for parameter in trained)


def _step(path: Path) -> int | None:
    found = re.fullmatch(f"{CHECKPOINT}([1-9][0-9]*)", path.name)
    return int(found[1]) if found else None

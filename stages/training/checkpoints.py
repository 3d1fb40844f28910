"""Checkpoints: written to one side, then renamed, and checked before they are read, so that there is always one, or the
start, to go on from."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer

from stages.disk import remove, sweep
from stages.distributed import max_over_ranks
from stages.seal import first_damaged
from stages.training.best import BestWeights
from stages.training.computing import computing
from stages.training.state import load_state, misfit, save_state, trained_bytes
from stages.training.whole import PARTIAL, write_whole
from stages.workspace import CHECKPOINT

log = logging.getLogger(__name__)

DAMAGED = "damaged-"
STORY = "story.json"  # a Story, and what computed it


class Story(NamedTuple):
    """What a checkpoint knows beside tensors: how many steps it has seen, and the states of the tracker and of the
    selection, of which `best_step` names the best weights so far, if there are any."""

    step: int
    tracker: dict[str, Any]
    selection: dict[str, Any]


class Checkpoints:
    """The last two of one run: what `optimizer` moves in `module`, and its state. Between two steps there is no
    experience in flight, and the schedule and all randomness follow from the step's number: nothing else is kept."""

    def __init__(
        self,
        folder: Path,
        module: nn.Module,
        optimizer: Optimizer,
        best: BestWeights,
        accelerator: Accelerator,
    ) -> None:
        self.folder, self.best = folder, best
        self.module, self.optimizer = module, optimizer
        self.accelerator = accelerator
        self.computing = computing(accelerator) | {"processes": str(accelerator.num_processes)}

    def save(self, story: Story) -> None:
        """Write the state after `story.step` steps; the one before it stays. Raises Unwritable where a disk is full."""

        def fill(folder: Path) -> None:
            for older in self._steps()[:-1]:  # makes room for this one
                remove(self._path(older))
            save_state(folder, self.module, self.optimizer)
            (folder / STORY).write_text(json.dumps(story._asdict() | {"computing": self.computing}))

        if self.accelerator.is_main_process:
            # the weights, and two moments of them
            write_whole(self._path(story.step), 3 * trained_bytes(self.module), fill)
        self.accelerator.wait_for_everyone()

    def best_steps(self) -> set[int]:
        """The steps whose best weights the checkpoints name; one with a damaged story, which is no use, names none."""
        stories = [self._path(step) / STORY for step in self._steps()]
        whole = [json.loads(story.read_text()) for story in stories if not first_damaged(story)]
        return {story["selection"]["best_step"] for story in whole} - {None}

    def restore(self) -> Story | None:
        """Load the newest checkpoint that is whole; None: there is none. One that is not is set aside and named. Every
        process takes the same one."""
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
                return Story(step, story["tracker"], story["selection"])
            if self.accelerator.is_main_process:
                self._set_aside(path, fault or "another process cannot read it")
            self.accelerator.wait_for_everyone()
        return None

    def _agree(self, number: int) -> int:
        """The highest of all processes'."""
        return int(max_over_ranks(torch.tensor(int(number), device=self.accelerator.device)))

    def _fault(self, path: Path, step: int) -> str | None:
        if name := first_damaged(path):
            return f"{name} is missing or damaged"
        story = json.loads((path / STORY).read_text())
        if story["step"] != step:
            return f"it is that of step {story['step']}"
        best = story["selection"]["best_step"]
        return misfit(path, self.module) or (None if best is None else self.best.fault(best))

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


def _step(path: Path) -> int | None:
    found = re.fullmatch(f"{CHECKPOINT}([1-9][0-9]*)", path.name)
    return int(found[1]) if found else None

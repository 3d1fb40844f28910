"""Checkpoints: written to one side, then renamed, so that there is always a whole one to go on from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from accelerate import Accelerator

from stages.workspace import write_out

PREFIX = "step-"


class Checkpoints:
    """The newest checkpoint of one run. Between two steps there is no experience in flight, and a step's randomness
    follows from its number, so weights, optimizer, scheduler and the step's number are all there is to keep."""

    def __init__(self, folder: Path, accelerator: Accelerator) -> None:
        self.folder = folder
        self.accelerator = accelerator

    def save(self, step: int, tracker_state: dict) -> None:
        """Write the state after `step` steps and drop the older one."""
        target = self.folder / f"{PREFIX}{step}"
        partial = self.folder / f"partial-{step}"
        self.accelerator.save_state(str(partial))
        self.accelerator.wait_for_everyone()  # every process writes a file of its own there
        if self.accelerator.is_main_process:
            (partial / "tracker.json").write_text(json.dumps(tracker_state))
            write_out(*partial.rglob("*"), partial)
            partial.rename(target)
            write_out(self.folder)
            for older in self.folder.iterdir():
                if older != target:
                    shutil.rmtree(older, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def restore(self) -> tuple[int, dict]:
        """Load the newest whole checkpoint: how many steps it has seen (0: there is none) and the tracker's state."""
        found = sorted((int(path.name.removeprefix(PREFIX)), path) for path in self.folder.glob(f"{PREFIX}*"))
        if not found:
            return 0, {"metrics": []}
        step, path = found[-1]
        self.accelerator.load_state(str(path))
        return step, json.loads((path / "tracker.json").read_text())

"""One of two processes of a training that is killed and goes on: started by test_checkpoints.py, twice."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from unittest.mock import patch

from accelerate import PartialState

from stages.training import checkpoints
from tests.training.test_checkpoints import flip, names, same, train


def main(folder: Path) -> None:
    """Whole; killed with the newest checkpoint damaged; and with one that the second process alone cannot read."""
    whole = train(folder / "whole")
    rank = PartialState().process_index
    assert PartialState().num_processes == 2
    train(folder / "cut", dies_at=4)
    PartialState().wait_for_everyone()
    if rank == 0:
        assert names(folder / "cut") == ["step-2", "step-3"]
        flip(folder / "cut" / "step-3" / "weights.safetensors", -1)
    PartialState().wait_for_everyone()
    train(folder / "cut", dies_at=2)  # from step 2; step 3 is done again
    PartialState().wait_for_everyone()
    assert names(folder / "cut") == ["damaged-step-3", "step-2", "step-3"]
    first_damaged = checkpoints.first_damaged

    def unreadable(path: Path) -> str | None:
        return "weights.safetensors" if rank == 1 and path.name == "step-3" else first_damaged(path)

    with patch.object(checkpoints, "first_damaged", unreadable):
        assert same(train(folder / "cut"), whole)
    (folder / f"fine-{rank}").touch()
    sys.stdout.flush()
    os._exit(0)  # gloo aborts at an orderly exit now and then


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""One of two processes of a training that is killed and goes on: started by test_checkpoints.py, twice."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from unittest.mock import patch

from accelerate import PartialState

from stages.training import checkpoints
from stages.training.evaluation import Evaluation
from tests.algorithms.tiny import examples_of, make, settings_of
from tests.models.tiny import tiny_llama
from tests.training.test_checkpoints import flip, names, same, train
from tests.training.tiny import run


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
    agree_on_the_best(folder / "best", rank)
    (folder / f"fine-{rank}").touch()
    sys.stdout.flush()
    os._exit(0)  # gloo aborts at an orderly exit now and then


def agree_on_the_best(folder: Path, rank: int) -> None:
    """The second process measures what would have it keep another step and stop; both go by the first one's numbers."""
    algorithm, states = make("sft", tiny_llama(num_hidden_layers=1)), []
    counts = [[3, 9, 8, 8, 8, 8], [9, 0, 0, 0, 0, 0]][rank]

    def evaluate() -> Evaluation:
        right = counts[len(states)]
        states.append({key: value.clone() for key, value in algorithm.state_dict().items()})
        return Evaluation({}, [1.0] * right + [0.0] * (10 - right), [1.0] * 10)

    settings = settings_of("sft", max_steps=5, eval_steps=1)
    outcome = run(algorithm, examples_of("sft"), settings, folder, evaluate=evaluate).outcome
    assert (outcome.kept_step, outcome.last_step, outcome.value) == (1, 5, 0.9)
    assert same(algorithm.state_dict(), states[1])


if __name__ == "__main__":
    main(Path(sys.argv[1]))

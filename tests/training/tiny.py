"""One run of the real loop on a tiny model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from accelerate import Accelerator

from stages.algorithms.base import Algorithm
from stages.data.examples import Example
from stages.outcome import Outcome
from stages.tracking.tracker import Event, Tracker
from stages.training.answers import GOLD
from stages.training.evaluation import Criterion, Evaluation, HeldOut
from stages.training.loop import Schedule, train
from stages.training.meter import Meter


class Memory:
    """A tracker's sink that keeps its events."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.outcome: Outcome

    def write(self, event: Event) -> None:
        self.events.append(event)

    def flush(self) -> None: ...

    def close(self) -> None: ...

    def curve(self, name: str) -> dict[int, float]:
        metrics = [event for event in self.events if name in event["metrics"]]
        return {event["step"]: event["metrics"][name] for event in metrics}


def run(
    algorithm: Algorithm, examples: Sequence[Example], settings: Any, folder: Path, *, save_steps: int = 1000,
    evaluate: Callable[[], Evaluation] = Evaluation, criterion: Criterion = GOLD,
    held_out: Sequence[Example] = (),
) -> Memory:  # fmt: skip
    """Train to the end, or as far as `evaluate` lets it; returns what was logged, and what the run came to."""
    memory = Memory()
    references = folder.with_name(f"{folder.name}.reference")
    schedule = Schedule(seed=3, save_steps=save_steps, checkpoints=folder, references=references)
    with patch.object(
        Meter, "gemm_rate", 1e12
    ):  # half a second of products, which no test of the loop looks at
        memory.outcome = train(
            algorithm, examples, settings, schedule, Accelerator(cpu=True), Tracker([memory]),
            HeldOut(criterion, evaluate, held_out),
        )  # fmt: skip
    return memory

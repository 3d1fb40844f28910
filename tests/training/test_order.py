"""The order of examples and the schedule: pure functions of the seed and the step."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from stages.algorithms.sft import SFT
from stages.training.optimizer import make_optimizer, make_scheduler
from stages.training.order import seed_step, step_indices, total_steps
from tests.algorithms.tiny import settings_of


def test_each_epoch_visits_every_row_once_in_a_new_order():
    epochs = [
        [i for step in range(e * 3, e * 3 + 3) for i in step_indices(step, 12, 4, seed=1)] for e in range(2)
    ]
    assert [sorted(epoch) for epoch in epochs] == [list(range(12))] * 2
    assert epochs[0] != epochs[1]


def test_incomplete_last_batch_is_left_out():
    steps = [step_indices(step, 10, 4, seed=1) for step in range(4)]
    assert [len(step) for step in steps] == [4] * 4
    assert len({*steps[0], *steps[1]}) == 8  # one epoch is two steps of 4 different rows
    assert sorted(step_indices(5, 3, 4, seed=1)) == [
        0,
        1,
        2,
    ]  # fewer rows than a batch: all of them, every step


def test_a_step_depends_on_seed_and_step_alone():
    expected = step_indices(5, 100, 8, seed=1)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    for other in range(5):
        step_indices(other, 100, 8, seed=2)
    assert step_indices(5, 100, 8, seed=1) == expected
    assert step_indices(5, 100, 8, seed=2) != expected


def test_randomness_of_a_step_follows_from_seed_step_and_rank():
    def draws(*key: int) -> tuple[float, float, float]:
        seed_step(*key)
        return float(torch.rand(())), float(np.random.rand()), random.random()

    expected = draws(1, 2, 0)
    draws(1, 3, 0)
    assert draws(1, 2, 0) == expected
    others = [draws(1, 2, 1), draws(1, 3, 0), draws(2, 2, 0), draws(2, 1, 0)]
    assert len({expected, *others}) == 5


def test_new_tensors_are_not_filled_though_steps_are_deterministic():
    seed_step(1, 2, 0)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory


@pytest.mark.parametrize(
    ("changes", "rows", "steps"),
    [
        ({"num_train_epochs": 1, "batch_size": 4}, 10, 2),
        ({"num_train_epochs": 3, "batch_size": 4}, 8, 6),
        ({"num_train_epochs": 0.5, "batch_size": 4}, 16, 2),
        ({"num_train_epochs": 2, "batch_size": 16}, 5, 2),
        ({"num_train_epochs": 0.01, "batch_size": 4}, 8, 1),
        ({"num_train_epochs": 9, "max_steps": 7}, 8, 7),
    ],
)
def test_number_of_steps(changes: dict, rows: int, steps: int):
    assert total_steps(rows, settings_of("sft", **changes)) == steps


@pytest.mark.parametrize(
    ("kind", "rates"),
    [
        # 8 steps, a quarter of them warm-up: 1/3, 2/3, then from 1 down to 1/6 over the 6 others
        ("linear", [1 / 3, 2 / 3, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ("constant", [1] * 8),
        ("constant_with_warmup", [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1]),
        # (1 + cos(pi k / 6)) / 2 for k = 0 .. 5
        ("cosine", [1 / 3, 2 / 3, 1, 0.933013, 0.75, 0.5, 0.25, 0.066987]),
    ],
)
def test_schedules_by_hand(kind: str, rates: list[float]):
    settings = settings_of("sft", lr_scheduler_type=kind, warmup_ratio=0.25, learning_rate=0.01)
    optimizer = make_optimizer(SFT(torch.nn.Linear(2, 2)), settings)
    scheduler = make_scheduler(optimizer, settings, 8)
    seen = []
    for _ in range(8):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert seen == pytest.approx([0.01 * rate for rate in rates], abs=1e-8)


def test_only_matrices_decay_and_only_what_is_trained_is_optimised():
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3), torch.nn.Linear(3, 3))
    module[2].requires_grad_(False)
    groups = make_optimizer(SFT(module), settings_of("sft", weight_decay=0.1)).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(1, 0.1), (3, 0.0)]

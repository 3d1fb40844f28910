"""What every online algorithm notes of its own samples: whether the reward that it climbs is still right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

import stages.training.update
from stages.algorithms.batch import batch_of
from stages.algorithms.parts import Parts
from stages.algorithms.rollouts import observe_gold, roll_out
from stages.algorithms.sft import SFT
from stages.data.examples import Example
from stages.rewards.rewards import Rewards
from stages.rollout.rollout import Rollout
from stages.training.update import Updates
from stages.trees import Tree
from tests.algorithms.tiny import Ranks, make, settings_of
from tests.models.tiny import tiny_llama, tree

# Two prompts of four completions: what the reward says, what the verifier says, which ended.
REWARDS = [3.0, 1.0, 2.0, 2.0, 1.0, 1.0, 5.0, 0.0]
MARKS = [1.0, 0.0, 1.0, 0.9, 1.0, None, 0.0, 0.0]  # the fourth is partly right, the sixth has no answer
FINISHED = [[True, True, True, True], [True, True, False, True]]
NAMES = ["gold_accuracy", "reward_accuracy", "scores_right", "scores_wrong"]


class Source:
    """A reward that counts how often it is asked."""

    def __init__(self, scores: Sequence[float | None]) -> None:
        self.scores, self.calls = scores, 0

    def __call__(self, examples: Sequence[Example], trees: Sequence[Tree]) -> Sequence[float | None]:
        self.calls += 1
        return self.scores


class Drawn:
    """A sampler that drew this."""

    def sample(self, prompts: Sequence[list[int]], *_: object) -> list[Rollout]:
        rows = [[10, 11], [12], [13, 14], [15]]
        return [
            Rollout.of(p, rows, [[-1.0] * len(r) for r in rows], f)
            for p, f in zip(prompts, FINISHED, strict=True)
        ]


def observed(rewards: Rewards, verifier: Source | None, **changes: float) -> dict[str, list[float]]:
    algorithm = make("rloo")
    parts = replace(algorithm.parts, rewards=rewards, verifier=verifier)
    parts.__dict__["sampler"] = Drawn()
    examples = [Example(tree([1, 2]), "", None, {})] * 2
    roll_out(algorithm, parts, batch_of(examples), settings_of("rloo", **changes))
    return {name: torch.cat(values).tolist() for name, values in algorithm.observed.items()}


def test_the_reward_is_held_against_the_verifier():
    learned, verifier = Source(REWARDS), Source(MARKS)
    seen = observed(Rewards({"reward_model": learned}, {"reward_model": 1.0}), verifier)
    assert verifier.calls == 1
    assert seen["objective/gold_accuracy"] == [1, 0, 1, 0, 1, 0, 0, 0]
    # 3 and 2 against 1 and 2; 1 against 1, 5 and 0: five of seven pairs
    assert seen["objective/reward_accuracy"] == [1.0, 1.0, 1.0, 0.5, 0.5, 0.0, 1.0]
    assert seen["objective/scores_right"] == [3.0, 2.0, 1.0]
    assert seen["objective/scores_wrong"] == [1.0, 2.0, 1.0, 5.0, 0.0]


def test_the_penalty_is_part_of_what_is_climbed():
    """The completion of score 5 was cut off: with 4.5 less it is below the right one."""
    seen = observed(
        Rewards({"reward_model": Source(REWARDS)}, {"reward_model": 1.0}),
        Source(MARKS),
        missing_eos_penalty=4.5,
    )
    assert seen["objective/reward_accuracy"] == [1.0, 1.0, 1.0, 0.5, 0.5, 1.0, 1.0]
    assert seen["objective/scores_wrong"] == [1.0, 2.0, 1.0, 0.5, 0.0]


def test_a_verifier_that_is_a_reward_is_called_once():
    verifier = Source(MARKS)
    weights = {"verifier": 0.0001, "reward_model": 1.0}
    seen = observed(Rewards({"verifier": verifier, "reward_model": Source(REWARDS)}, weights), verifier)
    assert verifier.calls == 1
    assert seen["objective/gold_accuracy"] == [1, 0, 1, 0, 1, 0, 0, 0]


def test_without_a_verifier_nothing_is_said():
    seen = observed(Rewards({"reward_model": Source(REWARDS)}, {"reward_model": 1.0}), None)
    assert not {f"objective/{name}" for name in NAMES} & set(seen)


def test_ranks_weigh_by_their_pairs(monkeypatch: pytest.MonkeyPatch):
    """One rank has three pairs, the other one; and a step of only right ones has no pair and no wrong score."""
    scores = [torch.tensor([2.0, 1.0, 3.0, 1.0]), torch.tensor([1.0, 2.0, 2.0, 2.0])]
    right = [torch.tensor([True, False, False, False]), torch.tensor([True, False, True, True])]
    ranks = Ranks(2)
    monkeypatch.setattr(stages.training.update, "sum_over_ranks", ranks.sum)

    def work(rank: int) -> list[dict[str, float]]:
        algorithm = SFT(tiny_llama())
        updates = Updates.__new__(Updates)
        updates.algorithm, updates.accelerator = algorithm, torch.zeros(())  # of which only .device is asked
        found = []
        for flags in (right[rank], torch.ones(4, dtype=torch.bool)):
            observe_gold(algorithm, scores[rank], flags, 2 if rank else 4)
            found.append(updates._observed())
        return found

    first, second = ranks.run(work)[0]
    # 2 against 1, 3, 1 gives 1, 0, 1; then 1 against 2 gives 0: 2 of 4, where ranks alone have 2/3 and 0
    assert first["objective/reward_accuracy"] == 0.5
    assert first["objective/gold_accuracy"] == 0.5
    assert first["objective/scores_right"] == 7 / 4 and first["objective/scores_wrong"] == 7 / 4
    assert math.isnan(second["objective/reward_accuracy"]) and math.isnan(second["objective/scores_wrong"])
    assert second["objective/scores_right"] == 14 / 8


def test_parts_need_no_verifier():
    assert Parts(tiny_llama(), [2], torch.float32, Rewards({}, {})).verifier is None

"""The reward on the models' own samples: pairs by hand, intervals that know which pairs are of one prompt."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stages.evaluation.answer import Answer, Sample
from stages.evaluation.bootstrap import Bootstrap
from stages.evaluation.reward_metrics import reward_metrics

BOOTSTRAP = Bootstrap(2000, 0.95, 1)
ANSWER = Answer(
    "3", length=2, no_eos=0.0, gold=1.0, reward_model_score=0.5, kl=0.5, entropy=3.0, tokens=4, samples=()
)


def answer(gold: float, score: float, *samples: tuple[float, float]) -> Answer:
    return replace(
        ANSWER,
        gold=gold,
        reward_model_score=score,
        samples=tuple(Sample(mark, reward) for mark, reward in samples),
    )


def test_by_hand():
    """Right above wrong in 2 of the first prompt's 3 pairs; a tie in the one of the second; none in the third."""
    found = reward_metrics(
        [
            answer(1.0, 2.0, (1, 5.0), (0, 1.0), (0, 9.0), (0, 2.0)),
            answer(0.0, 0.5, (1, 3.0), (0, 3.0), (1, 3.0), (1, 3.0)),
            answer(0.0, -0.5, (0, 1.0), (0, 2.0), (0, 0.0), (0, 0.0)),
        ],
        BOOTSTRAP,
    )
    # 2 of 3, and 3 halves of 3
    assert found["reward_accuracy"] == {
        "mean": pytest.approx(3.5 / 6),
        "low": 0.5,
        "high": pytest.approx(2 / 3),
    }
    assert found["reward_model_score_right"] == {"mean": 2.0, "low": None, "high": None}
    assert found["reward_model_score_wrong"] == {"mean": 0.0, "low": -0.5, "high": 0.5}
    assert found["calibration_error"]["low"] is None


def test_pairs_of_one_prompt_are_one_piece_of_evidence():
    """50 prompts whose 4 pairs agree with each other: as wide as 50 values, and not as 200."""
    right, wrong = [(1, 1.0), (0, 0.0), (1, 1.0), (0, 0.0)], [(1, 0.0), (0, 1.0), (1, 0.0), (0, 1.0)]
    found = reward_metrics([answer(1.0, 1.0, *(right if i % 2 else wrong)) for i in range(50)], BOOTSTRAP)
    interval = found["reward_accuracy"]
    assert interval["mean"] == 0.5
    assert interval["high"] == pytest.approx(
        0.5 + 1.96 * (0.25 / 50) ** 0.5, abs=0.02
    )  # 0.139, of 200: 0.069


def test_what_cannot_be_told_is_left_out():
    assert reward_metrics([replace(ANSWER, gold=None)] * 2, BOOTSTRAP) == {}
    assert set(reward_metrics([ANSWER] * 2, BOOTSTRAP)) == {"reward_model_score_right"}

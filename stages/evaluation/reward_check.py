"""All that is said of the learned reward beside the numbers: what went wrong, which step was kept, how sure it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.evaluation.answer import Answer
from stages.evaluation.calibration import Bin, reliability
from stages.evaluation.curves import Points
from stages.evaluation.labels import Metrics
from stages.evaluation.overoptimisation import OVER_OPTIMISATION, REWARD_ALONE, Finding, judge_reward
from stages.evaluation.reward_metrics import sample_pairs
from stages.outcome import Outcome

JUDGED = ("sft", "rl")  # models whose samples the reward is held against


@dataclass(frozen=True)
class RewardCheck:
    """`calibration`: of each model whose samples make pairs, its bins."""

    finding: Finding | None
    outcome: Outcome | None
    calibration: Mapping[str, Sequence[Bin]]

    @property
    def sentences(self) -> list[str]:
        """What a reader is told, the worst first."""
        found = [self.finding.sentence] if self.finding else []
        return found + ([f"rl: {self.outcome.judged()}."] if self.outcome else [])

    def summary(self) -> dict[str, float]:
        """For the tracker: 1 where it holds."""
        kind = self.finding.kind if self.finding else None
        return {"eval/over_optimisation": float(kind == OVER_OPTIMISATION),
                "eval/reward_alone": float(kind == REWARD_ALONE)}  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """What evaluate writes into VERDICT."""
        found = self.finding
        return {"finding": found.kind if found else None, "sentence": found.sentence if found else None}


def check_reward(
    metrics: Metrics,
    answers: Mapping[str, Sequence[Answer]],
    curves: Mapping[str, Points],
    outcome: Outcome | None,
    confidence: float,
) -> RewardCheck:
    """`curves` and `outcome` are those of rl."""
    pairs = {name: sample_pairs(answers[name]) for name in JUDGED}
    calibration = {name: reliability(found.margins) for name, found in pairs.items() if len(found.margins)}
    finding = judge_reward(metrics, curves, outcome.n if outcome else None, confidence)
    return RewardCheck(finding, outcome, calibration)

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
from stages.evaluation.selection import Selection

JUDGED = ("sft", "rl")  # models whose samples the reward is held against


@dataclass(frozen=True)
class RewardCheck:
    """`calibration`: of each model whose samples make pairs, its bins."""

    finding: Finding | None
    selection: Selection | None
    calibration: Mapping[str, Sequence[Bin]]

    @property
    def sentences(self) -> list[str]:
        """What a reader is told, the worst first."""
        found = [self.finding.sentence] if self.finding else []
        return found + ([self.selection.sentence()] if self.selection else [])

    def summary(self) -> dict[str, float]:
        """For the tracker: 1 where it holds."""
        kind = self.finding.kind if self.finding else None
        return {"eval/over_optimisation": float(kind == OVER_OPTIMISATION),
                "eval/reward_alone": float(kind == REWARD_ALONE)}  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """What evaluate writes into VERDICT."""
        return {"finding": self.finding.kind if self.finding else None, "sentences": self.sentences}


def check_reward(
    metrics: Metrics,
    answers: Mapping[str, Sequence[Answer]],
    curves: Mapping[str, Points],
    selection: Selection | None,
    confidence: float,
) -> RewardCheck:
    """`curves` and `selection` are those of rl."""
    pairs = {name: sample_pairs(answers[name]) for name in JUDGED}
    calibration = {name: reliability(found.margins) for name, found in pairs.items() if len(found.margins)}
    finding = judge_reward(metrics, curves, selection.n if selection else None, confidence)
    return RewardCheck(finding, selection, calibration)

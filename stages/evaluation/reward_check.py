"""What is said of the learned reward beside its numbers: what went wrong, which step was kept, how sure it is."""

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

JUDGED = ("sft", "rl")  # models on whose samples the reward model is compared with the verifier


@dataclass(frozen=True)
class RewardCheck:
    """What evaluate found, for its log, report, verdict.json and tracker."""

    finding: Finding | None  # None where nothing is wrong, or nothing can be said
    outcome: Outcome | None  # of rl; None where it wrote none
    calibration: Mapping[str, Sequence[Bin]]  # by model: those of JUDGED whose samples make pairs

    @property
    def sentences(self) -> list[str]:
        """The finding and the kept step, each where it is known."""
        found = [self.finding.sentence] if self.finding else []
        return found + ([f"rl: {self.outcome.sentence_of_rl()}."] if self.outcome else [])

    def summary(self) -> dict[str, float]:
        """For the tracker: of each kind of finding, 1 where it was found, else 0."""
        kind = self.finding.kind if self.finding else None
        return {"eval/over_optimisation": float(kind == OVER_OPTIMISATION),
                "eval/reward_alone": float(kind == REWARD_ALONE)}  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """The content of verdict.json."""
        found = self.finding
        return {"finding": found.kind if found else None, "sentence": found.sentence if found else None}


def check_reward(
    metrics: Metrics,
    answers: Mapping[str, Sequence[Answer]],
    curves: Mapping[str, Points],
    outcome: Outcome | None,
    confidence: float,
) -> RewardCheck:
    """From metrics.json and each model's answers; `curves` and `outcome` are those of rl, `confidence` a share of 1."""
    pairs = {name: sample_pairs(answers[name]) for name in JUDGED}
    calibration = {name: reliability(found.margins) for name, found in pairs.items() if len(found.margins)}
    finding = judge_reward(metrics, curves, outcome.n if outcome else None, confidence)
    return RewardCheck(finding, outcome, calibration)

"""What the chosen algorithm and the reward model ask of the data: better said here than after sft is trained.

Their code is found by name and not imported, for what is only checked here changes nothing that prepare writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.utils import get_class, get_method
from omegaconf import DictConfig

from stages.config.errors import UserError
from stages.config.validate import needs_reward_model
from stages.data.answers import check_answers
from stages.data.examples import Example, has_pair


@dataclass(frozen=True)
class Demands:
    """pairs: what learns from two completions of one prompt that score differently; labels: what learns from labels
    by themselves; rewards: functions that score the answers to prompts."""

    pairs: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    rewards: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: DictConfig) -> Demands:
        """Those of the whole configuration."""
        algorithm = f"rl.{config.rl.algo}"
        section = config.rl[config.rl.algo]
        kind = get_class(section._target_)
        paired = ["the reward model"] if needs_reward_model(config) else []
        labelled = []
        if kind.offline:
            (paired if kind.usable is has_pair else labelled).append(algorithm)
        functions = [name for name, weight in section.rewards.items() if weight != 0 and ":" in name]
        return cls(tuple(paired), tuple(labelled), () if kind.offline else tuple(functions))

    def check_preferences(self, examples: Sequence[Example], verifier: str | None) -> None:
        """Raises UserError where nothing could be learned from the preference data that are trained on."""
        learners = " and ".join((*self.pairs, *self.labels))
        if not learners:
            return
        if sampled := [example for example in examples if example.scores is None]:
            if verifier is None:
                raise UserError(
                    f"data.preference has rows without preferences, and {learners} learns from them: set "
                    "data.verifier, which ranks samples, or give chosen and rejected, scores or labels"
                )
            check_answers("preference", verifier, sampled)
            _check_columns(verifier, sampled)
        elif self.pairs and not any(map(has_pair, examples)):
            raise UserError(
                "data.preference: no prompt has two completions that score differently, and "
                f"{' and '.join(self.pairs)} learns from nothing else (labels of one kind do for kto)"
            )

    def check_columns(self, verifier: str | None, examples: Sequence[Example]) -> None:
        """Raises UserError where a verifier or reward would miss a column of the rows whose answers it scores."""
        for name in dict.fromkeys((verifier, *self.rewards)):
            _check_columns(name, examples)


def _check_columns(function: str | None, examples: Sequence[Example]) -> None:
    """Of the first row: all have the same columns, and each answer has been looked at where it was read."""
    get_method("stages.rewards.check.check_columns")(function, examples[:1])


NO_DEMANDS = Demands()

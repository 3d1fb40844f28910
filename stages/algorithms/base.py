"""What an algorithm is: a module whose forward pass gives a loss as a sum and a weight."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from stages.algorithms.batch import Batch
from stages.data.examples import Example
from stages.models.reference_table import ReferenceTable
from stages.trees import Tree


class Loss(NamedTuple):
    """Sums over units (tokens, pairs, ...). The loop alone divides, by the weight of the whole step on every rank."""

    total: Tensor
    weight: Tensor
    metrics: dict[str, Tensor]  # sums over the same units; divided the same way


class Algorithm(nn.Module, ABC):
    """One small file per algorithm. Offline ones keep `experience`; online ones sample and score in it.

    An RL algorithm is made as `Kind(settings, parts)` and says, in `offline`, whether it learns from preferences
    that are there already or from prompts.
    """

    offline: ClassVar[bool] = False

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy: Any = policy  # of nn.Module alone, types know no method of a model
        self.observed: dict[str, list[Tensor]] = defaultdict(list)

    def prepare(self, examples: Sequence[Example], seed: int) -> Sequence[Example]:
        """All examples of a run as its steps take them. Raises UserError where nothing can be learnt from them."""
        return examples

    def experience(self, batch: Batch) -> Iterator[Batch]:
        """The minibatches of one batch of examples, one optimizer step each. The loop calls it without gradient."""
        yield batch

    def fresh_heads(self) -> Iterable[tuple[nn.Module, float]]:
        """Modules that start from scratch, with the learning rate that they need beside trained weights."""
        return ()

    @staticmethod
    def usable(example: Example) -> bool:
        """Whether an offline algorithm can learn from this one of the preference data."""
        return True

    @abstractmethod
    def forward(self, batch: Batch) -> Loss:
        """The loss of a microbatch."""

    def observe(self, name: str, values: Tensor) -> None:
        """Of experience: remember values (any shape) whose mean over the step, on every rank, is logged as `name`."""
        self.observed[name].append(values.detach().float().flatten())


class WithReference(Algorithm):
    """An offline algorithm whose loss looks at the reference. All that its steps will ask for is known beforehand, so
    `reference` holds it from before the first step on; no copy of the model does."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__(policy)
        self.reference = ReferenceTable(policy)

    def reference_trees(self, batch: Batch) -> Sequence[Sequence[Tree]]:
        """The trees that a step on `batch` looks up, as it scores them under the policy: where none repeats an earlier
        one, equal weights then give equal bits, and a KL of 0."""
        return [batch.trees]

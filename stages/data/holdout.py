"""Which prompts are held out: seeded, and in no role's training set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stages.config.errors import UserError
from stages.data.dataset import Dataset
from stages.data.examples import Example


@dataclass(frozen=True)
class Sizes:
    """Prompts of each role that are held out, by the names of the keys under `data`."""

    test_size: int
    validation_size: int

    def __str__(self) -> str:
        return f"data.test_size {self.test_size} and data.validation_size {self.validation_size}"


@dataclass(frozen=True)
class Split:
    """`evaluate` measures on test, and training chooses what it keeps on validation. excluded: examples in none of the
    parts, for their prompt is held out (here, or in another role)."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    excluded: int


def hold_out(datasets: list[Dataset], sizes: Sizes, seed: int) -> dict[str, Split]:
    """Splits every role: the prompts that come first in an order by the seed are its test set, the next ones that no
    role tests on its validation set.

    The order is the same in all roles, so roles that read the same prompts hold out the same ones, and a larger
    validation set leaves the test set as it is.
    Raises UserError where a role has too few prompts.
    """
    orders = {dataset.role: _in_order(dataset, sizes, seed) for dataset in datasets}
    test = {role: set(order[: sizes.test_size]) for role, order in orders.items()}
    tested = _union(test)
    validation = {
        role: set([opening for opening in order if opening not in tested][: sizes.validation_size])
        for role, order in orders.items()
    }
    anywhere = tested | _union(validation)
    return {
        dataset.role: _split(dataset, test[dataset.role], validation[dataset.role], anywhere, sizes)
        for dataset in datasets
    }


def _in_order(dataset: Dataset, sizes: Sizes, seed: int) -> list[str]:
    openings = set(dataset.openings)
    if len(openings) <= sizes.test_size + sizes.validation_size:
        raise UserError(
            f"data.{dataset.role} has {len(openings)} distinct prompts, and {sizes} leave none to train on; lower them "
            "or add data"
        )
    return sorted(openings, key=lambda opening: _order(opening, seed))


def _order(opening: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{opening}".encode()).digest()


def _union(held: Mapping[str, Iterable[str]]) -> set[str]:
    return set().union(*held.values())


def _split(dataset: Dataset, test: set[str], validation: set[str], anywhere: set[str], sizes: Sizes) -> Split:
    pairs = list(zip(dataset.openings, dataset.examples, strict=True))
    train = [example for opening, example in pairs if opening not in anywhere]
    tests = [example for opening, example in pairs if opening in test][: sizes.test_size]
    validations = [example for opening, example in pairs if opening in validation][: sizes.validation_size]
    if not train or not validations:
        lacking = "train" if not train else "validate"
        raise UserError(
            f"data.{dataset.role}: every prompt is held out in some role, and none is left to {lacking} on; lower "
            "data.test_size or data.validation_size, or add data"
        )
    return Split(train, validations, tests, len(pairs) - len(train) - len(validations) - len(tests))

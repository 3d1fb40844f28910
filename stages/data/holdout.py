"""Which prompts are held out: seeded, and in no role's training set."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from stages.config.errors import UserError
from stages.data.dataset import Dataset
from stages.data.examples import Example


@dataclass(frozen=True)
class Split:
    """excluded: examples in neither part, for their prompt is held out (here, or in another role)."""

    train: list[Example]
    test: list[Example]
    excluded: int


def hold_out(datasets: list[Dataset], test_size: int, seed: int) -> dict[str, Split]:
    """Splits every role: the `test_size` prompts that come first in an order by the seed are held out.

    The order is the same in all roles, so roles that read the same prompts hold out the same ones.
    Raises UserError where a role has too few prompts.
    """
    held = {dataset.role: _first_openings(dataset, test_size, seed) for dataset in datasets}
    anywhere = set().union(*held.values())
    return {dataset.role: _split(dataset, held[dataset.role], anywhere, test_size) for dataset in datasets}


def _first_openings(dataset: Dataset, test_size: int, seed: int) -> set[str]:
    openings = set(dataset.openings)
    if len(openings) <= test_size:
        found = f"data.{dataset.role} has {len(openings)} distinct prompts"
        raise UserError(
            f"{found}, and data.test_size {test_size} leaves none to train on; lower it or add data"
        )
    return set(sorted(openings, key=lambda opening: _order(opening, seed))[:test_size])


def _order(opening: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{opening}".encode()).digest()


def _split(dataset: Dataset, held: set[str], anywhere: set[str], test_size: int) -> Split:
    pairs = list(zip(dataset.openings, dataset.examples, strict=True))
    train = [example for opening, example in pairs if opening not in anywhere]
    test = [example for opening, example in pairs if opening in held][:test_size]
    if not train:
        raise UserError(
            f"data.{dataset.role}: every prompt is held out in some role; lower data.test_size or add data"
        )
    return Split(train, test, len(pairs) - len(train) - len(test))

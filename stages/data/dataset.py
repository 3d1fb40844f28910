"""One role's rows, from the source to examples, with the count of everything that was left out."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from tqdm import tqdm

from stages.config.errors import UserError
from stages.data.answers import answer_check
from stages.data.columns import Columns
from stages.data.encoder import Encoder
from stages.data.examples import Example
from stages.data.formats import Format, detect, parse
from stages.data.limits import Limits
from stages.data.messages import is_transcript, show
from stages.data.problems import COLUMNS as PROBLEM_COLUMNS
from stages.data.records import BadRow, LeftOut, Record, Row
from stages.data.roles import TAKE, check_labels, group_unpaired, key_of
from stages.data.settings import DataSettings, RoleSettings
from stages.data.sources import describe, read_rows
from stages.data.two_prompts import refuse_own_turns, refuse_two_prompts
from stages.data.unread import refuse_unread
from stages.data.usage import Usage
from stages.progress import progress
from stages.trees import Tree

PATIENCE = 1  # seconds before a progress bar appears

log = logging.getLogger(__name__)


@dataclass
class Dataset:
    """The examples of a role, each beside the opening that hold-outs go by, and what happened on the way.

    grouped: rows that went into another's example; split: examples beyond the first of their row; unanswered: rows
    whose last turns have no answer, so that nothing is learned from them.
    """

    role: str
    source: str
    drop_bad_rows: bool
    format: str = ""
    style: str = ""
    read: int = 0
    grouped: int = 0
    split: int = 0
    unanswered: int = 0
    truncated: int = 0
    digest: str = ""
    dropped: Counter[str] = field(default_factory=Counter)
    usage: Usage = field(default_factory=Usage)
    openings: list[str] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)

    def leave_out(self, error: LeftOut, where: str) -> None:
        """Counts a row that cannot be used. Raises UserError for a bad one, unless those are dropped."""
        if isinstance(error, BadRow) and not self.drop_bad_rows:
            raise UserError(
                f"{where}: {error}; mend or remove the row, or set data.bad_rows: drop"
            ) from error
        self.dropped[error.reason] += 1


def load_dataset(role: str, settings: DataSettings, encoder: Encoder, seed: int) -> Dataset:
    """Reads, recognises, converts and encodes a role's rows. Raises UserError, also where nothing is left."""
    own: RoleSettings = getattr(settings, role)
    dataset = Dataset(role, describe(own), settings.bad_rows == "drop")
    with _bar(read_rows(role, own, seed), f"{role}: reading") as rows:
        records = list(_records(dataset, iter(rows), _columns(role, own)))
    if not dataset.read:
        raise UserError(f"data.{role}: {dataset.source} is empty")
    check = answer_check(settings.verifier, records)
    _encode(dataset, _unique(dataset, records), encoder, Limits.of_role(role, settings), check)
    # What one row has, all have: else a reward function would lack a column in some batches.
    every = dict.fromkeys(column for example in dataset.examples for column in example.columns)
    dataset.examples = [replace(each, columns={**every, **each.columns}) for each in dataset.examples]
    if not dataset.examples:
        reasons = ", ".join(f"{count} for: {reason}" for reason, count in dataset.dropped.items())
        raise UserError(
            f"data.{role}: none of the {dataset.read} rows of {dataset.source} is left; dropped {reasons}"
        )
    return dataset


def known_records(role: str, settings: DataSettings, seed: int) -> Iterator[Record] | None:
    """A role's records where they can be had at once, without bad rows: of generated problems one, of the hub None."""
    own: RoleSettings = getattr(settings, role)
    if own.source == "hub":
        return None
    if own.source == "reasoning_gym":
        return iter([Record("", [], columns=dict.fromkeys(PROBLEM_COLUMNS))])
    dataset = Dataset(role, describe(own), drop_bad_rows=True)
    return _records(dataset, read_rows(role, own, seed), _columns(role, own))


def _columns(role: str, own: RoleSettings) -> Columns:
    return Columns(own.columns, f"data.{role}.columns", frozenset(own.ignore))


def _records(dataset: Dataset, rows: Iterable[Row], columns: Columns) -> Iterator[Record]:
    digest, known = hashlib.sha256(), None
    for row in rows:
        dataset.read += 1
        digest.update(json.dumps(row.values, sort_keys=True, default=str).encode())
        if row.bad:
            dataset.leave_out(BadRow(row.bad), row.where)
            continue
        if known is None:
            known = detect(row, columns)
            refuse_two_prompts(dataset.role, row, known, columns)
        try:
            parsed = parse(row, known, columns)
            refuse_own_turns(dataset.role, row, parsed)
            refuse_unread(dataset.role, known.name, parsed, columns.ignore)
            record = TAKE[dataset.role](parsed)
        except LeftOut as error:
            dataset.leave_out(error, row.where)
            continue
        if not dataset.style:
            _recognised(dataset, known, record, row)
        dataset.usage.see(row, record)
        dataset.unanswered += dataset.role != "prompt" and _unanswered(parsed)
        yield record
    dataset.digest = digest.hexdigest()


def _unanswered(record: Record) -> bool:
    """Whether turns follow a dialogue's last answer. As a prompt it goes up to them."""
    return any(isinstance(turns, list) and turns[-1]["role"] != "assistant" for turns in record.completions)


def _recognised(dataset: Dataset, known: Format, record: Record, row: Row) -> None:
    transcript = record.conversational and any(map(is_transcript, row.values.values()))
    plain = "conversational" if record.conversational else "plain"
    dataset.format, dataset.style = (
        known.name,
        "conversational, Human/Assistant transcript" if transcript else plain,
    )
    log.info("%s: %s, %s, from %s", dataset.role, dataset.format, dataset.style, dataset.source)


def _unique(dataset: Dataset, records: list[Record]) -> list[Record]:
    """Labels of one prompt together, where there are both kinds; a prompt without completions once."""
    grouped = group_unpaired(records)
    dataset.grouped = len(records) - len(grouped)
    seen: set[str] = set()
    unique = []
    for record in grouped:
        key = key_of(record)
        if not record.completions and key in seen:
            dataset.dropped["prompt seen before"] += 1
            continue
        seen.add(key)
        try:
            unique.append(check_labels(record))
        except LeftOut as error:
            dataset.leave_out(error, record.where)
    return unique


def _encode(
    dataset: Dataset,
    records: list[Record],
    encoder: Encoder,
    limits: Limits,
    check: Callable[[Record], None],
) -> None:
    with _bar(records, f"{dataset.role}: tokens") as shown:
        for record in shown:
            encoder.check(record)
            try:
                check(record)
                whole = encoder.encode(record, split=dataset.role == "sft")
            except LeftOut as error:
                dataset.leave_out(error, record.where)
                continue
            dataset.split += len(whole) - 1
            for tree in whole:
                _add(dataset, record, tree, limits)


def _add(dataset: Dataset, record: Record, whole: Tree, limits: Limits) -> None:
    try:
        tree = limits.fit(whole)
    except LeftOut as error:
        dataset.leave_out(error, record.where)
        return
    dataset.truncated += tree is not whole
    dataset.openings.append(record.opening)
    dataset.examples.append(Example(tree, show(record.prompt), record.scores, record.columns))


def _bar(items: Iterable, description: str) -> tqdm:
    """Of rows; closed before an error is told, and not there where it would be for a moment only."""
    return progress(items, desc=description, unit="row", delay=PATIENCE, leave=False)

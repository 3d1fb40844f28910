"""The rows of a role, wherever they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from stages.config.errors import UserError
from stages.data.columns import CANONICAL, own_names
from stages.data.files import read_files
from stages.data.problems import generate_problems
from stages.data.records import Row
from stages.data.settings import RoleSettings
from stages.data.unusable import marked

ROOT = Path(__file__).resolve().parents[2]


def read_rows(role: str, settings: RoleSettings, seed: int) -> Iterator[Row]:
    """At most `size` rows of the role's source, in the source's order. Raises UserError."""
    if settings.source == "reasoning_gym":
        return _problems(role, settings, seed)
    rows = _from_hub(role, settings) if settings.source == "hub" else _from_files(settings)
    return map(marked, islice(rows, settings.size))


def describe(settings: RoleSettings) -> str:
    """The source in words, for the log and the report."""
    match settings.source:
        case "files":
            return settings.path
        case "hub":
            return ":".join(filter(None, [settings.name, settings.subset, settings.split, settings.revision]))
        case "reasoning_gym":
            return f"reasoning_gym {settings.name}"


def _from_files(settings: RoleSettings) -> Iterator[Row]:
    text_columns = CANONICAL - {"label", "scores"} | own_names(settings.columns, but={"label", "scores"})
    return read_files(ROOT / Path(settings.path).expanduser(), text_columns)


def _from_hub(role: str, settings: RoleSettings) -> Iterator[Row]:
    from datasets import load_dataset

    if settings.name is None:
        raise UserError(f"data.{role}.name: name the data set on the hub, such as openai/gsm8k")
    where = describe(settings)
    try:
        rows = load_dataset(settings.name, settings.subset, split=settings.split, revision=settings.revision)
    # The library raises many kinds (not found, offline, gated, unknown split), all with a clear first line.
    except Exception as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"data.{role}: cannot load {where} from the hub: {first_line}") from error
    return (Row(dict(values), f"{where}, row {number}") for number, values in enumerate(rows, start=1))


def _problems(role: str, settings: RoleSettings, seed: int) -> Iterator[Row]:
    if settings.name is None:
        raise UserError(f"data.{role}.name: name the reasoning_gym task, such as chain_sum")
    if settings.size is None:
        raise UserError(f"data.{role}.size: say how many problems to generate; reasoning_gym has no end")
    # Each role draws its own problems.
    own_seed = int.from_bytes(hashlib.sha256(f"{seed}:{role}".encode()).digest()[:4], "big") >> 1
    return generate_problems(
        settings.name, settings.task, settings.size, own_seed, with_answer=role != "prompt"
    )

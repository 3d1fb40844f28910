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
from stages.data.prompt_template import PromptTemplate
from stages.data.records import Row
from stages.data.roles import ROLES
from stages.data.settings import DataSettings, RoleSettings
from stages.data.unusable import marked

ROOT = Path(__file__).resolve().parents[2]


def read_rows(role: str, settings: RoleSettings, seed: int) -> Iterator[Row]:
    """At most `size` rows of the role's source, in the source's order, their prompts written by the role's template
    where there is one. Raises UserError."""
    template = None
    if settings.prompt_template is not None:
        template = PromptTemplate(settings.prompt_template, f"data.{role}.prompt_template")
    if settings.source == "reasoning_gym":
        return _problems(role, settings, seed, template)
    rows = _from_hub(role, settings) if settings.source == "hub" else _from_files(settings, template)
    rows = map(marked, islice(rows, settings.size))
    return template.fill(rows) if template else rows


def describe(settings: RoleSettings) -> str:
    """The source in words, for the log and the report."""
    match settings.source:
        case "files":
            return settings.path
        case "hub":
            return ":".join(filter(None, [settings.name, settings.subset, settings.split, settings.revision]))
        case "reasoning_gym":
            return f"reasoning_gym {settings.name}"


def unlike_templates(settings: DataSettings) -> list[str]:
    """What is to be said of roles that make different prompts of the same rows: hold-outs go by the prompt."""
    templates: dict[str, dict[str | None, str]] = {}
    for role in ROLES:
        own: RoleSettings = getattr(settings, role)
        templates.setdefault(describe(own), {}).setdefault(own.prompt_template, role)
    return [
        f"{' and '.join(roles.values())} read {source} with different values of prompt_template: a row that one holds "
        "out, another may train on"
        for source, roles in templates.items()
        if len(roles) > 1
    ]


def _from_files(settings: RoleSettings, template: PromptTemplate | None) -> Iterator[Row]:
    text_columns = CANONICAL - {"label", "scores"} | own_names(settings.columns, but={"label", "scores"})
    if template:  # it writes what the file says: 007, not 7
        text_columns |= template.names
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


def _problems(role: str, settings: RoleSettings, seed: int, template: PromptTemplate | None) -> Iterator[Row]:
    if settings.name is None:
        raise UserError(f"data.{role}.name: name the reasoning_gym task, such as chain_sum")
    if settings.size is None:
        raise UserError(f"data.{role}.size: say how many problems to generate; reasoning_gym has no end")
    # Each role draws its own problems.
    own_seed = int.from_bytes(hashlib.sha256(f"{seed}:{role}".encode()).digest()[:4], "big") >> 1
    fill = template.fill if template else iter
    return generate_problems(
        settings.name, settings.task, settings.size, own_seed, with_answer=role != "prompt", fill=fill
    )

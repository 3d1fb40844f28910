"""The documentation keeps up with the code: its links lead somewhere, its tables of knobs say what conf/ says, and the
keys that it names exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from omegaconf import OmegaConf

from benchmarks.table import table
from stages.config.compose import OPEN, compose_config
from stages.evaluation.labels import LABELS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# Each page's table of knobs, and the files of conf/ whose values it gives: later ones win, the last is listed whole.
TABLES = {
    "stages.md": ["training/default"],
    "algorithms/sft.md": ["training/default", "sft/default"],
    "algorithms/reward_model.md": ["training/default", "reward_model/default"],
    "algorithms/ppo.md": ["training/default", "training/online", "rl/ppo"],
    "algorithms/grpo.md": ["training/default", "training/online", "rl/grpo"],
    "algorithms/rloo.md": ["training/default", "training/online", "rl/rloo"],
    "algorithms/kto.md": ["training/default", "rl/kto"],
    "algorithms/dpo.md": ["training/default", "rl/dpo"],
}
ROW = re.compile(r"^\| `(\w+)` \| `(.+?)` \|", re.MULTILINE)
DOTTED = re.compile(r"`\+{,2}([a-z_]+(?:\.[\w<>*]+)+)(?=[`:= ])")  # a name at the start of inline code
YAML = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILES = ("json", "jsonl", "md", "py", "safetensors")  # what the names of files end in
# Dotted names that are no keys of conf/: of metrics.json, of a stage's code, and of the algorithm that a page adds.
OTHERS = [*(f"sft.{label.key}" for label in LABELS), "run.tracker", "rl.reinforce*"]


def test_the_readme_shows_the_results_that_were_measured():
    """`python -m benchmarks.table` prints what belongs there, of the file that it links to."""
    readme = (ROOT / "README.md").read_text()
    (measured,) = re.findall(r"\(benchmarks/results/(\S+\.json)\)", readme)
    assert table(json.loads((ROOT / "benchmarks" / "results" / measured).read_text())) in readme


def without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchor(heading: str) -> str:
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def values(name: str) -> dict[str, Any]:
    """A file's own keys."""
    loaded = yaml.safe_load((ROOT / "conf" / f"{name}.yaml").read_text())
    return {key: value for key, value in loaded.items() if key not in ("defaults", "_target_")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if link.startswith("http"):
            continue
        path, _, fragment = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if fragment:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert fragment in [anchor(heading) for heading in headings], link


@pytest.mark.parametrize("page", TABLES)
def test_knobs_are_those_of_conf(page: str) -> None:
    """Every default in the table is the one of conf/, and no key of the algorithm's own file is left out."""
    files = TABLES[page]
    known: dict[str, Any] = {}
    for name in files:
        known |= values(name)
    written = {key: yaml.safe_load(text) for key, text in ROW.findall((ROOT / "docs" / page).read_text())}
    assert written == {key: known[key] for key in written if key in known}
    assert set(values(files[-1])) <= set(written)


def test_every_algorithm_has_a_page() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "algorithms").glob("*.md")}
    assert {path.stem for path in (ROOT / "conf" / "rl").glob("*.yaml")} | {"sft", "reward_model"} == pages


@cache
def config() -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(compose_config()))


def named_keys(text: str) -> Iterator[str]:
    """The dotted keys of a page: of its YAML blocks that are parts of a params.yaml, then of its inline code."""
    for block in map(yaml.safe_load, YAML.findall(text)):
        if isinstance(block, dict) and block.keys() <= config().keys():
            yield from leaves(block)
    for name in DOTTED.findall(without_code(text)):
        section, *_, ending = name.split(".")
        if section in config() and ending not in FILES:
            yield name


def leaves(block: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in block.items():
        yield from leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]


def exists(key: str) -> bool:
    """Whether conf/ has it, `<algo>` and `*` standing for any key; below an open section every key is the user's."""
    if any(fnmatch(key, other) for other in OTHERS):
        return True
    nodes: list[Any] = [config()]
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if any(fnmatch(".".join(parts[:depth]), section) for section in OPEN):
            return True
        items = [item for node in nodes if isinstance(node, dict) for item in node.items()]
        nodes = [value for name, value in items if part in (name, "*") or part.startswith("<")]
    return bool(nodes)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_keys_that_are_named_exist(page: Path) -> None:
    assert [key for key in named_keys(page.read_text()) if not exists(key)] == []


def test_a_key_that_does_not_exist_is_found() -> None:
    inline = "`run.keep: best`, `rl.<algo>.keep`, `+rl.ppo.rewards.mine=1`, `model.json`, `tracking.*`, `eval/loss`"
    block = "\n```yaml\nsft: {size: 3, keep: last}\n```\n"
    assert [key for key in named_keys(inline + block) if not exists(key)] == ["sft.size", "run.keep"]

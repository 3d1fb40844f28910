"""The documentation keeps up with the code: its links lead somewhere, its tables of knobs say what conf/ says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.table import table

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


def test_the_readme_shows_the_results_that_were_measured():
    """`python -m benchmarks.table` prints what belongs there, of the file that it links to."""
    readme = (ROOT / "README.md").read_text()
    (measured,) = re.findall(r"\(benchmarks/results/(\S+\.json)\)", readme)
    assert table(json.loads((ROOT / "benchmarks" / "results" / measured).read_text())) in readme


def without_code(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)


def anchor(heading: str) -> str:
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def values(name: str) -> dict[str, Any]:
    """A file's own keys."""
    loaded = yaml.safe_load((ROOT / "conf" / f"{name}.yaml").read_text())
    return {key: value for key, value in loaded.items() if key not in ("defaults", "_target_")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page)):
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

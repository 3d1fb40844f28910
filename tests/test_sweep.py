"""What a sweep and a run print at their end: whole at any width, and nothing of it taken for markup."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from stages import results, sweep
from stages.dispatch import Job
from stages.sweep import SweepResults
from stages.tables import open_console
from stages.tracking.provenance import PARENT

METRICS = {
    key: {"mean": 0.25, "low": 0.125, "high": 0.5}
    for key in ("gold_accuracy", "win_rate", "kl_k1", "entropy", "mean_length", "no_eos_share", "sft_loss")
}
CELLS = ("25.0 % (12.5 to 50.0)", "0.25")
FIRST, SECOND = (
    "model.lora_target_modules=[q_proj]",
    "model.lora_target_modules=[q_proj,v_proj] sft.tag=[red]x[/red]",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep of ten jobs, of which the last two count here, beside one of an earlier sweep."""
    for key, number, overrides in (("old", 1, "seed=1"), ("new", 10, SECOND), ("new", 2, FIRST)):
        monkeypatch.setenv(PARENT, key)
        job = tmp_path / "[multi]run" / str(number)
        (job / "evaluate").mkdir(parents=True)
        (job / "evaluate" / "metrics.json").write_text(json.dumps({"rl": METRICS}))
        Job(job, overrides.split()).save()
    monkeypatch.setenv(PARENT, "new")
    return tmp_path / "[multi]run"


def printed(folder: Path, monkeypatch: pytest.MonkeyPatch, width: int | None) -> str:
    """What the end of a sweep prints on a terminal of `width` columns; None is a pipe."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, color_system=None) if width else None
    monkeypatch.setattr(sweep, "open_console", lambda: console or open_console())
    SweepResults().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}}))
    return file.getvalue()


@pytest.mark.parametrize("width", [None, 400, 80, 40])
def test_overrides_and_numbers_are_whole_at_any_width(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int | None
) -> None:
    text = printed(folder, monkeypatch, width) or capsys.readouterr().out
    assert "…" not in text
    flat = "".join(text.split())
    for part in (FIRST, SECOND, *CELLS, "[multi]run", "Held-out sft loss"):
        assert part.replace(" ", "") in flat, part
    assert "seed=1" not in text  # of the earlier sweep
    assert flat.index(FIRST) < flat.index("[q_proj,v_proj]")
    if width is None:
        assert (
            len([line for line in text.splitlines() if "q_proj" in line and "25.0 % (12.5 to 50.0)" in line])
            == 2
        )
    else:
        assert max(map(len, text.splitlines())) <= width


def test_a_job_that_failed_is_named_as_it_was_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Job(folder / "2", FIRST.split()).save(failed="rl")
    with pytest.raises(SystemExit):
        printed(folder, monkeypatch, None)
    assert f"job 2 failed in rl: {FIRST}\n" in capsys.readouterr().out


@pytest.mark.parametrize("width", [120, 80, 40])
def test_the_numbers_of_a_run_are_whole_at_any_width(width: int) -> None:
    metrics: Any = dict.fromkeys(("base", "sft", "rl"), METRICS) | {"paired": {}}
    console = Console(file=io.StringIO(), width=width)
    results.show(metrics, None, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    flat = " ".join(text.split())
    assert flat.count("25.0 %") == 9 and flat.replace(" ", "").count("(12.5to50.0)") == 9

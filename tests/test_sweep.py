"""The table at the end of a sweep."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from stages.dispatch import Job
from stages.sweep import SweepResults

NUMBER = {"mean": 0.41, "low": 0.2, "high": 0.6}
METRICS = [
    "gold_accuracy", "win_rate", "reward_model_score", "kl_k1", "entropy", "mean_length", "no_eos_share", "sft_loss"
]  # fmt: skip


def test_values_and_numbers_are_whole_in_a_pipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not taken for markup, and not cut to 80 columns."""
    for index, changed in enumerate(
        ["model.lora_target_modules=[q_proj]", "model.lora_target_modules=[q_proj,v_proj]"]
    ):
        job = tmp_path / str(index)
        (job / "evaluate").mkdir(parents=True)
        (job / "evaluate" / "metrics.json").write_text(json.dumps({"rl": dict.fromkeys(METRICS, NUMBER)}))
        Job(job, [changed]).save()
    (tmp_path / "2").mkdir()
    Job(tmp_path / "2", ["data.verifier=[red]", "tracking.uri=http://me:hush@host"]).save(failed="rl")
    with pytest.raises(SystemExit):
        SweepResults().on_multirun_end(OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}))
    printed = capsys.readouterr().out
    assert "0: model.lora_target_modules=[q_proj]\n" in printed
    assert "1: model.lora_target_modules=[q_proj,v_proj]\n" in printed
    assert printed.count("41.0 % (20.0 to 60.0)") == 2 and "…" not in printed
    assert "job 2 failed in rl: data.verifier=[red] tracking.uri=http://host" in printed
    assert "hush" not in (tmp_path / "2" / "job.json").read_text()

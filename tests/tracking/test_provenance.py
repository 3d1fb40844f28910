"""Where a run comes from."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from stages.tracking import provenance
from stages.tracking.provenance import dvc_inputs, md5, params, tags


def test_every_value_has_its_dotted_name() -> None:
    config = OmegaConf.create(
        {"seed": 1, "rl": {"ppo": {"kl_coef": 0.05}}, "rewards": {}, "terms": [2, 3], "uri": None}
    )
    assert params(config) == {
        "seed": "1", "rl.ppo.kl_coef": "0.05", "rewards": "{}", "terms": "[2, 3]", "uri": "None"
    }  # fmt: skip


def test_hashes_are_those_of_dvc(tmp_path: Path) -> None:
    (tmp_path / "raw" / "sub").mkdir(parents=True)
    (tmp_path / "raw" / "a.txt").write_text("one\n")
    (tmp_path / "raw" / "sub" / "b.txt").write_text("two\n")
    # As `dvc add raw` wrote them.
    assert md5(tmp_path / "raw" / "a.txt") == "5bbf5a52328e7439ae6e719dfe712200"
    assert md5(tmp_path / "raw") == "20ad46588e5628537eb822c2583dd63d.dir"


@pytest.mark.parametrize("lock", ["", "{", "stages: [1]\n", "<<<<<<< HEAD\n", "\x00"])
def test_a_damaged_lock_costs_its_hashes_and_no_stage(
    lock: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DVC_STAGE", "rl")
    (tmp_path / "dvc.yaml").write_text("stages:\n  rl:\n    deps: [data/sft/model]\n")
    (tmp_path / "dvc.lock").write_text(lock)
    assert tags("rl", OmegaConf.create({}), tmp_path) == {"treeline.stage": "rl"}
    assert ("MLflow gets no hashes of inputs" in capsys.readouterr().err) is (lock != "")


def test_large_inputs_are_not_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "MOST_HASHED", 3)
    (tmp_path / "dvc.yaml").write_text("stages:\n  rl:\n    deps: [small, large]\n")
    (tmp_path / "small").write_text("one")
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "data").write_text("four")
    assert list(dvc_inputs("rl", OmegaConf.create({}), tmp_path)) == ["small"]


def test_inputs_come_from_the_lock_or_are_computed(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  rl:\n    deps: [data/sft/model, 'conf/rl/${rl.algo}.yaml', conf/gone.yaml]\n"
    )
    (tmp_path / "dvc.lock").write_text(
        "schema: '2.0'\nstages:\n  sft:\n    outs:\n    - {path: data/sft/model, hash: md5, md5: abc.dir}\n"
    )
    (tmp_path / "data/sft/model").mkdir(parents=True)
    (tmp_path / "conf/rl").mkdir(parents=True)
    (tmp_path / "conf/rl/ppo.yaml").write_text("one\n")
    config = OmegaConf.create({"rl": {"algo": "ppo"}})
    assert dvc_inputs("rl", config, tmp_path) == {
        "data/sft/model": "abc.dir", "conf/rl/ppo.yaml": "5bbf5a52328e7439ae6e719dfe712200"
    }  # fmt: skip

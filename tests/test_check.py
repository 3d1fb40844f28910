"""The door before `dvc repro`."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from stages import check, launch
from stages.config.compose import compose_config
from stages.config.errors import UserError
from stages.data import base_model
from stages.data.base_model import find_base_model, write_base_model
from tests.data.tiny import ROOT, save_tiny_model, write_jsonl


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the project's."""
    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.setattr(base_model, "ROOT", tmp_path)
    return tmp_path


def model(path: str) -> DictConfig:
    return OmegaConf.create(
        {"model": {"path": path, "revision": None, "trust_remote_code": False, "lora": False}}
    )


def prepared(root: Path, path: str) -> Path:
    """A model that prepare has seen."""
    (root / "data" / "prepare").mkdir(parents=True)
    folder = save_tiny_model(root / path)
    write_base_model(root / "data" / "prepare", find_base_model(model(path).model)[0])
    return folder


def test_a_model_that_changed_or_went_since_prepare_is_refused(root: Path) -> None:
    folder = prepared(root, "models/a")
    check.check_model(model("models/a"))
    (folder / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(UserError, match="the content of .*models/a has changed since prepare ran"):
        check.check_model(model("models/a"))


def test_another_model_than_the_one_that_prepare_saw_is_not_held_against_it(root: Path) -> None:
    shutil.rmtree(prepared(root, "models/a"))
    save_tiny_model(root / "models" / "b")
    check.check_model(model("models/b"))
    with pytest.raises(UserError, match="there is no model folder models/a"):
        check.check_model(model("models/a"))


def test_a_model_that_is_not_whole_is_refused(root: Path) -> None:
    folder = save_tiny_model(root / "models" / "a", tie_word_embeddings=True)
    check.check_model(model("models/a"))
    config = model("models/a")
    config.model.update(
        lora=True, lora_r=4, lora_alpha=8, lora_dropout=0.0, lora_target_modules=["q_proj", "lm_head"]
    )
    with pytest.raises(UserError, match="lm_head shares its weights"):
        check.check_model(config)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"num_hidden_layers": 3}))
    with pytest.raises(UserError, match=r"9 missing \(model.layers.2"):
        check.check_model(model("models/a"))
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="model.safetensors is empty"):
        check.check_model(model("models/a"))


@pytest.mark.parametrize("there", [True, False])
def test_a_launch_for_a_gpu_needs_one(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setenv("TREELINE_LAUNCH", "gpu")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: there)
    config = compose_config()
    if there:
        check.check_launch(config)
        return
    with pytest.raises(UserError, match="conf/launch/gpu.yaml is for a GPU, and torch .* finds none"):
        check.check_launch(config)


def test_a_path_that_is_not_there_gets_the_name_beside_it(root: Path) -> None:
    (root / "data" / "raw").mkdir(parents=True)
    (root / "data" / "raw" / "train.jsonl").touch()
    config = compose_config(["data.sft.path=data/raw/trian.jsonl"])
    with pytest.raises(
        UserError, match=r"no file or folder data/raw/trian.jsonl; did you mean 'train.jsonl'\?"
    ):
        check.check_files(config)


BATCHES = {
    "sft.batch_size=7": "sft.batch_size 7 cannot be shared out over the 2 processes of conf/launch/two.yaml",
    "reward_model.batch_size=9": "reward_model.batch_size 9 cannot be shared out",
    "rl.ppo.batch_size=11": "rl.ppo.batch_size 11 .*; it must be a multiple of 2",
}


@pytest.mark.parametrize("override", BATCHES)
def test_a_batch_that_the_processes_cannot_share_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str
) -> None:
    (tmp_path / "launch").mkdir()
    for name, count in (("two", 2), ("cpu", 1)):
        text = f"distributed_type: MULTI_GPU\nuse_cpu: true\nnum_processes: {count}\n"
        (tmp_path / "launch" / f"{name}.yaml").write_text(text)
    monkeypatch.setattr(launch, "CONF", tmp_path)
    config = compose_config([override])
    monkeypatch.setenv("TREELINE_LAUNCH", "two")
    with pytest.raises(UserError, match=BATCHES[override]):
        check.check_launch(config)
    check.check_launch(compose_config())
    check.check_launch(
        compose_config(["rl.algo=dpo", "reward_model.batch_size=9"])
    )  # which is not trained then
    monkeypatch.delenv("TREELINE_LAUNCH")
    check.check_launch(config)


def test_a_path_that_a_stage_writes_into_is_refused(root: Path) -> None:
    (root / "data" / "sft").mkdir(parents=True)
    for path in ("data/sft", "data", "."):
        with pytest.raises(UserError, match=f"data.sft.path: {path} holds the output of"):
            check.check_files(compose_config([f"data.sft.path={path}"]))
    (root / "data" / "raw").mkdir()
    check.check_files(compose_config())


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            "data.preference.path",
            "params.yaml: data.preference.path is missing: dvc.yaml names it, even where source is not files; "
            "write path: data/raw",
        ),
        ("rl.algo", "params.yaml: rl.algo is missing: dvc.yaml names it; write algo: ppo"),
        ("evaluate", "params.yaml: 'evaluate' is missing and DVC watches it: write it, if only as {}"),
    ],
)
def test_what_dvc_reads_must_be_written_out_in_params(root: Path, key: str, message: str) -> None:
    config = compose_config()
    params = OmegaConf.load(ROOT / "params.yaml")
    OmegaConf.save(params, root / "params.yaml")
    check.check_params(config)
    parent, _, name = key.rpartition(".")
    OmegaConf.select(params, parent).pop(name) if parent else params.pop(name)
    OmegaConf.save(params, root / "params.yaml")
    with pytest.raises(UserError) as error:
        check.check_params(config)
    assert str(error.value) == message


LENGTHS = {
    "data.max_length=601": "data.max_length is 601 tokens, and the model has positions for 600",
    "rl.ppo.max_new_tokens=101": "data.max_prompt_length + rl.ppo.max_new_tokens is 601 tokens",
    "evaluate.max_new_tokens=101": "data.max_prompt_length + evaluate.max_new_tokens is 601 tokens",
}


@pytest.mark.parametrize("override", LENGTHS)
def test_what_is_longer_than_the_model_s_positions_is_refused(tmp_path: Path, override: str) -> None:
    own = [f"model.path={save_tiny_model(tmp_path / 'model', max_position_embeddings=600)}"]
    own += ["data.max_length=600", "data.max_prompt_length=500"]
    check.check_lengths(compose_config(own))
    check.check_lengths(compose_config([*own, "rl.grpo.max_new_tokens=101"]))  # which is not chosen
    with pytest.raises(UserError, match=re.escape(LENGTHS[override])):
        check.check_lengths(compose_config([*own, override]))


def test_columns_that_rewards_need_are_looked_for_in_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "door_check.py").write_text(
        "def cites(completions, source): return [1.0 for _ in completions]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = write_jsonl(
        tmp_path / "rows.jsonl", [{"prompt": "a"}, {"prompt": ""}, {"prompt": "b", "source": "c"}]
    )
    over = ["rl.algo=grpo", "data.prompt.source=files", f"data.prompt.path={path}"]
    config = compose_config([*over, "data.prompt.prompt_template=null"])  # the shipped one reads metadata
    config.rl.grpo.rewards = {"door_check:cites": 1.0}
    check.check_reward_columns(config)
    write_jsonl(path, [{"prompt": "a", "sources": "c"}])
    with pytest.raises(UserError, match="^data.prompt: reward .* needs the column 'source'; did you mean"):
        check.check_reward_columns(config)
    config.data.prompt.source = "hub"  # not fetched here: sft looks before it trains
    check.check_reward_columns(config)
    config.data.prompt.source = "reasoning_gym"
    with pytest.raises(UserError, match="needs the column 'source'; known are answer, .*metadata"):
        check.check_reward_columns(config)

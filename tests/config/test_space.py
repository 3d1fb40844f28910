"""Room on the disk is asked for before anything is written."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from omegaconf import DictConfig

from stages.config.compose import compose_config
from stages.config.errors import UserError
from stages.config.space import check_room, check_space, parameters
from stages.disk import free
from stages.graph import graph
from tests.data.tiny import save_tiny_model


def config(*overrides: str) -> DictConfig:
    return compose_config(overrides)


def save_header(folder: Path, *shape: int) -> Path:
    """A safetensors file that says how large its one tensor is, and then ends."""
    header = json.dumps({"weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return folder


def test_parameters_are_counted_from_the_headers(tmp_path: Path) -> None:
    assert parameters(config(f"model.path={save_header(tmp_path, 1000, 1000, 7)}")) == 7_000_000


def test_parameters_of_a_real_model(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = save_tiny_model(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert parameters(config(f"model.path={folder}")) == sum(p.numel() for p in model.parameters())


def test_the_embedded_model_s_size() -> None:
    assert parameters(config()) == 134_515_008


def test_a_model_that_the_disk_cannot_hold(tmp_path: Path) -> None:
    """10^13 parameters: 40 TB a copy, eleven of them while a stage trains."""
    save_header(tmp_path, 10**7, 10**6)
    huge = config(f"model.path={tmp_path}")
    with pytest.raises(UserError, match=r"not enough disk space for sft: up to 440000\.1 GB are needed"):
        check_space("sft", huge, tmp_path)
    last = config(f"model.path={tmp_path}", "sft.keep=last")  # without the best weights
    with pytest.raises(UserError, match=r"not enough disk space for sft: up to 320000\.1 GB are needed"):
        check_space("sft", last, tmp_path)
    with pytest.raises(UserError, match="not enough disk space for prepare, sft, reward_model, rl, evaluate"):
        check_room(list(graph()), huge, tmp_path)
    check_space("evaluate", huge, tmp_path)  # it writes no model
    check_space("sft", config(f"model.path={tmp_path}", "run.check_space=false"), tmp_path)


def test_adapters_that_are_kept_apart_need_little(tmp_path: Path) -> None:
    save_header(tmp_path, 10**7, 10**6)
    lora = ["model.lora=true", "model.merge_adapter=false", f"model.path={tmp_path}"]
    with pytest.raises(UserError, match=r"up to 80000\.1 GB"):
        check_space("rl", config(*lora), tmp_path)


def test_what_a_killed_run_left_makes_room_for_the_one_that_goes_on(tmp_path: Path) -> None:
    """Half as much again is needed as is free; a checkpoint holds as much as is free."""
    available = free(tmp_path)
    huge = config(f"model.path={save_header(tmp_path, available * 3 // 2 // (11 * 4))}")
    with pytest.raises(UserError, match="not enough disk space for sft"):
        check_space("sft", huge, tmp_path, [tmp_path / "nothing"])
    (tmp_path / "kept" / "step-20").mkdir(parents=True)
    with (tmp_path / "kept" / "step-20" / "weights.safetensors").open("wb") as file:
        file.truncate(available)  # says that it has this size, and takes no room
    check_space("sft", huge, tmp_path, [tmp_path / "kept"])


def test_an_output_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    check_space(
        "sft", config(f"model.path={save_tiny_model(tmp_path / 'model')}"), tmp_path / "a" / "b" / "sft"
    )

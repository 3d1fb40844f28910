"""The launch: its file, and the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages import launch
from stages.config.errors import UserError
from stages.launch import check_environment, read_launch

GOOD = "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nuse_cpu: true\nnum_processes: 2\n"
REFUSED = {
    GOOD.replace("MULTI_GPU", "FSDP"): r"shards weights \(FSDP\)",
    GOOD.replace("MULTI_GPU", "DEEPSPEED"): r"shards weights \(DEEPSPEED\)",
    GOOD + "num_proceses: 2\n": "unknown key 'num_proceses'; did you mean 'num_processes'",
    GOOD.replace("MULTI_GPU", "FOO"): "'FOO' is not a valid DistributedType",
    GOOD.replace("LOCAL_MACHINE", "MOON"): "'MOON' is not a valid ComputeEnvironment",
    GOOD.replace(": 2", ": two"): "num_processes is 'two'; it must be a whole number from 1 on",
    GOOD.replace(": 2", ": 0"): "num_processes is 0; it must be a whole number from 1 on",
    "use_cpu: true\n": "A `distributed_type` must be specified",
    "": "A `distributed_type` must be specified|NoneType",
    "- a\n": "must hold sections of keys and values",
    "a: [\n": "conf/launch/mine.yaml cannot be read",
    "a: 'ä'\n".encode("latin-1"): "conf/launch/mine.yaml, line 1: this is not UTF-8",
}


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A launch file of one's own, that TREELINE_LAUNCH chooses."""
    (tmp_path / "launch").mkdir()
    monkeypatch.setattr(launch, "CONF", tmp_path)
    monkeypatch.setenv("TREELINE_LAUNCH", "mine")
    return tmp_path / "launch" / "mine.yaml"


def test_a_launch_that_can_be_started_passes(mine: Path) -> None:
    mine.write_text(GOOD)
    assert read_launch().num_processes == 2


@pytest.mark.parametrize("text", REFUSED)
def test_one_that_cannot_is_refused_in_one_line(mine: Path, text: str | bytes) -> None:
    mine.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=REFUSED[text]) as error:
        read_launch()
    assert "conf/launch/mine.yaml" in str(error.value) and "\n" not in str(error.value)


def test_a_launch_that_is_not_there_gets_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREELINE_LAUNCH", "gpus")
    with pytest.raises(UserError, match=r"there is no conf/launch/gpus.yaml; did you mean 'gpu'\?"):
        read_launch()


ENVIRONMENT = [
    *[(name, value) for name in ("TREELINE_THREADS", "OMP_NUM_THREADS")
      for value in ("abc", "0", "-1", "1e9", "1000000000", "1.5", "4,2", "9" * 5000)],
    *[(f"ACCELERATE_USE_{name}", "true") for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG")],
    ("ACCELERATE_USE_CPU", "perhaps"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), ENVIRONMENT, ids=lambda part: part[:20])
def test_variables_that_cannot_be(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"^{name}") as error:
        check_environment()
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TREELINE_THREADS", "4"),
        ("OMP_NUM_THREADS", ""),
        ("ACCELERATE_USE_FSDP", "false"),
        ("ACCELERATE_USE_CPU", "true"),
    ],
)
def test_variables_that_can(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    check_environment()

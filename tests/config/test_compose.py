"""Values from conf/, params.yaml and the command line: which wins, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stages.config.compose import check_overrides, compose_config
from stages.config.errors import UserError


def test_params_win_over_defaults_and_the_command_line_over_both(root: Path) -> None:
    (root / "params.yaml").write_text("seed: 7\nrl: {ppo: {kl_coef: 0.3}}\n")
    config = compose_config(["rl.grpo.beta=0.5"])
    assert (config.seed, config.rl.ppo.kl_coef, config.rl.grpo.beta) == (7, 0.3, 0.5)
    assert compose_config(["seed=9"]).seed == 9
    assert config.rl.ppo.gamma == 1.0  # conf/rl/ppo.yaml
    assert config.rl.ppo.temperature == 1.0  # conf/training/online.yaml
    assert config.rl.dpo.max_grad_norm == 1.0  # conf/training/default.yaml


def test_numbers_in_scientific_notation_are_numbers(root: Path) -> None:
    """PyYAML reads 1e-5 as a string; Hydra's reader does not."""
    (root / "params.yaml").write_text("sft: {learning_rate: 1e-5}\n")
    assert compose_config().sft.learning_rate == 0.00001
    assert compose_config(["sft.learning_rate=2e-5"]).sft.learning_rate == 0.00002


def test_params_are_this_checkout_s_whatever_dvc_root_says(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside a queued experiment, DVC_ROOT names the project that it was queued in."""
    parent = root / "parent"
    parent.mkdir()
    (parent / "params.yaml").write_text("seed: 1\n")
    (root / "params.yaml").write_text("seed: 2\n")
    monkeypatch.setenv("DVC_ROOT", str(parent))
    assert compose_config().seed == 2


UNKNOWN = {
    "rl.ppo.kl_coeff=1": "unknown key 'rl.ppo.kl_coeff'; did you mean 'kl_coef'?",
    "sede=1": "unknown key 'sede'; did you mean 'seed'?",
    "model.path.x=1": "'model.path.x': nothing lies below 'model.path'",
    "run.inputs.rl=x": "unknown key 'run.inputs.rl'; to add it, write +run.inputs.rl=...",
    "data.sft.columns.prompt=q": "'data.sft.columns.prompt'; to add it, write +data.sft.columns.prompt=...",
    "rl.ppo.rewards.verifyer=1": "did you mean 'verifier'?; to add it, write +rl.ppo.rewards.verifyer=...",
    "data.sft.task.min_terns=1": "did you mean 'min_terms'?; to add it, write +data.sft.task.min_terns=...",
    "tracking=of": "Could not find 'tracking/of' Available options in 'tracking': default off",
    "seed": "cannot read the override 'seed'",
    "seed=[": "cannot read the override 'seed=['",
    'rl.ppo.rewards={verifier:1,"a.b:f":0.1}': r"keys take no quotes, write '+rl.ppo.rewards={verifier:1,a.b\:f:0.1}'",
    "rl.ppo.rewards={verifier:1,'a.b:f':0.1}": r"keys take no quotes, write '+rl.ppo.rewards={verifier:1,a.b\:f:0.1}'",
    "rl.ppo.rewards={a.b:f:0.1}": r"a colon within a name is written \:, '+rl.ppo.rewards={a.b\:f:0.1}'",
    "+rl.ppo.rewards={a.b:f:0.1}": r"a colon within a name is written \:, '+rl.ppo.rewards={a.b\:f:0.1}'",
    "rl.ppo.rewards={reward_model:1}": "unknown key 'rl.ppo.rewards.reward_model'; known are verifier; to add "
    "it, write '+rl.ppo.rewards={reward_model:1}'",
    "data.sft={pth:x}": "unknown key 'data.sft.pth'; did you mean 'path'?",
    # what the shell makes of braces without quotes
    "rl.ppo.rewards=a.b:f:0.1": "takes keys and values, in quotes for the shell: 'rl.ppo.rewards={name:1.0}'",
    "rl.ppo.rewards=[verifier]": "rl.ppo.rewards takes keys and values",
    "rl.ppo.kl_coef=0.1,0.2": "To sweep over it, add --multirun",
}


@pytest.mark.parametrize("override", UNKNOWN)
def test_overrides_that_lead_nowhere(root: Path, override: str) -> None:
    (root / "params.yaml").write_text(
        "rl: {ppo: {rewards: {verifier: 1.0}}}\ndata: {sft: {task: {min_terms: 2}}}\n"
    )
    with pytest.raises(UserError, match=re.escape(UNKNOWN[override])) as error:
        compose_config([override])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "override", [r"+rl.ppo.rewards={a.b\:f:0.1}", "+rl.ppo.rewards={verifier:0.5}", "tracking=off"]
)
def test_keys_and_values_for_a_section_are_taken(root: Path, override: str) -> None:
    (root / "params.yaml").write_text("seed: 1\n")
    check_overrides([override])
    assert compose_config([override])


@pytest.mark.parametrize("sweep", ["{verifier:0.5},{verifier:1.0}", r"{a.b\:f:0.1},{verifier:1.0}"])
def test_of_a_sweep_each_value_is_looked_at(root: Path, sweep: str) -> None:
    (root / "params.yaml").write_text("rl: {ppo: {rewards: {verifier: 1.0}}}\n")
    compose_config()
    check_overrides([f"+rl.ppo.rewards={sweep}"])
    with pytest.raises(UserError, match="rl.ppo.rewards takes keys and values"):
        check_overrides(["rl.ppo.rewards={verifier:0.5},verifier"])


@pytest.mark.parametrize("values", ["interval(0.01,0.1)", "glob(*)", "range(1,3)"])
def test_what_a_sweeper_chooses_from_is_left_to_it(root: Path, values: str) -> None:
    check_overrides([f"rl.ppo.kl_coef={values}"])


def test_what_is_added_to_an_open_section_is_taken(root: Path) -> None:
    (root / "params.yaml").write_text("seed: 1\n")
    config = compose_config(["+run.inputs.rl=some/folder", "+rl.ppo.rewards.verifier=2"])
    assert config.run.inputs == {"rl": "some/folder"}
    assert config.rl.ppo.rewards == {"verifier": 2}


UNREADABLE = {
    "seed: [": "params.yaml cannot be read: while parsing a flow node",
    "seed: 1\nseed: 2\n": "found duplicate key seed",
    "- seed\n": "params.yaml must hold sections of keys and values",
    "seed\n": "params.yaml must hold sections of keys and values",
    "seed: 1\n---\nseed: 2\n": "params.yaml cannot be read: expected a single document",
    "seed:\t1\n\tb: 2\n": "params.yaml cannot be read: ",
    "seed: *x\n": "params.yaml cannot be read: found undefined alias",
    "sft: !!set {a}\n": "params.yaml cannot be read: ",
    "~: 1\n": "params.yaml cannot be read: ",
    "rl: {ppo: {rewards: [verifier]}}\n": "params.yaml: rl.ppo.rewards is a list; write keys and values below it",
    "run: {inputs: [a]}\n": "params.yaml: run.inputs is a list",
    "defaults: [a]\n": "'defaults' does not belong here",
    "hydra: {job: {name: x}}\n": "'hydra' does not belong here",
    # DVC would compare the text, and see no change when model.lora_r changes
    "seed: ${model.lora_r}\n": "'seed: ${model.lora_r}': write the value itself",
}


@pytest.mark.parametrize("text", UNREADABLE)
def test_params_that_dvc_and_hydra_would_read_differently(root: Path, text: str) -> None:
    (root / "params.yaml").write_text(text)
    with pytest.raises(UserError, match=re.escape(UNREADABLE[text])):
        compose_config()


def test_a_byte_order_mark_is_no_fault(root: Path) -> None:
    (root / "params.yaml").write_text("\ufeffseed: 7\n")
    assert compose_config().seed == 7


def test_no_params_at_all(root: Path) -> None:
    with pytest.raises(UserError, match=r"params\.yaml cannot be read: .*No such file"):
        compose_config()

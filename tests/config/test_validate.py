"""The door: what is refused before a stage does anything, and in which words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from stages.config.compose import ROOT, compose_config
from stages.config.errors import UserError
from stages.config.schema import TrainingSettings
from stages.config.validate import needs_reward_model, read, validate
from stages.evaluation.settings import EvaluateSettings
from stages.machine import multiplies_in_bf16

OWN = OmegaConf.load(ROOT / "params.yaml")


def check(root: Path, key: str, value: Any) -> None:
    """Validate the project's params.yaml with one other value."""
    params = OWN.copy()
    OmegaConf.update(params, key, value, merge=False)
    OmegaConf.save(params, root / "params.yaml")
    validate(compose_config())


def test_the_project_s_own_values_pass(root: Path) -> None:
    for algorithm in ("ppo", "grpo", "rloo", "dpo", "kto"):
        check(root, "rl.algo", algorithm)


WHOLE = "it must be a whole number from 0 to 2147483647"
REFUSED: list[tuple[str, Any, str]] = [
    ("sfft", {}, "unknown section 'sfft'; did you mean 'sft'?"),
    ("sft.lerning_rate", 0.1, "unknown key 'sft.lerning_rate'; did you mean 'learning_rate'?"),
    ("rl.ppo.kl_coeff", 1.0, "unknown key 'rl.ppo.kl_coeff'; did you mean 'kl_coef'?"),
    ("rl.dpo.bta", 1.0, "unknown key 'rl.dpo.bta'; did you mean 'beta'?"),
    ("data.sft.tsk", {}, "unknown key 'data.sft.tsk'; did you mean 'task'?"),
    ("data.preference.sampling.temprature", 1.0, "sampling.temprature'; did you mean 'temperature'?"),
    ("rl.gpro", {"beta": 0.1}, "unknown key 'rl.gpro'; did you mean 'grpo'?"),
    ("rl.algo", "gropo", "unknown algorithm 'gropo'; did you mean 'grpo'?"),
    ("rl.algo", None, "unknown algorithm 'None'; known are dpo, grpo, kto, ppo, rloo"),
    (
        "rl.ppo._target_",
        "stages.algorithms.ppo.PPP",
        "rl.ppo._target_: stages.algorithms.ppo.PPP is no algorithm",
    ),
    ("seed", -1, f"seed is -1; {WHOLE}"),
    ("seed", 2**31, f"seed is 2147483648; {WHOLE}"),
    ("seed", True, f"seed is True; {WHOLE}"),
    ("seed", "one", f"seed is 'one'; {WHOLE}"),
    ("sft", None, "'sft' is None; write keys and values below it, or {}"),
    ("rl", None, "'rl' is None"),
    ("rl.grpo", None, "'rl.grpo' is None"),
    ("model", 5, "'model' is 5"),
    ("sft.learning_rate", -1.0, "sft.learning_rate: Input should be greater than 0 (it is -1.0)"),
    ("sft.learning_rate", float("inf"), "sft.learning_rate: Input should be a finite number"),
    ("sft.learning_rate", "1e-4", "sft.learning_rate: Input should be a valid number (it is '1e-4')"),
    ("sft.batch_size", 1e30, "sft.batch_size: Input should be a valid integer (it is 1e+30)"),
    ("sft.batch_size", 10**30, "sft.batch_size: Input should be at most 2147483647"),
    ("sft.max_steps", 2**31, "sft.max_steps: Input should be at most 2147483647 (it is 2147483648)"),
    ("data.sft.size", 10**30, "data.sft.size: Input should be at most 2147483647"),
    ("sft.batch_size", True, "sft.batch_size: Input should be a valid integer (it is True)"),
    ("sft.learning_rate", True, "sft.learning_rate: Input should be a valid number (it is True)"),
    ("seed", 10**400, f"...; {WHOLE}"),
    (
        "model.lora_target_modules",
        5,
        "write all-linear, or a list of module names such as [q_proj, v_proj] (it is 5)",
    ),
    ("model.lora_target_modules", [], "write all-linear, or a list of module names"),
    ("model.lora_target_modules", [1], "write all-linear, or a list of module names"),
    ("model.lora_target_modules", [["q_proj"]], "write all-linear, or a list of module names"),
    ("model.lora_target_modules", "", "write all-linear, or a list of module names"),
    ("model.lora_target_modules", "q_proj(", "model.lora_target_modules: this is not a pattern: "),
    ("model.path", "", "model.path: String should have at least 1 character"),
    ("run.inputs", {"rll": "x"}, "run.inputs: there is no stage 'rll'; did you mean 'rl'?"),
    ("run.inputs", {"rl": 5}, "run.inputs.rl: Input should be a valid string (it is 5)"),
    ("sft.batch_size", 1.5, "sft.batch_size: Input should be a valid integer (it is 1.5)"),
    (
        "sft.eval_steps",
        1.5,
        "write a share of all steps, below 1, or a whole number of steps (it is 1.5)",
    ),
    ("sft.eval_steps", -0.1, "sft.eval_steps: Input should be greater than or equal to 0 (it is -0.1)"),
    ("sft.eval_steps", True, "sft.eval_steps: Input should be a valid number (it is True)"),
    ("sft.eval_steps", 1e30, "sft.eval_steps: Input should be less than or equal to 2147483647"),
    ("sft.keep", "first", "sft.keep: Input should be 'best' or 'last' (it is 'first')"),
    (
        "rl.ppo.early_stopping_patience",
        0,
        "rl.ppo.early_stopping_patience: Input should be greater than or equal to 1",
    ),
    (
        "rl.dpo.early_stopping_patience",
        1.5,
        "early_stopping_patience: Input should be a valid integer (it is 1.5)",
    ),
    ("run.keep", "best", "unknown key 'run.keep'"),
    ("data.validation_size", 0, "data.validation_size: Input should be greater than or equal to 1 (it is 0)"),
    ("sft.bf16", "yes", "sft.bf16: write true, false or auto (it is 'yes')"),
    ("sft.lr_scheduler_type", "cosin", "sft.lr_scheduler_type: Input should be 'linear', 'cosine'"),
    (
        "reward_model.warmup_ratio",
        2,
        "reward_model.warmup_ratio: Input should be less than or equal to 1 (it is 2)",
    ),
    ("rl.ppo.gae_lambda", 1.1, "rl.ppo.gae_lambda: Input should be less than or equal to 1 (it is 1.1)"),
    ("data.sft.columns", {"prompt": 5}, "data.sft.columns.prompt: Input should be a valid string (it is 5)"),
    (
        "data.sft.prompt_template",
        "{{ question }",
        "params.yaml: data.sft.prompt_template: line 1 is not valid Jinja: unexpected '}' (it is '{{ question }')",
    ),
    (
        "data.prompt",
        {"path": "data/raw", "columns": {"prompt": "question"}, "prompt_template": "{{ question }}"},
        "data.prompt.prompt_template: it writes the column 'prompt': remove that from `columns` and `ignore`",
    ),
    (
        "data.preference",
        {"path": "data/raw", "columns": {"text": "prompt.text"}, "prompt_template": "x"},
        "data.preference.prompt_template: it writes the column 'prompt'",
    ),
    ("data.sft.source", "file", "data.sft.source: Input should be 'files', 'hub' or 'reasoning_gym'"),
    ("rl.ppo.rewards", {}, "rl.ppo.rewards is empty"),
    ("rl.ppo.rewards", None, "rl.ppo.rewards: Input should be a valid dictionary (it is None)"),
    ("rl.ppo.rewards", {"reward_modle": 1.0}, "no reward 'reward_modle'; did you mean 'reward_model'?"),
    ("rl.ppo.rewards", {"no.such.module:f": 1.0}, "no.such.module"),
    ("rl.dpo.rewards", {"verifier": 1.0}, "rl.dpo.rewards: "),
    ("data.verifier", "no.such.module:f", "no.such.module"),
    (
        "rl.dpo.loss._target_",
        "stages.losses.preference.sigmod",
        "rl.dpo.loss: stages.losses.preference has no function 'sigmod'; did you mean 'sigmoid'?",
    ),
    (
        "rl.dpo.loss.label_smooting",
        0.1,
        "got an unexpected keyword argument 'label_smooting'; did you mean 'label_smoothing'?",
    ),
    ("rl.dpo.loss.beta", 0.1, "rl.dpo.loss: leave out 'beta' here"),
    (
        "rl.dpo.loss.label_smoothing",
        0.5,
        "rl.dpo.loss: label_smoothing: Input should be less than 0.5 (it is 0.5)",
    ),
    ("rl.dpo.loss.label_smoothing", -0.1, "label_smoothing: Input should be greater than or equal to 0"),
    ("rl.dpo.loss.label_smoothing", "0.1", "label_smoothing: Input should be a valid number (it is '0.1')"),
    (
        "rl.grpo.kl_estimator._target_",
        "stages.losses.kl.k3",
        "rl.grpo.kl_estimator: stages.losses.kl.k3 cannot be called",
    ),
    ("rl.dpo.loss._target_", "stages.losses.preference.bradley_terry", "cannot be called: "),
    (
        "rl.dpo.loss._target_",
        "stages.losses.preferences.ipo",
        "rl.dpo.loss: cannot import stages.losses.pref",
    ),
    (
        "rl.dpo.loss.label_smoothing",
        "x",
        "rl.dpo.loss: label_smoothing: Input should be a valid number (it is 'x')",
    ),
    ("rl.dpo.loss.label_smoothing", True, "rl.dpo.loss: label_smoothing: Input should be a valid number"),
    ("rl.dpo.loss._target_", "ipo", "rl.dpo.loss: _target_ must name a function, as module.function"),
]


@pytest.mark.parametrize(("key", "value", "message"), REFUSED, ids=lambda part: str(part)[:40])
def test_refused(root: Path, key: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as error:
        check(root, key, value)
    assert "\n" not in str(error.value)


def test_losses_with_settings_of_their_own_pass(root: Path) -> None:
    loss = "stages.losses.preference"
    check(root, "rl.dpo.loss", {"_target_": f"{loss}.sigmoid", "label_smoothing": 0.1})
    check(root, "rl.dpo.loss", {"_target_": f"{loss}.ipo"})


def test_an_empty_reward_of_an_algorithm_that_is_not_chosen_passes(root: Path) -> None:
    check(root, "rl.grpo.rewards", {})


@pytest.mark.parametrize(
    ("algorithm", "rewards", "needed"),
    [
        ("ppo", {"reward_model": 1.0}, True),
        ("ppo", {"reward_model": 0.0, "verifier": 1.0}, False),
        ("grpo", {"verifier": 1.0, "reward_model": 0.1}, True),
        ("dpo", {}, False),
    ],
)
def test_when_a_reward_model_is_trained(algorithm: str, rewards: dict[str, float], needed: bool) -> None:
    config = OmegaConf.create({"rl": {"algo": algorithm, algorithm: {"rewards": rewards}}})
    assert needs_reward_model(config) is needed


@pytest.mark.parametrize("value", [True, False, "auto"])
def test_bf16_is_a_bool_once_it_is_read(root: Path, value: bool | str) -> None:
    params = OmegaConf.merge(OWN, {"sft": {"bf16": value}, "evaluate": {"bf16": value}})
    OmegaConf.save(params, root / "params.yaml")
    config = compose_config()
    found = {
        read(config, "sft", TrainingSettings).bf16,
        read(config, "evaluate", EvaluateSettings).bf16,
    }
    assert found == {multiplies_in_bf16() if value == "auto" else value}

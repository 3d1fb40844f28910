"""reward_model: what is preferred becomes a number. Trained where the chosen algorithm's rewards name it."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from omegaconf import DictConfig

from stages.algorithms.reward_model import BradleyTerry
from stages.config.schema import RewardModelSettings
from stages.config.validate import needs_reward_model, read
from stages.data.base_model import read_base_model
from stages.data.examples import Example
from stages.data.tokenizers import load_tokenizer
from stages.dispatch import entry
from stages.models.load import save_model
from stages.models.reward import RewardModel
from stages.models.reward_kinds import REWARD_MODELS
from stages.rewards.scores import check_finite
from stages.training.evaluation import LOSS, HeldOut
from stages.training.heldout import mean_losses
from stages.training.preferences import load_preferences
from stages.training.session import make_accelerator, run_training
from stages.workspace import Stage

log = logging.getLogger("stages.reward_model")  # not __name__: run as a program, that is __main__


@entry("reward_model")
def main(run: Stage) -> None:
    if not needs_reward_model(run.config):
        # Constant, so that under such an algorithm a change of this stage's settings re-runs nothing after it.
        if run.is_main:
            log.info("not needed: the rewards of rl.%s do not name reward_model", run.config.rl.algo)
            (run.output / "marker.json").write_text(json.dumps({"trained": False}) + "\n")
        return
    settings = read(run.config, "reward_model", RewardModelSettings)
    accelerator = make_accelerator(settings)
    rows, held_out = load_preferences(run, settings, accelerator, BradleyTerry.usable)
    sft = run.input("sft") / "model"
    reward_model = new_reward_model(settings.kind, sft, run.config.model, run.config.seed)
    if settings.gradient_checkpointing:
        reward_model.model.activation_checkpointing_enable()
    algorithm = BradleyTerry(reward_model)

    evaluate = partial(mean_losses, algorithm, held_out, settings.max_tokens)
    run_training(run, algorithm, rows, settings, accelerator, HeldOut(LOSS, evaluate))

    normalize(reward_model, rows, settings.max_tokens, accelerator)
    if run.is_main:
        base = read_base_model(run.input("prepare"))
        tokenizer = load_tokenizer(base.path, base.revision, base.trust_remote_code)
        merge = settings.merge_adapter
        save_model(
            reward_model.model, tokenizer, run.output / "model", merge_adapter=merge, base=sft,
            stop_token_ids=base.stop_token_ids,
        )  # fmt: skip


def new_reward_model(kind: str, sft: Path, model: DictConfig, seed: int) -> RewardModel:
    """The head, and adapters, start from random weights, which follow from the seed alone: whatever was sampled
    before."""
    torch.manual_seed(seed)
    return REWARD_MODELS[kind].from_policy(sft, model)


def normalize(model: RewardModel, rows: Sequence[Example], max_tokens: int, accelerator: Accelerator) -> None:
    """Set mean 0 and deviation 1 on completions of the preference data (Huang et al. 2024, detail 8)."""
    rows = rows[:512]
    trees = [example.tree for example in rows]
    with accelerator.autocast():
        scores = model.eval().score(trees, max_tokens)
    check_finite("reward_model", scores.tolist(), rows, trees)
    model.config.reward_mean = float(scores.mean())
    model.config.reward_std = float(scores.std().clamp(min=1e-6))


if __name__ == "__main__":
    main()

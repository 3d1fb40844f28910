"""rl: the sft model is optimised by the algorithm that `rl.algo` names."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from hydra.utils import get_class
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from stages.algorithms.base import Algorithm
from stages.algorithms.parts import Parts
from stages.config.schema import TrainingSettings
from stages.config.validate import read
from stages.data.base_model import BaseModel, read_base_model
from stages.data.examples import Example
from stages.data.tokenizers import load_tokenizer
from stages.dispatch import entry
from stages.models.compiled import compile_layers
from stages.models.load import add_adapter, load_model, narrow_products, save_model
from stages.models.one_backbone import attach_reward_model, shares_base
from stages.models.reward_kinds import load_reward_model
from stages.rewards.functions import FunctionReward
from stages.rewards.learned import LearnedReward
from stages.rewards.rewards import REWARD_MODEL, Rewards
from stages.training.answers import GOLD, REWARD, score_answers
from stages.training.evaluation import LOSS, HeldOut
from stages.training.heldout import mean_losses
from stages.training.preferences import load_preferences
from stages.training.session import load_rows, make_accelerator, run_training
from stages.workspace import Stage

log = logging.getLogger("stages.rl")  # not __name__: run as a program, that is __main__

NOT_BETTER = (
    "rl hands on a model that is not shown to be better than the sft model: %s; what to look at next: "
    "docs/overoptimisation.md"
)


@entry("rl")
def main(run: Stage) -> None:
    kind = get_class(run.config.rl[run.config.rl.algo]._target_)
    settings = read(run.config, f"rl.{run.config.rl.algo}", kind.Settings)
    base = read_base_model(run.input("prepare"))
    tokenizer = load_tokenizer(base.path, base.revision, base.trust_remote_code)
    accelerator = make_accelerator(settings)
    parts = make_parts(run, settings, base, tokenizer, accelerator.device)
    pairs: list[Example] = []
    if kind.offline:
        rows, pairs = load_preferences(run, settings, accelerator, kind.usable)
    else:
        rows = load_rows(run, "prompt")
    algorithm = kind(settings, parts)
    held_out = make_held_out(run, settings, algorithm, parts, pairs)

    outcome = run_training(run, algorithm, rows, settings, accelerator, held_out)

    if run.is_main:
        if not outcome.better:
            log.warning(NOT_BETTER, outcome.doubt())
        merge = run.config.model.merge_adapter
        sft = run.input("sft") / "model"
        save_model(
            parts.policy, tokenizer, run.output / "model", merge_adapter=merge, base=sft,
            stop_token_ids=base.stop_token_ids,
        )  # fmt: skip


def make_held_out(
    run: Stage, settings: Any, algorithm: Algorithm, parts: Parts, pairs: Sequence[Example]
) -> HeldOut:
    """Greedy answers to held-out prompts, judged by the verifier or else by the run's own rewards. Where there is
    neither, the loss on held-out preferences, `pairs`."""
    if not parts.verifier and not parts.rewards.sources:
        examples = algorithm.prepare(pairs, run.config.seed) if len(pairs) > 1 else []
        evaluate = partial(mean_losses, algorithm, examples, settings.max_tokens)
        return HeldOut(replace(LOSS, stop_at_fall=True), evaluate, examples)
    prompts = load_rows(run, "prompt_validation", settings.max_eval_samples)
    criterion = GOLD if parts.verifier else REWARD
    log.info("%s while training: greedy answers to %d held-out prompts", criterion.metric, len(prompts))
    if criterion is REWARD and REWARD_MODEL in parts.rewards.sources:
        log.info(
            "%s is what is trained on: it cannot show that the reward model is over-optimised", REWARD.metric
        )
    return HeldOut(criterion, partial(score_answers, parts, prompts, settings.max_new_tokens))


def make_parts(
    run: Stage,
    settings: TrainingSettings,
    base: BaseModel,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
) -> Parts:
    """The policy, from the sft model, and what the algorithm may ask for beside it."""
    torch.manual_seed(run.config.seed)  # adapters start from random weights
    sft, folder, trust = (
        run.input("sft") / "model",
        run.input("reward_model") / "model",
        base.trust_remote_code,
    )
    model = load_model(sft, trust_remote_code=trust)
    if settings.gradient_checkpointing:
        model.activation_checkpointing_enable()
    policy = add_adapter(model, run.config.model).to(device)
    dtype = torch.bfloat16 if settings.bf16 else torch.float32

    def learned() -> LearnedReward:
        if isinstance(policy, PeftModel) and shares_base(folder, sft):
            reward_model = attach_reward_model(policy, folder, trust_remote_code=trust).to(device)
        else:
            reward_model = load_reward_model(folder, trust_remote_code=trust).to(device)
            narrow_products(reward_model.model, dtype)
            if run.config.model.torch_compile:
                compile_layers(reward_model)
        return LearnedReward(reward_model, settings.max_tokens, bf16=settings.bf16)

    weights = dict(run.config.rl[run.config.rl.algo].rewards)
    name = run.config.data.verifier
    verifier = FunctionReward(name, tokenizer) if name else None
    return Parts(
        policy=policy,
        eos_token_ids=base.stop_token_ids,
        dtype=dtype,
        rewards=Rewards.from_config(weights, verifier, tokenizer, learned),
        verifier=verifier,
    )


if __name__ == "__main__":
    main()

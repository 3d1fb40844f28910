"""rl: the sft model is optimised by the algorithm that `rl.algo` names."""

from __future__ import annotations

import torch
from hydra.utils import get_class

from stages.algorithms.parts import Parts
from stages.config.validate import read
from stages.data.base_model import read_base_model
from stages.data.tokenizers import load_tokenizer
from stages.dispatch import entry
from stages.models.load import add_adapter, load_model, save_model
from stages.rewards.functions import FunctionReward
from stages.rewards.learned import LearnedReward
from stages.rewards.rewards import Rewards
from stages.training.gold import gold_accuracy
from stages.training.preferences import load_preferences
from stages.training.session import load_rows, make_accelerator, run_training
from stages.workspace import Stage


@entry("rl")
def main(run: Stage) -> None:
    config = run.config.rl[run.config.rl.algo]
    kind = get_class(config._target_)
    settings = read(run.config, f"rl.{run.config.rl.algo}", kind.Settings)
    base = read_base_model(run.input("prepare"))
    tokenizer = load_tokenizer(base.path, base.revision, base.trust_remote_code)
    accelerator = make_accelerator(settings)
    torch.manual_seed(run.config.seed)  # adapters start from random weights
    sft = run.input("sft") / "model"
    model = load_model(sft, trust_remote_code=base.trust_remote_code)
    if settings.gradient_checkpointing:
        model.activation_checkpointing_enable()

    def learned() -> LearnedReward:
        return LearnedReward(
            run.input("reward_model") / "model", settings.max_tokens, bf16=settings.bf16, device=accelerator.device,
            trust_remote_code=base.trust_remote_code,
        )  # fmt: skip

    verifier = run.config.data.verifier
    parts = Parts(
        policy=add_adapter(model, run.config.model).to(accelerator.device),
        eos_token_ids=base.stop_token_ids,
        sampler_dtype=torch.bfloat16 if settings.bf16 else torch.float32,
        build_rewards=lambda: Rewards.from_config(dict(config.rewards), verifier, tokenizer, learned),
    )
    if kind.offline:
        rows, _ = load_preferences(run, settings, accelerator, kind.usable)
    else:
        rows = load_rows(run, "prompt")
    held_out = load_rows(run, "prompt_test", settings.max_eval_samples)
    judge = FunctionReward(verifier, tokenizer) if verifier else None
    algorithm = kind(settings, parts)

    run_training(
        run, algorithm, rows, settings, accelerator,
        evaluate=lambda: gold_accuracy(parts.sampler, held_out, judge, settings.max_new_tokens),
    )  # fmt: skip

    if run.is_main:
        merge = run.config.model.merge_adapter
        save_model(parts.policy, tokenizer, run.output / "model", merge_adapter=merge, base=sft)


if __name__ == "__main__":
    main()

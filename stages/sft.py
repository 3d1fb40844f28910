"""sft: the base model learns the demonstrations."""

from __future__ import annotations

from functools import partial

import torch

from stages.algorithms.sft import SFT
from stages.config.schema import TrainingSettings
from stages.config.validate import needs_reward_model, read
from stages.data.base_model import read_base_model
from stages.data.tokenizers import load_tokenizer
from stages.dispatch import entry
from stages.models.load import add_adapter, load_model, save_model
from stages.models.reward_kinds import check_kind
from stages.training.evaluation import LOSS, HeldOut
from stages.training.heldout import mean_losses
from stages.training.session import load_rows, make_accelerator, run_training
from stages.workspace import Stage


@entry("sft")
def main(run: Stage) -> None:
    settings = read(run.config, "sft", TrainingSettings)
    base = read_base_model(run.input("prepare"))
    if needs_reward_model(run.config):  # told before anything is trained
        kind = run.config.reward_model.kind
        check_kind(kind, base.path, revision=base.revision, trust_remote_code=base.trust_remote_code)
    accelerator = make_accelerator(settings)
    torch.manual_seed(run.config.seed)  # adapters start from random weights
    model = load_model(base.path, revision=base.revision, trust_remote_code=base.trust_remote_code)
    if settings.gradient_checkpointing:
        model.activation_checkpointing_enable()
    algorithm = SFT(add_adapter(model, run.config.model))
    held_out = load_rows(run, "sft_validation", settings.max_eval_samples)

    evaluate = partial(mean_losses, algorithm, held_out, settings.max_tokens)
    run_training(run, algorithm, load_rows(run, "sft"), settings, accelerator, HeldOut(LOSS, evaluate))

    if run.is_main:
        tokenizer = load_tokenizer(base.path, base.revision, base.trust_remote_code)
        merge = run.config.model.merge_adapter
        save_model(
            algorithm.policy, tokenizer, run.output / "model", merge_adapter=merge,
            base=base.path, revision=base.revision, stop_token_ids=base.stop_token_ids,
        )  # fmt: skip


if __name__ == "__main__":
    main()

"""The preference data of a stage: as prepare wrote them, or with samples of the sft model, ranked by the verifier."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from accelerate import Accelerator

from stages.config.errors import UserError
from stages.config.schema import TrainingSettings
from stages.config.validate import read
from stages.data.base_model import read_base_model
from stages.data.examples import Example
from stages.data.settings import SamplingSettings
from stages.data.tokenizers import load_tokenizer
from stages.models.load import load_model
from stages.rewards.functions import FunctionReward
from stages.rewards.rewards import gold
from stages.rollout.preferences import rank_samples
from stages.rollout.sampler import Sampler
from stages.training.order import seed_step
from stages.training.session import load_rows
from stages.workspace import Stage

log = logging.getLogger(__name__)


def load_preferences(
    run: Stage, settings: TrainingSettings, accelerator: Accelerator, usable: Callable[[Example], bool]
) -> tuple[list[Example], list[Example]]:
    """Training and held-out examples with scores from which can be learnt. Raises UserError where there are none.

    Every process samples the same, from the same seed, so that the data need not be sent around.
    """
    rows = load_rows(run, "preference")
    held_out = load_rows(run, "preference_validation", settings.max_eval_samples)
    if any(example.scores is None for example in rows):
        rows, held_out = _sample(run, [rows, held_out], settings, accelerator)
    learnt = [example for example in rows if usable(example)]
    if not learnt:
        raise UserError(
            "data.preference: no prompt has two completions that score differently; nothing to learn from"
        )
    if len(learnt) < len(rows):
        log.info("%d of %d prompts have completions that score differently", len(learnt), len(rows))
    return learnt, [example for example in held_out if usable(example)]


def _sample(
    run: Stage, sets: Sequence[list[Example]], settings: TrainingSettings, accelerator: Accelerator
) -> list[list[Example]]:
    base = read_base_model(run.input("prepare"))
    tokenizer = load_tokenizer(base.path, base.revision, base.trust_remote_code)
    if not run.config.data.verifier:
        raise UserError(
            "data.preference has rows without preferences: set data.verifier, which ranks samples"
        )
    verifier = FunctionReward(run.config.data.verifier, tokenizer)
    model = load_model(run.input("sft") / "model", trust_remote_code=base.trust_remote_code).to(
        accelerator.device
    )
    sampler = Sampler(model, base.stop_token_ids, dtype=torch.bfloat16 if settings.bf16 else None)
    sampling = read(run.config, "data.preference.sampling", SamplingSettings)
    counts = " + ".join(str(len(examples)) for examples in sets)
    log.info("sampling %d completions for each of %s prompts", sampling.num_generations, counts)
    began, ranked = time.perf_counter(), []
    for number, examples in enumerate(sets):
        seed_step(run.config.seed, number, 0)
        ranked.append(rank_samples(examples, sampler, sampling, partial(gold, verifier)))
    log.info(
        "%d of %d prompts have samples that score differently; sampling and ranking took %.0f s",
        sum(map(len, ranked)), sum(map(len, sets)), time.perf_counter() - began,
    )  # fmt: skip
    return ranked

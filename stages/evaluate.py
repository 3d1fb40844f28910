"""evaluate: base, sft and rl on the same held-out prompts; numbers with intervals, samples, a report."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar, cast

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from omegaconf import DictConfig

from stages.config.errors import UserError
from stages.config.validate import read
from stages.data.base_model import read_base_model
from stages.data.digest import file_digest
from stages.data.examples import Example, read_examples
from stages.data.positions import check_length, max_positions
from stages.dispatch import entry
from stages.evaluation.answer import Answer, RowLoss
from stages.evaluation.bootstrap import Bootstrap
from stages.evaluation.check import (
    check_model,
    check_reward_model,
    read_outcome,
    read_stage_curves,
    read_tokenizer,
)
from stages.evaluation.curves import Points, by_step
from stages.evaluation.judge import Judge
from stages.evaluation.labels import Metrics
from stages.evaluation.measure import Measurer, Source
from stages.evaluation.metrics import flips, summarize
from stages.evaluation.overoptimisation import VERDICT
from stages.evaluation.report import Report
from stages.evaluation.reward_check import JUDGED, RewardCheck, check_reward
from stages.evaluation.samples import sample_rows, write_csv, write_markdown
from stages.evaluation.settings import EvaluateSettings
from stages.models.reward_kinds import load_reward_model
from stages.rewards.check import check_columns
from stages.rewards.functions import FunctionReward
from stages.rewards.learned import LearnedReward
from stages.tracking.redact import redact
from stages.workspace import Stage

log = logging.getLogger("stages.evaluate")  # not __name__: run as a program, that is __main__

Row = TypeVar("Row")
TRAINED = ("sft", "reward_model", "rl")


@entry("evaluate")
def main(run: Stage) -> None:
    """The stage."""
    evaluate(run)


def evaluate(run: Stage) -> Metrics | None:
    """Measure, summarize and write into `run.output`. None on every rank but the first."""
    settings = read(run.config, "evaluate", EvaluateSettings)
    prompts = held_out(run.input("prepare") / "prompt_test.jsonl", settings.num_prompts)
    demonstrations = held_out(run.input("prepare") / "sft_test.jsonl", settings.num_prompts)
    check_columns(run.config.data.verifier, prompts)
    longest = max(len(prompt.tree.prompt.input_ids) for prompt in prompts)
    lengths = {"the longest held-out prompt": longest, "evaluate.max_new_tokens": settings.max_new_tokens}
    check_length(lengths, max_positions(run.config.model))
    check_models(run)
    curves = read_stage_curves({stage: run.input(stage) for stage in TRAINED})
    outcome = read_outcome(run.input("rl"), "rl")
    answers, losses = measure(run, settings, prompts, demonstrations)
    if not run.is_main:
        return None
    bootstrap = Bootstrap(settings.bootstrap_samples, settings.confidence, run.config.seed)
    metrics = summarize(answers, losses, bootstrap)
    check = check_reward(metrics, answers, curves.get("rl", {}), outcome, settings.confidence)
    for sentence in check.sentences:
        log.warning(sentence) if check.finding else log.info(sentence)
    write(run, settings, metrics, prompts, answers, curves, check)
    return metrics


def check_models(run: Stage) -> None:
    """What is to be loaded is there and whole."""
    for stage in ("sft", "rl"):
        check_model(run.input(stage) / "model", stage)
    if (folder := run.input("reward_model") / "model").exists():
        check_reward_model(folder)


def write(
    run: Stage,
    settings: EvaluateSettings,
    metrics: Metrics,
    prompts: Sequence[Example],
    answers: dict[str, list[Answer]],
    curves: dict[str, dict[str, Points]],
    check: RewardCheck,
) -> None:
    """metrics.json, verdict.json, samples, the report; and all of it to the tracker, which writes curves.csv."""
    samples = sample_rows(prompts, answers, settings.num_samples)
    page = Report(
        facts=facts(run.config, len(prompts)),
        metrics=metrics,
        curves=curves,
        samples=samples,
        flips=flips(answers["rl"], answers["sft"]),
        confidence=settings.confidence,
        check=check,
    )
    (run.output / VERDICT).write_text(json.dumps(check.as_json(), indent=2) + "\n")
    (run.output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    (run.output / "report.html").write_text(page.html(), encoding="utf-8")
    write_csv(run.output / "samples.csv", samples)
    write_markdown(run.output / "samples.md", samples, list(answers))
    for step, row in by_step(curves).items():
        run.tracker.log(row, step)
    for name, numbers in metrics.items():
        run.tracker.log_summary({f"eval/{name}/{key}": number["mean"] for key, number in numbers.items()})
    if "reward_model_score" in metrics["rl"]:
        run.tracker.log_summary(check.summary())
    held = run.input("prepare") / "prompt_test.jsonl"
    run.tracker.log_dataset("prompt_test", file_digest(held), len(prompts))
    run.tracker.log_table("samples", samples)
    run.tracker.log_artifact(run.output / "report.html")


def measure(
    run: Stage, settings: EvaluateSettings, prompts: Sequence[Example], demonstrations: Sequence[Example]
) -> tuple[dict[str, list[Answer]], dict[str, list[RowLoss]]]:
    """Every model's answers and losses. Each rank takes every n-th row, which may be none; the first gets them all."""
    state = PartialState()
    device = cast("torch.device", state.device)
    prompts, demonstrations = shard(prompts, state), shard(demonstrations, state)
    base = read_base_model(run.input("prepare"))
    sources = {
        "base": Source(base.path, base.revision, base.trust_remote_code),
        **{
            name: Source(run.input(name) / "model", None, base.trust_remote_code, settings.num_generations)
            for name in JUDGED
        },
    }
    measurer = Measurer(settings, base.stop_token_ids, run.config.seed, device)
    tokenizer = read_tokenizer(run.input("sft") / "model", "sft", base.trust_remote_code)
    name = run.config.data.verifier
    verifier = FunctionReward(name, tokenizer) if name else None
    measured, kl = measurer.policies(sources, prompts, demonstrations)
    judge = Judge(tokenizer, verifier, load_reward(run, settings, device, base.trust_remote_code))
    answers = {name: gathered(judge(prompts, measured[name], kl[name]), state) for name in sources}
    return answers, {name: gathered(measured[name].losses, state) for name in sources}


def load_reward(
    run: Stage, settings: EvaluateSettings, device: torch.device, trust_remote_code: bool
) -> LearnedReward | None:
    """The reward model, unless its stage wrote only a marker."""
    folder = run.input("reward_model") / "model"
    if not folder.exists():
        return None
    model = load_reward_model(folder, trust_remote_code=trust_remote_code).to(device)
    return LearnedReward(model, settings.max_tokens, bf16=settings.bf16)


def held_out(path: Path, num_prompts: int | None) -> list[Example]:
    """The first `num_prompts` rows of a held-out file; None is all."""
    examples = read_examples(path)[:num_prompts]
    if not examples:
        raise UserError(f"{path} has no rows to evaluate on; set data.test_size")
    return examples


def shard(rows: Sequence[Row], state: PartialState) -> list[Row]:
    """This rank's rows: every n-th."""
    return list(rows[state.process_index :: state.num_processes])


def gathered(rows: list[Row], state: PartialState) -> list[Row]:
    """The rows of all ranks in their order before `shard`."""
    shards = gather_object([rows])
    return [shards[i % state.num_processes][i // state.num_processes] for i in range(sum(map(len, shards)))]


def facts(config: DictConfig, prompts: int) -> dict[str, str]:
    """What the report's header says."""
    model = redact(config.model.path or "SmolLM2-135M-Instruct")
    named = {"model": model, "algorithm": config.rl.algo, "seed": str(config.seed)}
    return named | {"verifier": config.data.verifier or "none", "held-out prompts": str(prompts)}


if __name__ == "__main__":
    main()

"""prepare: the model is found; the data are read, recognised, turned into tokens and split."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf

from stages.data.answers import check_answers
from stages.data.base_model import BaseModel, check_location, find_base_model, write_base_model
from stages.data.dataset import Dataset, load_dataset
from stages.data.demands import NO_DEMANDS, Demands
from stages.data.embedded import import_embedded
from stages.data.encoder import Encoder
from stages.data.examples import write_examples
from stages.data.holdout import Sizes, hold_out
from stages.data.positions import check_length, max_positions, vocabulary_size
from stages.data.preview import write_preview
from stages.data.report import describe_role, summary
from stages.data.roles import ROLES
from stages.data.settings import DataSettings
from stages.data.sources import unlike_templates
from stages.data.vocabulary import check_vocabulary
from stages.dispatch import entry
from stages.seal import seal
from stages.workspace import Stage

log = logging.getLogger("stages.prepare")  # not __name__: run as a program, that is __main__


@entry("prepare")
def main(run: Stage) -> None:
    if not run.is_main:  # there is nothing to share, and one process writes
        return
    report = prepare(run.config, run.output, Demands.of(run.config))
    for role in ROLES:
        run.tracker.log_dataset(role, report[role]["digest"], report[role]["read"])
    run.tracker.log_artifact(run.output / "report.json")
    run.tracker.log_artifact(run.output / "examples.html")


def prepare(config: DictConfig, output: Path, demands: Demands = NO_DEMANDS) -> dict[str, Any]:
    """Writes the model, the three roles' examples and report.json into `output`; returns the report.

    demands: what later stages ask of the data. They are checked, and change nothing that is written.

    Raises UserError before anything is written and before any weights are loaded.
    """
    settings = DataSettings.model_validate(OmegaConf.to_container(config.data, resolve=True))
    for line in unlike_templates(settings):
        log.warning(line)
    model, tokenizer = find_base_model(config.model)
    limit = max_positions(config.model)
    check_length({"data.max_length": settings.max_length}, limit)
    encoder = Encoder(tokenizer, set(model.stop_token_ids), settings)
    datasets = [load_dataset(role, settings, encoder, config.seed) for role in ROLES]
    for dataset in datasets:
        _check_sampled(dataset, settings, limit, demands)
        check_vocabulary(dataset, tokenizer, vocabulary_size(config.model))
    splits = hold_out(datasets, Sizes(settings.test_size, settings.validation_size), config.seed)
    demands.check_preferences(splits["preference"].train, settings.verifier)
    # By name and not by import: what is only checked is no part of what prepare computes.
    check_model = get_method("stages.models.door.check_model")
    if not model.embedded:
        check_model(config.model, check_location(model.path), model.revision)

    model = replace(model, stop_token_ids=sorted(encoder.stop_ids))
    write_base_model(output, model)
    report: dict[str, Any] = {"model": _describe_model(model, encoder)}
    for dataset in datasets:
        split = splits[dataset.role]
        write_examples(output / f"{dataset.role}.jsonl", split.train)
        write_examples(output / f"{dataset.role}_validation.jsonl", split.validation)
        write_examples(output / f"{dataset.role}_test.jsonl", split.test)
        report[dataset.role] = describe_role(dataset, split)
        log.info(summary(dataset.role, report[dataset.role]))
    write_preview(output / "examples.html", tokenizer, {role: splits[role].train for role in ROLES})
    (output / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    if model.embedded:
        log.info("model: importing the embedded weights, about 20 seconds")
        import_embedded(output / model.path, tokenizer)
        check_model(config.model, output / model.path)
    seal(output)
    return report


def _check_sampled(dataset: Dataset, settings: DataSettings, limit: int | None, demands: Demands) -> None:
    # Only where completions are sampled is there something to verify.
    sampled = [example for example in dataset.examples if not example.tree.completions]
    check_answers(dataset.role, settings.verifier, sampled)
    if dataset.role == "prompt":
        demands.check_columns(settings.verifier, sampled)
    if dataset.role == "preference" and any(example.scores is None for example in dataset.examples):
        max_new_tokens = settings.preference.sampling.max_new_tokens
        parts = {"data.max_prompt_length": settings.max_prompt_length}
        check_length(parts | {"data.preference.sampling.max_new_tokens": max_new_tokens}, limit)


def _describe_model(model: BaseModel, encoder: Encoder) -> dict[str, Any]:
    return {
        "path": model.path,
        "revision": model.revision,
        "sha256": model.sha256,
        "chat_template": encoder.chat is not None,
        "stop_token_ids": model.stop_token_ids,
    }


if __name__ == "__main__":
    main()

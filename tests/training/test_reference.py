"""The reference is computed once: before the first step, by the policy itself, for every run that asks for the same."""

from __future__ import annotations

import gc
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from stages.algorithms.base import WithReference
from stages.data.examples import Example
from stages.models.load import add_adapter
from stages.models.logprobs import sequence_logprobs
from stages.training.evaluation import LOSS, Evaluation
from stages.training.heldout import mean_losses
from stages.training.order import step_batch, total_steps
from stages.training.reference import CODE, fill_reference
from stages.training.reference_files import MAX_FILES, write_table
from tests.algorithms.test_dpo import summed_logprob
from tests.algorithms.tiny import examples_of, make, settings_of
from tests.full_disk import file_limit
from tests.graph.imports import closure, uncovered
from tests.graph.project import ROOT
from tests.models.tiny import lora, shake, tiny_llama
from tests.training.test_resume import fresh, go
from tests.training.tiny import run

SEED = 3
SHORT = {"max_tokens": 40, "num_train_epochs": 2}  # several microbatches a step, two epochs of two steps


class Counted:
    """An algorithm on a fresh model, its examples, and how often its model has been run."""

    def __init__(self, name: str, *, adapters: bool = False, seed: int = 0, **changes) -> None:
        policy = tiny_llama(seed)
        self.algorithm = make(name, add_adapter(policy, lora()) if adapters else policy, **changes)
        self.settings = settings_of(name, **(SHORT | changes))
        self.examples = self.algorithm.prepare(examples_of(name), SEED)
        self.forwards = 0
        policy.model.register_forward_hook(self._count)

    def _count(self, *_) -> None:
        self.forwards += 1

    def fill(self, folder: Path) -> WithReference:
        assert isinstance(self.algorithm, WithReference)
        fill_reference(self.algorithm, self.examples, [], self.settings, SEED, folder, Accelerator(cpu=True))
        return self.algorithm

    def batches(self):
        steps = total_steps(len(self.examples), self.settings)
        return [step_batch(self.examples, step, self.settings, SEED, 0, 1) for step in range(steps)]


@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_every_value_that_a_step_looks_up_is_that_of_the_model_below_the_adapters(
    name: str, adapters: bool, tmp_path: Path
):
    """KTO's mismatched completions too."""
    counted, reference = Counted(name, adapters=adapters), tiny_llama()
    if adapters:
        shake(counted.algorithm.policy)
    algorithm = counted.fill(tmp_path)
    assert len(counted.batches()) == 4
    for batch in counted.batches():
        for trees in algorithm.reference_trees(batch):
            expected = [
                summed_logprob(reference, tree.prompt.input_ids, node.input_ids)
                for tree in trees
                for node in tree.completions
            ]
            assert algorithm.reference.logprobs(trees).tolist() == pytest.approx(expected, abs=1e-4)


def test_before_the_first_step_policy_and_reference_have_the_same_bits(tmp_path: Path):
    counted = Counted("dpo")
    algorithm = counted.fill(tmp_path)
    for batch in counted.batches()[:2]:
        for microbatch in batch.split(counted.settings.max_tokens):
            policy = sequence_logprobs(algorithm.policy, microbatch.trees)
            assert torch.equal(algorithm.reference.logprobs(microbatch.trees), policy)


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_a_second_run_computes_nothing(name: str, tmp_path: Path):
    first, second = Counted(name), Counted(name, beta=0.7, learning_rate=1e-5)
    values = first.fill(tmp_path).reference.values
    assert first.forwards > 2
    assert torch.equal(second.fill(tmp_path).reference.values, values)
    assert second.forwards == 0
    assert len(list(tmp_path.iterdir())) == 1


def test_steps_run_the_policy_alone(tmp_path: Path):
    """Two epochs of two steps, each in as many microbatches as the reference took for an epoch's."""
    counted = Counted("dpo")
    memory = run(counted.algorithm, counted.examples, counted.settings, tmp_path / "run")
    microbatches = [len(batch.split(40)) for batch in counted.batches()]
    assert counted.forwards == sum(microbatches) + sum(microbatches[:2])
    assert list(memory.curve("perf/reference_seconds")) == [0]
    assert memory.curve("perf/reference_seconds")[0] > 0


@pytest.mark.parametrize("change", ["weights", "rows", "max_tokens"])
def test_whatever_the_numbers_follow_from_makes_another_table(change: str, tmp_path: Path):
    Counted("kto").fill(tmp_path)
    (before,) = tmp_path.iterdir()
    options = {"weights": {"seed": 1}, "max_tokens": {"max_tokens": 50}}
    other = Counted("kto", **options.get(change, {}))
    if change == "rows":
        node = other.examples[1].tree.completions[0]
        node.input_ids[0] += 1
    other.fill(tmp_path)
    assert other.forwards > 0
    assert len(list(tmp_path.iterdir())) == 2
    assert before.exists()


def test_more_epochs_ask_for_nothing_new(tmp_path: Path):
    """KTO's mismatched completions too: which ones a prompt meets is drawn once for a run."""
    Counted("kto").fill(tmp_path)
    other = Counted("kto", num_train_epochs=3)
    other.fill(tmp_path)
    assert other.forwards == 0


def test_where_rows_come_back_beside_new_ones_the_first_step_has_the_bits_of_training(tmp_path: Path):
    """Nine rows, of which each epoch of two steps leaves one out; the table is filled in whole microbatches."""
    counted = Counted("dpo", num_train_epochs=3)
    counted.examples = [*counted.examples, examples_of("dpo", 9)[-1]]
    algorithm = counted.fill(tmp_path)
    first = counted.batches()[0]
    for microbatch in first.split(counted.settings.max_tokens):
        policy = sequence_logprobs(algorithm.policy, microbatch.trees)
        assert torch.equal(algorithm.reference.logprobs(microbatch.trees), policy)


def test_labels_and_scores_are_no_part_of_it(tmp_path: Path):
    Counted("dpo").fill(tmp_path)
    other = Counted("dpo")
    other.examples = [swapped(example) for example in other.examples]
    other.fill(tmp_path)
    assert other.forwards == 0


def swapped(example: Example) -> Example:
    return replace(example, scores=[1.0 - score for score in example.scores or []])


def truncate(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def rewrite(path: Path, change: Callable[[torch.Tensor], torch.Tensor], name: str = "logprobs") -> None:
    """The values changed, beside the digest of the old ones."""
    with safe_open(path, "pt") as file:
        values, metadata = file.get_tensor("logprobs"), file.metadata()
    save_file({name: change(values)}, path, metadata)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: truncate(path, 0),
    "cut in the header": lambda path: truncate(path, 60),
    "cut at the end": lambda path: truncate(path, -1),
    "a bit of a value": lambda path: flip(path, -3),
    "a bit of the name": lambda path: flip(path, path.read_bytes().index(b"logprobs")),
    "another name": lambda path: rewrite(path, lambda values: values, "values"),
    "no digest": lambda path: save_file(load_file(path), path),
    "too short": lambda path: rewrite(path, lambda values: values[:-1].clone()),
    "too long": lambda path: rewrite(path, lambda values: torch.cat([values, values])),
    "float64": lambda path: rewrite(path, lambda values: values.double()),
    "two dimensions": lambda path: rewrite(path, lambda values: values[None].clone()),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_table_is_computed_again_and_named(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    values = Counted("dpo").fill(tmp_path).reference.values
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    DAMAGE[damage](path)
    again = Counted("dpo")
    assert torch.equal(again.fill(tmp_path).reference.values, values)
    assert again.forwards > 0
    assert f"the reference's table {path} cannot be used" in caplog.text
    assert path.is_dir() or path.read_bytes() == whole


def test_where_no_table_can_be_kept_the_run_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    values = torch.zeros(100_000)
    with file_limit(2**16):
        write_table(tmp_path / "full" / "table.safetensors", values)
    assert "is not kept for other runs" in caplog.text and "File too large" in caplog.text
    assert list((tmp_path / "full").iterdir()) == []
    caplog.clear()
    (tmp_path / "file").write_text("")
    write_table(tmp_path / "file" / "table.safetensors", values)
    assert "is not kept for other runs" in caplog.text


def test_a_table_is_kept_for_the_code_that_computed_it():
    """Beside the models that is all they import, but for what checks files before they are read, and what runs them."""
    assert "stages/training/reference.py" in CODE
    models = [str(path.relative_to(ROOT)) for path in (ROOT / "stages" / "models").glob("*.py")]
    files = {file for model in models for file in closure(ROOT, model) if (ROOT / file).stat().st_size}
    checks = [
        "config/compose.py",
        "config/errors.py",
        "config/yaml_text.py",
        "data/nearest.py",
        "data/sealed.py",
    ]
    assert uncovered(files, list(CODE)) == [*(f"stages/{name}" for name in checks), "stages/seal.py"]


def test_the_tables_used_last_are_kept(tmp_path: Path):
    for number in range(MAX_FILES + 3):
        (tmp_path / f"{number}.safetensors").write_bytes(b"")
    (tmp_path / "left.1234").write_bytes(b"half a ta")
    Counted("dpo").fill(tmp_path)
    assert len(list(tmp_path.iterdir())) == MAX_FILES
    again = Counted("dpo")
    again.fill(tmp_path)
    assert again.forwards == 0


@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_a_resumed_run_whose_table_is_gone_ends_with_the_same_bits(name: str, adapters: bool, tmp_path: Path):
    """Its policy is the reference until the checkpoint is restored."""
    whole, _ = go(name, tmp_path / "whole", fresh(name, adapters))
    go(name, tmp_path / "cut", fresh(name, adapters), dies_at=5)
    shutil.rmtree(tmp_path / "cut.reference")
    resumed, _ = go(name, tmp_path / "cut", fresh(name, adapters))
    expected = whole.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in resumed.state_dict().items())


def models() -> int:
    gc.collect()
    things = gc.get_objects()
    return sum(type(thing) is LlamaForCausalLM for thing in things)  # isinstance would ask the thing


def test_no_second_model_is_made(tmp_path: Path):
    counted, found = Counted("dpo"), []
    before = models()

    def evaluate() -> Evaluation:
        found.append(models())
        return Evaluation()

    run(counted.algorithm, counted.examples, counted.settings, tmp_path / "run", evaluate=evaluate)
    assert found == [before, before]


@pytest.mark.parametrize(("name", "at_first"), [("dpo", math.log(2)), ("kto", 0.6)])
def test_held_out_preferences_are_measured_against_the_same_reference(
    name: str, at_first: float, tmp_path: Path
):
    """Policy and reference are one at step 0. kto: 6 good completions of weight 1 and 4 bad ones of 1.5, half of it
    each."""
    algorithm, examples = make(name), examples_of(name, 12)
    held_out = algorithm.prepare(examples[8:], SEED)
    evaluate = partial(mean_losses, algorithm, held_out, 4096)
    memory = run(
        algorithm, examples[:8], settings_of(name, max_steps=3, eval_steps=1), tmp_path / "run", evaluate=evaluate,
        criterion=LOSS, held_out=held_out,
    )  # fmt: skip
    losses = memory.curve("eval/loss")
    assert losses[0] == pytest.approx(at_first, rel=1e-5)
    assert len(set(losses.values())) == 4  # the reference stays where it was
    assert memory.outcome.value == min(losses.values())
    assert all(math.isfinite(value) for value in memory.curve("train/loss").values())

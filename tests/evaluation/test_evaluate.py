"""The stage itself on tiny models whose numbers are known: in sft and rl every token is equally likely."""

import csv
import io
import json
import math
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from stages.config.compose import compose_config
from stages.config.errors import UserError
from stages.config.validate import read
from stages.data.examples import Example, write_examples
from stages.evaluate import evaluate
from stages.evaluation.judge import Judge
from stages.evaluation.measure import Measurer, Source
from stages.evaluation.settings import EvaluateSettings
from stages.results import show
from stages.rewards.functions import FunctionReward
from stages.rewards.learned import LearnedReward
from stages.tracking.curves import Curves
from stages.tracking.tracker import Tracker
from stages.trees import Node, Tree
from stages.workspace import Stage
from tests.data.tiny import EOS, tiny_tokenizer

PROMPTS = 6
TOKENIZER = tiny_tokenizer(None)
EOS_ID = TOKENIZER.convert_tokens_to_ids(EOS)
LOG_VOCABULARY = math.log(len(TOKENIZER))
SHAPE: dict[str, Any] = {
    "vocab_size": len(TOKENIZER), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "tie_word_embeddings": False, "eos_token_id": EOS_ID,
}  # fmt: skip
OVERRIDES = [
    "evaluate.max_new_tokens=4", "evaluate.bf16=false", "evaluate.bootstrap_samples=200",
    "evaluate.num_samples=3", "evaluate.num_prompts=null", "data.verifier=exact",
]  # fmt: skip


def save(folder: Path, sharpness: float) -> None:
    """A random Llama; its output weights times `sharpness`, so that 0 is uniform over the vocabulary."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, initializer_range=1.0))
    model.lm_head.weight.data.mul_(sharpness)
    model.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)


def save_reward_model(folder: Path, reward_std: float = 2.0) -> None:
    """A reward of 0 for everything, normalised with mean -1 and deviation 2: 0.5."""
    normalised: dict[str, Any] = {
        "num_labels": 1,
        "reward_kind": "head",
        "reward_mean": -1.0,
        "reward_std": reward_std,
    }
    config = LlamaConfig(**SHAPE, **normalised)
    model = LlamaForSequenceClassification(config)
    model.score.weight.data.zero_()
    model.save_pretrained(folder)


def example(index: int, completion: str | None) -> Example:
    """A right answer is what the uniform model gives, whose first token is `!`, in every second row."""
    text = f"{index} + 1 ="
    ids = TOKENIZER.encode(text)
    nodes = []
    if completion is not None:
        target = [*TOKENIZER.encode(completion), EOS_ID]
        nodes = [Node(target, [True] * len(target))]
    right = "!!!!" if index % 2 else "no"
    return Example(Tree(Node(ids, [False] * len(ids)), nodes), text, None, {"answer": right})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    for stage in ("prepare", "sft", "reward_model", "rl"):
        (root / stage).mkdir()
    for stage, sharpness in {"prepare": 1.0, "sft": 0.0, "rl": 0.0}.items():
        save(root / stage / "model", sharpness)
    (root / "prepare" / "model.json").write_text(
        json.dumps(
            {
                "path": "model", "revision": None, "sha256": "0", "embedded": True,
                "trust_remote_code": False, "stop_token_ids": [EOS_ID],
            }
        )
    )  # fmt: skip
    write_examples(root / "prepare" / "prompt_test.jsonl", [example(i, None) for i in range(PROMPTS)])
    write_examples(root / "prepare" / "sft_test.jsonl", [example(i, str(i + 1)) for i in range(PROMPTS)])
    (root / "sft" / "curves.csv").write_text("step,train/loss\n1,2.0\n2,1.5\n")
    (root / "reward_model" / "curves.csv").write_text("step\n")
    (root / "rl" / "curves.csv").write_text("step,eval/gold_accuracy\n2,0.5\n")
    save_reward_model(root / "reward_model" / "model")
    return root


def stage(project: Path, output: Path, *overrides: str) -> Stage:
    config = compose_config([*OVERRIDES, *overrides])
    folders = {name: str(project / name) for name in ("prepare", "sft", "reward_model", "rl")}
    config.run.inputs = folders | dict(config.run.inputs)
    output.mkdir()
    return Stage(
        "evaluate", config, output, output / "none", Tracker([Curves(output / "curves.csv")]), is_main=True
    )


def test_known_models_give_known_numbers(project: Path, tmp_path: Path) -> None:
    run = stage(project, tmp_path / "out")
    evaluate(run)
    run.tracker.finish()
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    means = {name: {key: value["mean"] for key, value in part.items()} for name, part in metrics.items()}
    spread = pytest.approx(LOG_VOCABULARY)
    uniform = {
        "gold_accuracy": 0.5, "reward_model_score": 0.5, "kl_k1": 0.0, "mean_length": 4.0,
        "no_eos_share": 1.0, "entropy": spread, "sft_loss": spread,
    }  # fmt: skip
    # the reward model says the same of everything
    uniform |= {"reward_model_score_right": 0.5, "reward_model_score_wrong": 0.5}
    assert means["sft"] == uniform
    assert means["rl"] == uniform | {"win_rate": 0.5}
    assert means["paired"] == {"sft_minus_base": 0.5, "rl_minus_sft": 0.0}
    assert means["paired_reward"] == {"rl_minus_sft": 0.0}
    assert json.loads((tmp_path / "out" / "verdict.json").read_text()) == {"finding": None, "sentence": None}
    # A sharp model: far from uniform, sure of itself, and wrong about the demonstrations.
    assert means["base"]["kl_k1"] > 4 and means["base"]["entropy"] < 2
    assert means["base"]["sft_loss"] > LOG_VOCABULARY

    rows = list(csv.DictReader((tmp_path / "out" / "samples.csv").read_text().splitlines()))
    assert [(row["prompt"], row["sft"], row["sft_gold"]) for row in rows] == [
        ("0 + 1 =", "!!!!", "0.0"), ("1 + 1 =", "!!!!", "1.0"), ("2 + 1 =", "!!!!", "0.0")
    ]  # fmt: skip
    assert (tmp_path / "out" / "curves.csv").read_text() == (
        "step,rl/eval/gold_accuracy,sft/train/loss\n1,nan,2.0\n2,0.5,1.5\n"
    )
    page = (tmp_path / "out" / "report.html").read_text()
    assert "rl and sft cannot be told apart: 0.0 points" in page
    assert re.findall(r'(?:src|href)="[^#]', page) == []  # self-contained: nothing is loaded from elsewhere


def test_a_reward_model_whose_score_is_not_finite_is_told_with_its_completion(
    project: Path, tmp_path: Path
) -> None:
    save_reward_model(tmp_path / "model", reward_std=0.0)  # (0 + 1) / 0
    run = stage(project, tmp_path / "out", f"+run.inputs.reward_model={tmp_path}")
    message = (
        "reward 'reward_model' returned inf, not a finite number or None, for the completion .* '0 \\+ 1 ='"
    )
    with pytest.raises(UserError, match=message):
        evaluate(run)


def test_the_same_seed_writes_the_same_bytes(project: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run = stage(project, tmp_path / name, "evaluate.bf16=auto")
        evaluate(run)
        run.tracker.finish()
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["curves.csv", "metrics.json", "report.html", "samples.csv", "samples.md", "verdict.json"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_without_reward_model_or_verifier_their_numbers_are_left_out(project: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    marker.mkdir()
    (marker / "marker.json").write_text("{}")
    run = stage(project, tmp_path / "out", "data.verifier=null", f"+run.inputs.reward_model={marker}")
    evaluate(run)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert set(metrics["rl"]) == {"kl_k1", "entropy", "mean_length", "no_eos_share", "sft_loss"}
    assert metrics["paired"] == {}
    assert "Held-out sft loss" in (tmp_path / "out" / "report.html").read_text()


def test_which_step_was_kept_is_read_and_told(
    project: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rl = tmp_path / "project" / "rl"
    shutil.copytree(project, tmp_path / "project")
    (rl / "curves.csv").write_text("step,eval/gold_accuracy,eval/reward\n0,0.5,0.1\n10,0.6,0.5\n20,0.2,0.8\n")
    (rl / "selection.json").write_text(
        json.dumps(
            {
                "metric": "eval/gold_accuracy", "direction": "maximize", "kept_step": 10, "last_step": 20,
                "total_steps": 40, "stopped_early": "it fell at step 20", "value": 0.6, "start_value": 0.5,
                "difference": {"mean": 0.1, "low": -0.02, "high": 0.2}, "n": 100,
            }
        )
    )  # fmt: skip
    evaluate(stage(tmp_path / "project", tmp_path / "out"))
    told = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert told["finding"] == "over-optimisation"
    kept = (
        "rl: kept step 10 of 40: eval/gold_accuracy 60.0 % (+10.0 to step 0, paired 95 % interval -2.0 to 20.0); "
        "stopped early: it fell at step 20. Not shown to be better than the sft model."
    )
    page = (tmp_path / "out" / "report.html").read_text()
    for sentence in (told["sentence"], kept):
        assert sentence in page and sentence in caplog.text
    assert page.count(told["sentence"]) == 2  # beside the headline, and in the section
    assert "Is the reward still right?" in page and "kept: 10" in page


def test_a_verifier_that_the_data_cannot_feed(project: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no number"):
        evaluate(stage(project, tmp_path / "out", "data.verifier=numeric"))
    assert list((tmp_path / "out").iterdir()) == []


def test_one_row_is_measured_and_its_interval_is_not_made_up(project: Path, tmp_path: Path) -> None:
    evaluate(stage(project, tmp_path / "out", "evaluate.num_prompts=1"))
    text = (tmp_path / "out" / "metrics.json").read_text()
    metrics = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert metrics["rl"]["gold_accuracy"] == {"mean": 0.0, "low": 0.0, "high": pytest.approx(0.793451)}
    assert metrics["rl"]["mean_length"] == {"mean": 4.0, "low": None, "high": None}
    assert "no interval" in (tmp_path / "out" / "report.html").read_text()


def test_a_process_without_rows_measures_nothing_and_takes_part(project: Path) -> None:
    """Of one row on two processes the second has none: it loads its models, and gathers an empty list."""
    run_settings = read(compose_config(OVERRIDES), "evaluate", EvaluateSettings)
    measurer = Measurer(run_settings, [EOS_ID], 0, torch.device("cpu"))
    sources = {name: Source(project / name / "model") for name in ("sft", "rl")}
    measured, kl = measurer.policies(sources, [], [])
    assert kl == {"sft": [], "rl": []} and measured["rl"].losses == []
    judge = Judge(TOKENIZER, FunctionReward("exact", TOKENIZER), None)
    assert judge([], measured["rl"], kl["rl"]) == []


class FirstToken(LearnedReward):
    """A reward that is a completion's first token, normalised with mean 1 and deviation 2."""

    def __init__(self) -> None:
        config = SimpleNamespace(reward_mean=1.0, reward_std=2.0)
        self.model = SimpleNamespace(config=config)  # type: ignore[assignment]

    def __call__(self, trees: Sequence[Tree]) -> list[float]:
        return [(float(node.input_ids[0]) - 1) / 2 for tree in trees for node in tree.completions]


def test_samples_of_a_prompt_stay_together(project: Path) -> None:
    settings = read(compose_config(OVERRIDES), "evaluate", EvaluateSettings)
    measurer = Measurer(settings, [EOS_ID], 0, torch.device("cpu"))
    sources = {
        "rl": Source(project / "rl" / "model", num_generations=3),
        "sft": Source(project / "sft" / "model"),
    }
    prompts = [example(i, None) for i in range(2)]
    measured, kl = measurer.policies(sources, prompts, [])
    found = measured["rl"]
    assert [len(tree.completions) for tree in found.samples] == [3, 3] and len(kl["rl"]) == 2
    assert kl["rl"] == [0.0, 0.0]  # both are uniform
    answers = Judge(TOKENIZER, FunctionReward("exact", TOKENIZER), FirstToken())(prompts, found, kl["rl"])
    for answer, tree in zip(answers, found.samples, strict=True):
        assert [sample.reward for sample in answer.samples] == [
            node.input_ids[0] for node in tree.completions
        ]
        assert answer.tokens == sum(len(node.input_ids) for node in tree.completions)
        assert answer.entropy == pytest.approx(answer.tokens * LOG_VOCABULARY, rel=1e-5)
    assert Judge(TOKENIZER, None, FirstToken())(prompts, found, kl["rl"])[0].samples == ()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda root: (root / "rl" / "curves.csv").write_text("step,train/loss\n1,2.0,3.0\n"),
            "curves.csv is damaged",
        ),
        (lambda root: (root / "rl" / "curves.csv").write_text("train/loss\n2.0\n"), "curves.csv is damaged"),
        (lambda root: (root / "rl" / "selection.json").write_text("{}"), "selection.json is damaged"),
        (lambda root: shutil.rmtree(root / "rl" / "model"), "rl is no output of rl: it has no model"),
        (lambda root: cut(root / "rl" / "model" / "model.safetensors"), "model.safetensors is damaged"),
        (
            lambda root: cut(root / "reward_model" / "model" / "model.safetensors"),
            "model.safetensors is damaged",
        ),
        (
            lambda root: (root / "reward_model" / "model" / "config.json").write_text("{}"),
            "unknown reward_kind",
        ),
        (lambda root: (root / "sft" / "model" / "tokenizer.json").write_text("{"), "has no tokenizer"),
    ],
)
def test_what_is_damaged_is_found_before_a_model_is_loaded(
    spoil: Callable[[Path], Any], message: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(project, tmp_path / "project")
    spoil(tmp_path / "project")
    monkeypatch.setattr(Measurer, "policies", lambda *_: pytest.fail("a model is loaded"))
    with pytest.raises(UserError, match=message):
        evaluate(stage(tmp_path / "project", tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []


def cut(path: Path) -> None:
    """As a download or a copy that stopped."""
    path.write_bytes(path.read_bytes()[:-100])


def test_answers_longer_than_the_model_are_refused(project: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="evaluate.max_new_tokens is .* tokens, and the model has positions for"
    ):
        evaluate(stage(project, tmp_path / "out", "evaluate.max_new_tokens=100000"))


def test_the_results_are_printed(project: Path, tmp_path: Path) -> None:
    metrics = evaluate(stage(project, tmp_path / "out"))
    assert metrics is not None
    console = Console(width=120, file=io.StringIO(), record=True)
    show(metrics, "Over-optimisation: it rose.", console)
    text = console.export_text()
    assert "Wilson's score interval" in text and "Tango's" in text
    assert "Gold accuracy" in text and "50.0 %" in text and "make ui" in text
    assert "Over-optimisation: it rose." in text

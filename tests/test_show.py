"""Examples as the model will see them, on a terminal and in a pipe."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from stages import show
from stages.config.errors import UserError
from stages.data.base_model import find_base_model, write_base_model
from stages.data.examples import Example, write_examples
from stages.trees import Node, Tree
from tests.data.tiny import make_config, save_tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepare")
    model = save_tiny_model(tmp_path_factory.mktemp("model"))
    write_base_model(folder, find_base_model(make_config(f"model.path={model}").model)[0])
    write_examples(folder / "sft.jsonl", [example(f"[bold]{i}[/bold]", "yes", None) for i in range(5)])
    pair = example("q", "good", [1.0, 0.0], "bad")
    write_examples(folder / "preference.jsonl", [pair])
    write_examples(folder / "prompt.jsonl", [example("q", None, None)])
    write_examples(folder / "prompt_test.jsonl", [example("tested", None, None)])
    write_examples(folder / "prompt_validation.jsonl", [example(text, None, None) for text in ("v", "w")])
    return folder


def example(prompt: str, completion: str | None, scores: list[float] | None, *more: str) -> Example:
    def node(text: str, target: bool) -> Node:
        ids = tiny_tokenizer()(text, add_special_tokens=False).input_ids
        return Node(ids, [target] * len(ids))

    completions = [node(f"{text}<eos>", True) for text in (completion, *more) if text]
    return Example(Tree(node(f"<start>{prompt}\n", False), completions), prompt, scores, {"answer": "3"})


def shown(folder: Path, *arguments: str, colours: bool = False) -> str:
    file = io.StringIO()
    console = Console(
        file=file, force_terminal=colours, color_system="standard" if colours else None, width=80
    )
    show.show(show.parser().parse_args(["--folder", str(folder), *arguments]), console)
    return file.getvalue()


def test_without_colours_targets_and_special_tokens_are_marked(prepared: Path) -> None:
    text = shown(prepared, "sft", "-n", "1")
    assert "sft, example 1 of 5" in text
    assert "prompt, 16 tokens\n‹<start>›[bold]0[/bold]↵\n" in text
    assert "completion 1, 4 tokens, 4 of them targets\n[[yes‹<eos>›]]\n" in text
    assert "columns: answer = '3'" in text and "\x1b" not in text


def test_scores_and_every_completion_are_shown(prepared: Path) -> None:
    text = shown(prepared, "preference")
    assert "completion 1, score 1, 5 tokens, 5 of them targets\n[[good‹<eos>›]]" in text
    assert "completion 2, score 0, 4 tokens, 4 of them targets\n[[bad‹<eos>›]]" in text


def test_in_colours_nothing_is_added_to_the_text(prepared: Path) -> None:
    text = shown(prepared, "sft", "-n", "1", colours=True)
    assert "\x1b[30;42myes\x1b[0m" in text and "\x1b[35m<start>\x1b[0m" in text and "\x1b[2m[bold]0" in text
    assert "[[" not in text and "‹" not in text


def test_no_color_is_heeded(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert "[[yes" in shown(prepared, "sft", colours=True).replace("\x1b[0m", "")


def test_which_ones_are_shown(prepared: Path) -> None:
    assert [i for i in range(5) if f"[bold]{i}" in shown(prepared, "sft", "--start", "4", "-n", "9")] == [
        3,
        4,
    ]
    assert shown(prepared, "sft", "--seed", "1", "-n", "2") == shown(
        prepared, "sft", "--seed", "1", "-n", "2"
    )
    assert shown(prepared, "sft", "--seed", "1", "-n", "9").count("example") == 5
    assert "held-out example 1 of 1" in shown(prepared, "prompt", "--test")
    assert "held-out example 2 of 2" in shown(prepared, "prompt", "--validation")
    every = shown(prepared)
    assert all(f"{role}, example 1" in every for role in ("sft", "preference", "prompt"))


def test_token_borders_and_long_examples(prepared: Path) -> None:
    assert "[[y|e|s|‹<eos>›]]" in shown(prepared, "sft", "-n", "1", "--tokens")
    assert "‹<start>›[b\n… 11 tokens …\n]↵" in shown(prepared, "sft", "-n", "1", "--limit", "5")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stf"], "there is no role 'stf'; did you mean 'sft'"),
        (["sft", "--start", "6"], "--start 6: there are 5 examples"),
        (["sft", "-n", "0"], "-n and --start must be 1 or more"),
        (["sft", "--test"], r"there is no .*sft_test.jsonl: `dvc repro prepare` .* writes it"),
        (["--folder", "/none"], r"there is no /none/model.json: `dvc repro prepare` .* writes it"),
    ],
)
def test_what_cannot_be_shown_is_told_in_one_line(prepared: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        shown(prepared, *arguments)


def test_the_program_ends_with_code_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("sys.argv", ["show", "--folder", "/none"])
    assert show.main() == 2
    assert capsys.readouterr().err.startswith("error: there is no /none/model.json")

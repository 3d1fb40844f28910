"""prepare as a whole: what it writes, and what it refuses before anything is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from stages.config.errors import UserError
from stages.data.base_model import read_base_model
from stages.data.demands import NO_DEMANDS, Demands
from stages.data.examples import read_examples
from stages.prepare import prepare
from tests.data.tiny import CHATML, ROOT, make_config, save_tiny_model, targets, tiny_tokenizer, write_jsonl

FILES = [
    "digests.json",
    "examples.html",
    "model.json",
    "preference.jsonl",
    "preference_test.jsonl",
    "preference_validation.jsonl",
    "prompt.jsonl",
    "prompt_test.jsonl",
    "prompt_validation.jsonl",
]
FILES += ["report.json", "sft.jsonl", "sft_test.jsonl", "sft_validation.jsonl"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def run(
    model: Path, output: Path, rows: list[dict[str, Any]], *overrides: str, demands: Demands = NO_DEMANDS
) -> dict[str, Any]:
    """prepare on one file for all roles, a prompt held out to validate and one to test, without a verifier."""
    path = write_jsonl(output.with_suffix(".jsonl"), rows)
    output.mkdir()
    own = [
        f"data.{role}.{key}"
        for role in ("sft", "preference", "prompt")
        for key in ("source=files", f"path={path}")
    ]
    common = [f"model.path={model}", "data.test_size=1", "data.validation_size=1", "data.verifier=null"]
    return prepare(make_config(*common, *own, *overrides), output, demands)


def pairs(count: int = 6) -> list[dict[str, Any]]:
    return [{"prompt": f"p{i}", "chosen": "good", "rejected": "bad", "id": i} for i in range(count)]


def test_one_preference_file_serves_every_role(model: Path, tmp_path: Path) -> None:
    report = run(model, tmp_path / "out", pairs())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    completions = {}
    for role in ("sft", "preference", "prompt"):
        train, validation, test = (
            read_examples(tmp_path / "out" / f"{role}{part}.jsonl") for part in ("", "_validation", "_test")
        )
        assert (len(train), len(validation), len(test)) == (4, 1, 1)
        assert len({example.prompt for example in (*train, *validation, *test)}) == 6
        assert report[role]["format"] == "preference, explicit prompt" and report[role]["style"] == "plain"
        completions[role] = len(train[0].tree.completions)
        assert train[0].columns["id"] in range(6)
    assert completions == {"sft": 1, "preference": 2, "prompt": 0}
    assert read_examples(tmp_path / "out" / "preference.jsonl")[0].scores == [1.0, 0.0]
    assert read_base_model(tmp_path / "out").path == str(model)


def test_equal_inputs_give_equal_bytes(model: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(model, tmp_path / name, pairs())
    for name in FILES[1:]:  # digests.json has that of report.json, in which the file's name is
        first, second = ((tmp_path / which / name).read_text() for which in ("one", "two"))
        assert first.replace("one.jsonl", "two.jsonl") == second


def test_dialogues_are_told_from_plain_text(model: Path, tmp_path: Path) -> None:
    rows = [
        {"chosen": f"\n\nHuman: {i}\n\nAssistant: yes", "rejected": f"\n\nHuman: {i}\n\nAssistant: no"}
        for i in range(5)
    ]
    report = run(model, tmp_path / "out", rows)
    assert report["preference"]["style"] == "conversational, Human/Assistant transcript"
    example = read_examples(tmp_path / "out" / "prompt.jsonl")[0]
    assert example.prompt in "01234"


def test_rows_without_targets_are_dropped_and_counted(model: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "completion": "c"} for i in range(4)] + [
        {"prompt": "p" * 50, "completion": "c"}
    ]
    limits = ("data.max_prompt_length=60", "data.max_length=61", "data.preference.columns={prompt: prompt}")
    prompts = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": f"q{i}"} for i in range(4)])
    elsewhere = [f"data.{role}.path={prompts}" for role in ("preference", "prompt")]
    report = run(model, tmp_path / "out", rows, *limits, *elsewhere)
    assert report["sft"]["dropped"] == {"every target truncated at data.max_length": 1}
    assert (report["sft"]["read"], report["sft"]["kept"]) == (5, 4)


def test_bad_rows_are_dropped_on_request(model: Path, tmp_path: Path) -> None:
    rows = [*pairs(), {"prompt": "p", "chosen": "same", "rejected": "same"}]
    report = run(model, tmp_path / "out", rows, "data.bad_rows=drop")
    assert report["preference"]["dropped"] == {"chosen is equal to rejected": 1}


def test_rows_that_hold_what_no_row_should_are_bad_rows(model: Path, tmp_path: Path) -> None:
    bad = [{"prompt": "q \ud83d", "chosen": "a", "rejected": "b"}]
    with pytest.raises(
        UserError, match="line 1: holds a lone surrogate, .*; mend or remove the row, or set data.bad_rows"
    ):
        run(model, tmp_path / "one", [*bad, *pairs()])
    report = run(model, tmp_path / "two", [*bad, *pairs()], "data.bad_rows=drop")
    assert report["sft"]["dropped"] == {"holds a lone surrogate, half of a character": 1}
    assert (report["sft"]["read"], report["sft"]["kept"]) == (7, 6)


def test_a_column_of_some_rows_is_nothing_in_the_others(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "out", [*pairs(), {"prompt": "p", "chosen": "a", "rejected": "b", "source": "s"}])
    for name in ("prompt", "prompt_validation", "prompt_test"):
        for example in read_examples(tmp_path / "out" / f"{name}.jsonl"):
            assert example.columns["source"] in (None, "s") and "id" in example.columns


def test_answers_that_cannot_be_judged_name_row_and_column(model: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "answer": answer} for i, answer in enumerate(["1", "2", "3:30", "4", "5"])]
    own = ("data.verifier=numeric", "data.sft.source=reasoning_gym", "data.sft.size=9")
    message = r"line 3: column 'answer': the answer '3:30' is not one number; .*data.bad_rows: drop"
    with pytest.raises(UserError, match=message):
        run(model, tmp_path / "one", rows, *own)
    report = run(model, tmp_path / "two", rows, *own, "data.bad_rows=drop")
    assert report["prompt"]["dropped"] == {"the answer is not one number": 1}


def test_labels_of_a_prompt_are_put_together_and_lone_ones_stay(model: Path, tmp_path: Path) -> None:
    labels = [*(("p", label) for label in (1, 0)), *((f"q{i}", label) for i in range(3) for label in (1, 0))]
    labels += [("lone", 1), ("good", 1), ("good", 1), ("bad", 0)]
    rows = [{"prompt": p, "completion": f"c{i}", "label": label} for i, (p, label) in enumerate(labels)]
    prompts = write_jsonl(tmp_path / "prompts.jsonl", pairs())
    report = run(
        model, tmp_path / "out", rows, *(f"data.{role}.path={prompts}" for role in ("sft", "prompt"))
    )
    preference = report["preference"]
    assert (preference["read"], preference["kept"], preference["grouped"]) == (12, 7, 5)
    files = [
        tmp_path / "out" / name
        for name in ("preference.jsonl", "preference_validation.jsonl", "preference_test.jsonl")
    ]
    scores = [example.scores for file in files for example in read_examples(file)]
    assert sorted(score or [] for score in scores) == [[0.0], [1.0], *[[1.0, 0.0]] * 4, [1.0, 1.0]]


def test_generated_problems_and_their_verifier(model: Path, tmp_path: Path) -> None:
    own = [f"data.{role}.size=20" for role in ("sft", "preference", "prompt")]
    (tmp_path / "out").mkdir()
    report = prepare(
        make_config(f"model.path={model}", "data.test_size=5", "data.validation_size=5", *own),
        tmp_path / "out",
    )
    assert report["sft"]["source"] == "reasoning_gym chain_sum"
    prompt = read_examples(tmp_path / "out" / "prompt.jsonl")[0]
    assert prompt.tree.completions == [] and {"answer", "task", "metadata"} <= set(prompt.columns)
    # The right answer is a candidate beside the samples, and not yet scored.
    preference = read_examples(tmp_path / "out" / "preference.jsonl")[0]
    assert len(preference.tree.completions) == 1 and preference.scores is None


REFUSED = [
    (
        [*pairs(2), {"prompt": "p", "chosen": "a", "rejected": "a"}],
        (),
        r"line 3: chosen is equal to rejected",
    ),
    (
        [*pairs(2), {"prompt": "p" * 99, "chosen": "a", "rejected": "b"}],
        ("data.max_prompt_length=90",),
        r"line 3: .*90",
    ),
    ([], (), "is empty"),
    ([{"promt": "a"}], (), "did you mean 'prompt'"),
    (
        pairs(2),
        (),
        "data.sft has 2 distinct prompts, and data.test_size 1 and data.validation_size 1 leave none to",
    ),
    (pairs(), ("data.sft.path=/none.jsonl",), "/none.jsonl: there is no such file"),
    (pairs(), ("data.verifier=numeric",), "'numeric' reads the column 'answer'"),
    (pairs(), ("model.path=/none",), "there is no model folder /none"),
    (pairs(), ("model.lora=true", "model.lora_target_modules=[nope]"), "the model has no module 'nope'"),
    (
        pairs(),
        ("data.max_length=2049",),
        r"data\.max_length is 2049 tokens, and the model has positions for 2048",
    ),
    (
        [{"prompt": f"p{i}"} for i in range(6)],
        ("data.preference.sampling.max_new_tokens=2000", "data.sft.source=reasoning_gym", "data.sft.size=9"),
        r"data\.max_prompt_length \+ data\.preference\.sampling\.max_new_tokens is 2512 tokens",
    ),
    (pairs(), ("data.max_length=60", "data.max_prompt_length=19"), "line 1: the prompt has"),
    (
        [{"prompt": "p" * 40, "completion": "c"}],
        ("data.max_length=20", "data.max_prompt_length=19"),
        "none of the 1 rows .* is left; dropped 1 for: every target truncated",
    ),
]


def test_weights_that_are_missing_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"1 missing \(model.norm.weight\)"):
        run(model, tmp_path / "out", pairs())
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(("rows", "overrides", "message"), REFUSED)
def test_bad_input_is_named_and_nothing_is_written(
    model: Path, tmp_path: Path, rows: Any, overrides: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(model, tmp_path / "out", rows, *overrides)
    assert list((tmp_path / "out").iterdir()) == []


def needs_gold(completions: list[str], gold: list[str]) -> list[float]:
    """A user's reward that reads a column."""
    return [float(text == right) for text, right in zip(completions, gold, strict=True)]


LABELLED = [{"prompt": f"p{i}", "completion": "c", "label": True} for i in range(6)]
ASKED = [
    (LABELLED, (), Demands(pairs=("rl.dpo",)), "rl.dpo learns from nothing else"),
    ([{"prompt": f"p{i}", "completion": "c"} for i in range(6)], (), Demands(labels=("rl.kto",)),
     "rows without preferences, and rl.kto learns from them: set data.verifier"),
    ([{"prompt": f"p{i}", "completion": "c"} for i in range(6)], ("data.verifier=exact",), Demands(pairs=("rl.dpo",)),
     "'exact' reads the column 'answer', which not every row of data.p"),
    (LABELLED, (), Demands(rewards=("tests.test_prepare:needs_gold",)), "needs the column 'gold'"),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "overrides", "demands", "message"), ASKED)
def test_what_later_stages_would_miss_is_told_before_anything_is_written(
    model: Path, tmp_path: Path, rows: Any, overrides: Any, demands: Demands, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(model, tmp_path / "out", rows, *overrides, demands=demands)
    assert list((tmp_path / "out").iterdir()) == []


def test_labels_of_one_kind_are_enough_for_kto(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path / "out", LABELLED, demands=Demands(labels=("rl.kto",)))


def test_the_demands_of_a_configuration() -> None:
    def of(algorithm: str, kind: str, rewards: dict[str, float]) -> Demands:
        section = {"_target_": f"stages.algorithms.{algorithm}.{kind}", "rewards": rewards}
        return Demands.of(OmegaConf.create({"rl": {"algo": algorithm, algorithm: section}}))

    assert of("dpo", "DPO", {}) == Demands(pairs=("rl.dpo",))
    assert of("kto", "KTO", {}) == Demands(labels=("rl.kto",))
    assert of("ppo", "PPO", {"reward_model": 1.0}) == Demands(pairs=("the reward model",))
    assert of("grpo", "GRPO", {"verifier": 1.0, "own:function": 0.5}) == Demands(rewards=("own:function",))


def test_dialogues_with_a_label_are_labelled(model: Path, tmp_path: Path) -> None:
    turns = [[{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "a"}] for i in range(8)]
    rows = [{"messages": messages, "label": i % 2 == 0} for i, messages in enumerate(turns)]
    report = run(model, tmp_path / "out", rows)
    assert report["preference"]["format"] == "unpaired"
    assert report["sft"]["dropped"] == {"no completion is marked good": 4}
    examples = read_examples(tmp_path / "out" / "preference.jsonl")
    assert {example.prompt[1:]: example.scores for example in examples} == {
        number: [float(int(number) % 2 == 0)] for number in (example.prompt[1:] for example in examples)
    }


def test_every_column_is_accounted_for(model: Path, tmp_path: Path) -> None:
    answer = {"role": "assistant", "content": "a"}
    turns = [[{"role": "user", "content": f"q{i}", "lang": "en"}, answer] for i in range(6)]
    report = run(
        model, tmp_path / "out", [{"conversations": messages, "answer": "3", "id": 1} for messages in turns]
    )
    columns = {role: report[role]["columns"] for role in ("sft", "preference", "prompt")}
    for each in columns.values():
        assert (each["read"], each["ignored_message_keys"]) == (["conversations"], ["lang"])
    assert [columns[role]["kept_for_rewards"] for role in columns] == [
        [], ["answer", "id"], ["answer", "conversations", "id"]
    ]  # fmt: skip
    assert [columns[role]["ignored"] for role in columns] == [["answer", "id"], [], []]


def templates(text: str) -> list[str]:
    return [f"data.{role}.prompt_template={json.dumps(text)}" for role in ("sft", "preference", "prompt")]


def test_a_prompt_that_a_template_writes(model: Path, tmp_path: Path) -> None:
    rows = [{"q": f"q{i // 2}", "context": f"c{i % 2 if i < 4 else 0}", "answer": f"a{i}"} for i in range(12)]
    mapped = [f"data.{role}.columns={{completion: answer}}" for role in ("sft", "preference")]
    report = run(model, tmp_path / "out", rows, *mapped, *templates("{{ context }}, {{ q }}\n"))
    columns = {role: report[role]["columns"] for role in ("sft", "preference", "prompt")}
    assert [each["read"] for each in columns.values()] == [
        ["answer", "context", "q"], ["answer", "context", "q"], ["context", "q"]
    ]  # fmt: skip
    assert [each["kept_for_rewards"] for each in columns.values()] == [
        [], ["context", "q"], ["answer", "context", "q"]
    ]  # fmt: skip
    assert columns["sft"]["ignored"] == []
    # q0 and q1 have two prompts each, q2 to q5 one that stands twice: an example for each row in sft, one in all here.
    assert (report["sft"]["kept"], report["prompt"]["kept"]) == (12, 8)
    assert report["prompt"]["dropped"] == {"prompt seen before": 4}
    held_out = {role: openings(tmp_path / "out", role, "_test") for role in columns}
    assert held_out["sft"] == held_out["prompt"] == held_out["preference"]
    for role in columns:
        assert openings(tmp_path / "out", role, "").isdisjoint(held_out["prompt"])
    assert openings(tmp_path / "out", "prompt", "") <= {f"c{i}, q{j}\n" for i in range(2) for j in range(6)}


def openings(folder: Path, role: str, part: str) -> set[str]:
    return {example.prompt for example in read_examples(folder / f"{role}{part}.jsonl")}


def test_rows_that_a_template_cannot_write_are_bad_rows(model: Path, tmp_path: Path) -> None:
    rows = [*({"q": f"q{i}", "completion": "c"} for i in range(6)), {"q": None, "completion": "c"}]
    with pytest.raises(UserError) as error:
        run(model, tmp_path / "one", rows, *templates("{{ q }}"))
    assert str(error.value) == (
        f"{tmp_path / 'one.jsonl'}, line 7: data.sft.prompt_template: it writes a null (null here: q); mend or remove "
        "the row, or set data.bad_rows: drop"
    )
    report = run(model, tmp_path / "two", rows, *templates("{{ q }}"), "data.bad_rows=drop")
    assert report["sft"]["dropped"] == {"data.sft.prompt_template: it writes a null (null here: q)": 1}
    with pytest.raises(
        UserError, match=r"line 1: no column 'qq', which data\.sft\.prompt_template reads, and"
    ):
        run(model, tmp_path / "three", rows, *templates("{{ qq }}"), "data.bad_rows=drop")
    empty = [*rows[:6], {"q": " ", "completion": "c"}]
    report = run(model, tmp_path / "four", empty, *templates("{{ q }}\n"), "data.bad_rows=drop")
    assert report["sft"]["dropped"] == {"'prompt' is empty": 1}
    with pytest.raises(
        UserError, match=r"^data\.sft: none of the 7 rows .* 7 for: data\.sft\.prompt_template: 'dict"
    ):
        nested = [{"q": {"a": "x"}, "completion": "c"}] * 7
        run(model, tmp_path / "five", nested, *templates("{{ q.b }}"), "data.bad_rows=drop")


def test_two_prompts_are_refused_before_anything_is_written(model: Path, tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}]
    with pytest.raises(
        UserError, match="line 1: data.sft.prompt_template writes the prompt, and messages data take"
    ):
        run(model, tmp_path / "out", rows, *templates("{{ messages[0].content }}"))
    assert list((tmp_path / "out").iterdir()) == []


def test_images_are_refused_unless_told_otherwise(model: Path, tmp_path: Path) -> None:
    rows = [{**pair, "images": ["1.jpg"] if pair["id"] == 2 else []} for pair in pairs()]
    with pytest.raises(UserError, match="line 3: the column 'images' would be lost"):
        run(model, tmp_path / "one", rows)
    report = run(model, tmp_path / "two", rows, "data.bad_rows=drop")
    assert report["sft"]["dropped"] == {"the column 'images' is not read": 1}
    ignore = [f"data.{role}.ignore=[images]" for role in ("sft", "preference", "prompt")]
    assert run(model, tmp_path / "three", rows, *ignore)["sft"]["kept"] == 6


def test_turns_that_are_not_trained_and_turns_without_an_answer(model: Path, tmp_path: Path) -> None:
    def dialogue(i: int) -> list[dict[str, Any]]:
        bad, good = ({"role": "assistant", "content": text} for text in ("bad", "good"))
        asked = [{"role": "user", "content": f"q{i}"}, {"role": "user", "content": "more"}]
        return [asked[0], {**bad, "train": False}, asked[1], good, asked[1]]

    silent = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0}]
    report = run(
        model, tmp_path / "out", [*({"messages": dialogue(i)} for i in range(6)), {"messages": silent}]
    )
    assert report["sft"]["dropped"] == {"no answer is a target (train, weight and the like say no to all)": 1}
    assert report["sft"]["unanswered"] == 6
    tokenizer = tiny_tokenizer()
    for example in read_examples(tmp_path / "out" / "sft.jsonl"):
        assert targets(tokenizer, example.tree.completions[0]) == ["good<eos>"]


def test_dialogues_that_a_template_rewrites_are_split_in_sft_alone(tmp_path: Path) -> None:
    thought = "{% if loop.last and m['role'] == 'assistant' %}(){% endif %}"
    model = save_tiny_model(
        tmp_path / "model", CHATML.replace("{{ m['content'] }}", thought + "{{ m['content'] }}")
    )
    turn = [{"role": "user", "content": "more"}, {"role": "assistant", "content": "yes"}]
    rows = [
        {
            "prompt": [{"role": "user", "content": f"q{i}"}, turn[1], turn[0]],
            "chosen": "good",
            "rejected": "bad",
        }
        for i in range(4)
    ]
    report = run(model, tmp_path / "pairs", rows)
    assert (report["sft"]["split"], report["preference"]["kept"]) == (0, 4)
    rows = [{"messages": [{"role": "user", "content": f"q{i}"}, turn[1], *turn]} for i in range(4)]
    prompts = write_jsonl(tmp_path / "prompts.jsonl", pairs())
    others = [f"data.{role}.path={prompts}" for role in ("preference", "prompt")]
    report = run(model, tmp_path / "out", rows, *others)["sft"]
    assert (report["read"], report["split"], report["kept"]) == (4, 4, 8)
    parts = ("train", "validation", "test", "excluded_for_held_out_prompts")
    assert report["kept"] == sum(report[part] for part in parts)


def test_conversations_need_a_chat_template(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model", template=None)
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    with pytest.raises(UserError, match="line 1: the data are conversational and .* no chat template"):
        run(model, tmp_path / "out", rows)


def test_the_program_ends_with_code_2_and_one_line(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "stages.prepare", f"hydra.run.dir={tmp_path}", "tracking.enabled=false"]
    own = [f"model.path={model}", "data.sft.source=files", f"data.sft.path={tmp_path}/none.jsonl"]
    environment = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"}
    done = subprocess.run([*command, *own], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip() == f"error: {tmp_path}/none.jsonl: there is no such file or folder"
    assert [path for path in tmp_path.rglob("*.json*") if ".hydra" not in path.parts] == []

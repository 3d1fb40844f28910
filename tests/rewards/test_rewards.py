"""Rewards of several sources, and what is refused at the door."""

import math
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from stages.config.errors import UserError
from stages.data.examples import Example
from stages.rewards.check import check_columns, check_rewards
from stages.rewards.functions import FunctionReward
from stages.rewards.learned import LearnedReward
from stages.rewards.rewards import Rewards, gold
from stages.trees import Node, Tree

MODULE = """
def length(completions, **columns):
    return [len(text.split()) for text in completions]

def sometimes(prompts, completions, answer):
    return [None if a == 1 else 0.5 for a in answer]

def short(completions): return [1.0]
def words(completions): return ["good" for _ in completions]
def infinite(completions): return [float("inf") for _ in completions]
def single(completions): return 1.0
def lost(completions, ansver): return [0.0 for _ in completions]
NOT_A_FUNCTION = 3
"""
WORDS = ["<eos>", "1", "2", "3", "4"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<eos>"))
    words.pre_tokenizer = WhitespaceSplit()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_rewards.py").write_text(MODULE)
    (tmp_path / "broken_rewards.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_rewards", raising=False)


def no_reward_model() -> LearnedReward:
    raise AssertionError("a reward model without a weight is not to be loaded")


def tree(*completions: list[int]) -> Tree:
    return Tree(Node([1], [False]), [Node(ids, [True] * len(ids)) for ids in completions])


EXAMPLES = [Example(tree(), "1 + 0", None, {"answer": 1}), Example(tree(), "1 + 1", None, {"answer": 2})]
TREES = [tree([1, 0], [2, 0]), tree([1, 2, 0])]  # "1", "2" for the first prompt; "1 2" for the second


@pytest.mark.usefixtures("own")
def test_the_weighted_sum_and_its_parts(tokenizer: PreTrainedTokenizerFast) -> None:
    weights = {"verifier": 2.0, "own_rewards:length": 0.5, "own_rewards:sometimes": 1.0, "reward_model": 0.0}
    rewards = Rewards.from_config(weights, "numeric", tokenizer, no_reward_model)
    batch = rewards(EXAMPLES, TREES)
    assert batch.parts["verifier"].tolist() == [1.0, 0.0, 1.0]
    assert batch.parts["own_rewards:length"].tolist() == [1.0, 1.0, 2.0]
    assert [math.isnan(x) for x in batch.parts["own_rewards:sometimes"]] == [True, True, False]
    assert "reward_model" not in batch.parts
    assert batch.total.tolist() == [2.5, 0.5, 3.5]
    assert batch.means() == {
        "verifier": pytest.approx(2 / 3), "own_rewards:length": pytest.approx(4 / 3), "own_rewards:sometimes": 0.5
    }  # fmt: skip


def test_gold_needs_full_marks(tokenizer: PreTrainedTokenizerFast) -> None:
    assert gold(FunctionReward("exact", tokenizer), EXAMPLES, TREES).tolist() == [1.0, 0.0, 0.0]


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_rewards:short", "returned 1 scores for 3 completions"),
        ("own_rewards:words", "returned 'good', not a finite number"),
        ("own_rewards:infinite", "returned inf, not a finite number"),
        ("own_rewards:single", "returned float, not a list"),
        ("own_rewards:lost", "needs the column 'ansver'; did you mean 'answer'"),
    ],
)
def test_a_function_that_breaks_its_word(tokenizer: PreTrainedTokenizerFast, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        FunctionReward(name, tokenizer)(EXAMPLES, TREES)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("weights", "verifier", "message"),
    [
        ({"verifyer": 1.0}, "exact", "no reward 'verifyer'; did you mean 'verifier'"),
        ({"verifier": 1.0}, None, "data.verifier is null"),
        ({"verifier": 0.0}, "exact", "every reward has the weight 0"),
        ({"reward_model": math.nan}, None, "has the weight nan"),
        ({"own_rewards:lenght": 1.0}, None, "no function 'lenght'; did you mean 'length'"),
        ({"own_rewards:NOT_A_FUNCTION": 1.0}, None, "no function 'NOT_A_FUNCTION'"),
        ({"broken_rewards:f": 1.0}, None, "cannot import 'broken_rewards' of .* ZeroDivisionError"),
        ({"nowhere:f": 1.0}, None, "cannot import 'nowhere'"),
        ({}, "numerical", "no verifier 'numerical'; did you mean 'numeric'"),
    ],
)
def test_the_door(weights: dict[str, float], verifier: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_rewards(weights, verifier)


@pytest.mark.usefixtures("own")
def test_the_door_lets_good_rewards_pass() -> None:
    check_rewards({"verifier": 1.0, "reward_model": 0.5, "own_rewards:length": -0.1}, "own_rewards:sometimes")


@pytest.mark.parametrize(
    ("verifier", "columns", "message"),
    [
        ("numeric", {"solution": "3"}, "needs the column 'answer'"),
        ("numeric", {"answer": "many"}, "holds no number"),
        ("exact", {"answer": None}, "has no answer"),
        ("reasoning_gym", {"answer": "3"}, "needs the column 'task'"),
    ],
)
def test_rows_that_a_verifier_cannot_judge(verifier: str, columns: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_columns(verifier, [Example(tree(), "?", None, columns)])

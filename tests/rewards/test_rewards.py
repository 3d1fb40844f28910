"""Rewards of several sources, and what is refused at the door."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from stages.config.compose import compose_config
from stages.config.errors import UserError
from stages.data.examples import Example
from stages.models.reward import RewardModel
from stages.reward_model import normalize
from stages.rewards.check import check_columns, check_data, check_rewards
from stages.rewards.functions import FunctionReward
from stages.rewards.learned import LearnedReward
from stages.rewards.rewards import Rewards, gold
from stages.rewards.scores import check_finite
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
def cites(completions, source): return [0.0 for _ in completions]
def misspelt(completion): return [0.0 for _ in completion]
def raising(completions): return [1 / (len(text) - 3) for text in completions]
def leaving(completions): raise SystemExit("no key")
def lazily(completions): yield from (int(text) for text in completions)
def nan(completions): return [float("nan") for _ in completions]
def huge(completions): return [1e39 for _ in completions]
def keys(completions): return {index: 1.0 for index in range(len(completions))}
def text(completions): return "abc"
def nested(completions): return [[1.0] for _ in completions]
def nothing(completions): pass
def arrays(completions):
    import numpy
    return numpy.array([[1.0]] * len(completions))
async def later(completions): return [1.0 for _ in completions]
async def steps(completions): yield 1.0
def by_place(completions, /): return [1.0 for _ in completions]
class Kind:
    def __init__(self, completions): pass
class Later:
    async def __call__(self, completions): return []
called_later = Later()
builtin = dict.fromkeys

def fine_bools(completions): return [True for _ in completions]
def fine_arrays(completions):
    import numpy
    return numpy.ones(len(completions))
def fine_tensors(completions):
    import torch
    return torch.ones(len(completions), requires_grad=True)
def fine_generator(completions): yield from (1 for _ in completions)
def fine_more(*args, completions, unused=None, **columns): return [1.0 for _ in completions]
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
    (tmp_path / "leaving_rewards.py").write_text("import sys; sys.exit(1)")
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
    rewards = Rewards.from_config(weights, FunctionReward("numeric", tokenizer), tokenizer, no_reward_model)
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
        ("own_rewards:misspelt", "needs the column 'completion'; did you mean 'completions'"),
        ("own_rewards:raising", r"raised ZeroDivisionError: division by zero \(own_rewards.py, line 15\), "
         r"for the completion '1 2' of the prompt '1 \+ 1'"),
        ("own_rewards:leaving", r"raised SystemExit: no key \(own_rewards.py, line 16\), for the completion '1'"),
        ("own_rewards:lazily",
        "raised ValueError: invalid literal .*'1 2'.*, for the completion '1 2' of the prompt"),
        ("own_rewards:nan",
        "returned nan, not a finite number or None, for the completion '1' of the prompt '1"),
        ("own_rewards:huge", r"returned 1e\+39, not a finite number or None, for the completion '1'"),
        ("own_rewards:keys", "returned dict, not a list"),
        ("own_rewards:text", "returned str, not a list"),
        ("own_rewards:nested", r"returned \[1.0\], not a finite number"),
        ("own_rewards:nothing", "returned NoneType, not a list"),
        ("own_rewards:arrays", r"returned \[1.0\], not a finite number"),
    ],
)  # fmt: skip
def test_a_function_that_breaks_its_word(tokenizer: PreTrainedTokenizerFast, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        FunctionReward(name, tokenizer)(EXAMPLES, TREES)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("name", ["bools", "arrays", "tensors", "generator", "more"])
def test_lists_of_every_kind_are_lists(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    scores = FunctionReward(f"own_rewards:fine_{name}", tokenizer)(EXAMPLES, TREES)
    assert scores == [1.0, 1.0, 1.0] and {type(score) for score in scores} == {float}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_learned_reward_that_is_not_finite_names_its_completion(
    tokenizer: PreTrainedTokenizerFast, value: float
) -> None:
    class Broken(LearnedReward):
        def __init__(self) -> None: ...

        def __call__(self, trees: Sequence[Tree]) -> list[float]:
            return [0.5, value, 0.5]

    rewards = Rewards.from_config({"reward_model": 1.0}, None, tokenizer, Broken)
    message = rf"'reward_model' returned {value}, .* the completion '2' of the prompt '1 \+ 0'"
    with pytest.raises(UserError, match=message):
        rewards(EXAMPLES, TREES)


def test_a_reward_model_is_not_normalised_by_scores_that_are_not_finite() -> None:
    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, num_labels=1,
        reward_mean=0.0, reward_std=1.0,
    )  # fmt: skip
    model = RewardModel(LlamaForSequenceClassification(config))
    model.model.score.weight.data.fill_(math.nan)
    rows = [Example(tree([1, 0], [2, 0]), "1 + 0", [1.0, 0.0], {})]
    with pytest.raises(
        UserError, match=r"'reward_model' returned nan, .* the completion \[1, 0\] of the prompt"
    ):
        normalize(model, rows, 64, Accelerator(cpu=True))
    assert model.config.reward_mean == 0.0


def test_a_function_may_be_named_on_the_command_line() -> None:
    override = r"+rl.grpo.rewards={verifier: 0.5, stages.rewards.mine\:short: 0.1}"
    rewards = compose_config(["rl.algo=grpo", override]).rl.grpo.rewards
    assert dict(rewards) == {"verifier": 0.5, "stages.rewards.mine:short": 0.1}


def test_a_sum_that_is_not_finite_names_its_completion() -> None:
    sources = {"a": lambda *_: [0.0, 0.0, 3e38], "b": lambda *_: [None, None, 3e38]}
    rewards = Rewards(sources, {"a": 1.0, "b": 1.0})
    message = r"'sum of all' returned inf, .* the completion \[1, 2, 0\] of the prompt '1 \+ 1'"
    with pytest.raises(UserError, match=message):
        rewards(EXAMPLES, TREES)


def test_long_texts_are_shortened(tokenizer: PreTrainedTokenizerFast) -> None:
    long = [Example(tree(), "a" * 500 + "\n" + "z" * 500, None, {})]
    with pytest.raises(UserError) as error:
        check_finite("reward_model", [math.nan], long, [tree([1] * 400)], tokenizer)
    assert len(str(error.value)) < 250 and "\n" not in str(error.value)
    assert "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaa ... zzz" in str(error.value)


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
        ({"leaving_rewards:f": 1.0}, None, "cannot import 'leaving_rewards' of .* SystemExit: 1"),
        ({"own_rewards:later": 1.0}, None, "'own_rewards:later' is async"),
        ({"own_rewards:steps": 1.0}, None, "'own_rewards:steps' is async"),
        ({"own_rewards:called_later": 1.0}, None, "'own_rewards:called_later' is async"),
        ({"own_rewards:by_place": 1.0}, None, "takes 'completions' by its place only, .* remove the '/'"),
        ({"own_rewards:Kind": 1.0}, None, "'own_rewards:Kind' is a class; name a function"),
        ({}, "own_rewards:by_place", "takes 'completions' by its place only"),
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


def with_columns(**columns: Any) -> Example:
    return Example(tree(), "?", None, columns)


@pytest.mark.usefixtures("own")
def test_columns_that_rewards_need_are_looked_for_in_the_prompts() -> None:
    config = compose_config(["rl.algo=grpo"])
    config.rl.grpo.rewards = {"own_rewards:lost": 1.0}
    check_data(
        config, {"prompt": [with_columns(id=1), with_columns(ansver=2)]}.get
    )  # in one of the rows is enough
    check_data(config, {}.get)  # rows that cannot be had yet
    with pytest.raises(UserError, match=r"^data.prompt: reward .* needs the column 'ansver'; did you mean"):
        check_data(config, {"prompt": [with_columns(answer=1), with_columns(id=2)]}.get)
    config.rl.grpo.rewards = {"own_rewards:lost": 0.0, "verifier": 1.0}
    check_data(config, {"prompt": [with_columns(answer=1, task="t", metadata={})]}.get)
    config.data.verifier = "own_rewards:lost"
    with pytest.raises(UserError, match="needs the column 'ansver'"):
        check_data(config, {"prompt": [with_columns(answer=1)]}.get)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("override", ["rl.algo=dpo", "rl.algo=ppo"])
def test_preferences_that_are_yet_to_be_ranked_need_a_verifier_and_its_columns(override: str) -> None:
    config = compose_config([override])
    config.data.verifier = None
    rows = {"prompt": [with_columns(source="a")], "preference": [with_columns(answer=1)]}
    with pytest.raises(UserError, match="data.preference has rows without preferences: set data.verifier"):
        check_data(config, rows.get)
    config.data.verifier = "own_rewards:cites"
    with pytest.raises(
        UserError, match="data.preference: reward 'own_rewards:cites' needs the column 'source'"
    ):
        check_data(config, rows.get)
    check_data(config, {**rows, "preference": [Example(tree([1], [2]), "?", [1.0, 0.0], {})]}.get)
    config = compose_config(["rl.algo=grpo"])  # by the verifier: it asks for no preferences
    config.data.verifier = "own_rewards:cites"
    check_data(config, rows.get)

"""Verifiers against answers whose right score is known by hand."""

from decimal import Decimal

import pytest

from stages.config.errors import UserError
from stages.rewards.verifiers import (
    exact,
    last_number,
    number_of_answer,
    numeric,
    reasoning_gym,
    reasoning_gym_partial,
)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("18", "18"),
        ("The answer is 1,024.", "1024"),
        ("so 16-3", "3"),
        ("it fell to -3", "-3"),
        ("= -3.50", "-3.50"),
        ("$2 * 9 = $18 per day", "18"),
        ("about .5", "0.5"),
        ("1,2 and 3", "3"),
        ("x2-1", "1"),
        ("no number", None),
        ("", None),
    ],
)
def test_last_number(text: str, number: str | None) -> None:
    assert last_number(text) == (None if number is None else Decimal(number))


def test_the_answer_is_read_behind_its_marker() -> None:
    assert number_of_answer("She sold 48/2 = <<48/2=24>>24 clips.\n#### 1,072") == 1072
    assert number_of_answer("2 * 9 = <<2*9=18>>18 per day\nA: 18") == 18
    assert number_of_answer("#### 5 (in 3 days)") == 5
    assert number_of_answer(7) == 7
    for answer, message in [("many", "holds no number"), ("3:30", "is not one number")]:
        with pytest.raises(UserError, match=message):
            number_of_answer(answer)


def test_numeric() -> None:
    completions = ["48+24 = 72", "I think 72.0!", "72 clips in 2 months", ""]
    assert numeric(["?"] * 4, completions, ["#### 72"] * 4) == [1.0, 1.0, 0.0, 0.0]


def test_a_percent_sign_is_a_unit_and_fractions_are_exact() -> None:
    assert numeric(["?"] * 3, ["0.5", "50", "50%"], ["50%"] * 3) == [0.0, 1.0, 1.0]
    assert numeric(["?"] * 3, ["0.5", r"\frac{1}{2}", "2"], ["1/2"] * 3) == [1.0, 1.0, 0.0]
    assert numeric(["?"] * 2, ["0.33", "1/3"], ["1/3"] * 2) == [0.0, 1.0]


@pytest.mark.parametrize(
    ("answer", "completion", "score"),
    [
        ("5", "- 5", 0.0), ("5", "-$5", 0.0), ("-5", "\u22125", 1.0), ("1/2", "3/2", 0.0), (1e20, "20", 0.0),
        ("3", "1.5e3", 0.0),
        ("2", "16/2", 0.0), ("5", "x = 5.", 1.0), ("1000", "1 000", 1.0), ("72",
        "#### 72\nThat took 3 steps.", 1.0),
    ],
)  # fmt: skip
def test_signs_fractions_and_exponents_count(answer: object, completion: str, score: float) -> None:
    assert numeric(["?"], [completion], [answer]) == [score]


def test_exact_ignores_white_space_around() -> None:
    assert exact(["?"] * 3, [" Paris\n", "paris", ""], ["Paris"] * 3) == [1.0, 0.0, 0.0]


def test_reasoning_gym_scores_with_the_task_itself() -> None:
    completions = ["63", " 63\n", "063", "63.5", "It is 63"]
    scores = reasoning_gym(["?"] * 5, completions, ["chain_sum"] * 5, ["63"] * 5, [{}] * 5)
    assert scores == [1.0, 1.0, 1.0, 0.0, 0.0]
    with pytest.raises(UserError, match="no task 'chain_summ'"):
        reasoning_gym(["?"], ["1"], ["chain_summ"], ["1"], [{}])


def test_partial_credit_is_a_reward_by_its_own_name() -> None:
    """With it GRPO wrote palindromes of any letters: 0.05 each, which in a group of 0.02 is all there is to win."""
    completions, entry = ["63", "63.5", "It is 63"], {"letters": ["a", "b", "a"]}
    # "63" is 2 of the 4 characters of "63.5" and 2 of the 8 of "It is 63"
    assert reasoning_gym_partial(["?"] * 3, completions, ["chain_sum"] * 3, ["63"] * 3, [{}] * 3) == [
        1,
        0.5,
        0.25,
    ]
    palindromes = (["?"] * 3, ["aba", "aca", "aab"], ["palindrome_generation"] * 3, ["aba"] * 3, [entry] * 3)
    assert reasoning_gym_partial(*palindromes) == [1.0, 0.05, 0.02]
    assert reasoning_gym(*palindromes) == [1.0, 0.0, 0.0]

"""Numbers that were read by eye: what is written, and what it is worth."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest

from stages.data.numbers import last_number, number_of_answer

ENDS_WITH = [
    # signs: apart from the number, before a currency, in Unicode; and minuses that take away or separate
    ("- 5", "-5"), ("-$5", "-5"), ("- $5", "-5"), ("$-5$", "-5"), ("\u22125", "-5"), ("\uff0d5", "-5"),
    ("\u20135", "-5"),
    ("it fell to -3", "-3"), ("(-5)", "-5"), ("-(5)", "-5"), ("-**5**", "-5"), ("x = - 5", "-5"),
    ("It is - 5", "-5"),
    ("negative 5", "-5"), ("the result is minus 5", "-5"), (r"-\frac{1}{2}", "-1/2"), ("-1 1/2", "-3/2"),
    ("+5", "5"),
    ("so 16-3", "3"), ("16 - 3", "3"), ("16 \u2013 3", "3"), ("10 minus 5", "5"), ("Total - 5", "5"),
    ("Total -- 5", "5"),
    ("- 3 apples\n- 5 pears", "5"), ("x2-1", "1"),
    # fractions and mixed numbers
    ("3/2", "3/2"), ("1 / 2", "1/2"), (r"\frac{3}{2}", "3/2"), (r"\dfrac{3}{2}", "3/2"), (r"\frac12", "1/2"),
    ("\u00bd", "1/2"), ("1 1/2", "3/2"), ("1\u00bd", "3/2"), (r"1\frac{1}{2}", "3/2"), ("1\u20442", "1/2"),
    ("16/2", "8"),
    # powers of ten
    ("1e+20", "1" + 20 * "0"), ("1.5e3", "1500"), ("1E-3", "1/1000"), ("1.5 \u00d7 10^3", "1500"),
    (r"1.5 \times 10^{3}", "1500"), ("10\u00b3", "1000"), ("2.5 million", "2500000"), ("5 thousandths", "5"),
    # groups of three
    ("1,024", "1024"), ("1 024", "1024"), ("1\u202f024", "1024"), ("1\u00a0024", "1024"), ("1'024", "1024"),
    (r"1{,}024", "1024"), (r"1\,024", "1024"), (r"1,\!024", "1024"), ("1_024", "1024"), ("-$1,000.50",
    "-2001/2"),
    ("in 2023 100 people", "100"), ("5, 100", "100"),
    # what stands around it
    ("50%", "50"), (r"50\%", "50"), ("$18 per day", "18"), ("Rs.500", "500"), ("5km", "5"), ("5 m^2", "5"),
    ("5 m\u00b2", "5"),
    (r"5\text{ cm}", "5"), (r"5^\circ", "5"), ("**5**", "5"), ("5.", "5"), ("5.0", "5"), ("about .5", "1/2"),
    ("5!", "5"),
    ("x=5", "5"), ("Step 3: 5", "5"), ("\u0665", "5"), ("\uff15", "5"), ("1,2 and 3", "3"), ("x_1 = 7", "7"),
    # where the final answer is marked
    (r"\boxed{5}, found in 3 steps", "5"), (r"\boxed{-\frac{1}{2}}", "-1/2"), ("#### 5 (in 3 days)", "5"),
    ("A: 18\nB: 2", "18"), ("Plan A: 3, plan B: 5", "5"),
]  # fmt: skip
NO_NUMBER = [
    "", "no number", "x^2", "2:30", "3:4", "2/3/2024", "1.2.3", "3,14", "(3,4)", "1.024,50", "0,500", "2^5",
    "2**5", "5\u00b2",
    r"2\sqrt{3}", "2\u03c0", r"\frac{x}{2}", "x/2", "3+4i", "1/0", "1e99999",
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), ENDS_WITH)
def test_the_number_that_a_text_ends_with(text: str, value: str) -> None:
    assert last_number(text) == Fraction(value)


@pytest.mark.parametrize("text", NO_NUMBER)
def test_pieces_of_something_else_are_no_numbers(text: str) -> None:
    assert last_number(text) is None


def test_long_numbers_and_long_texts_are_read_in_no_time() -> None:
    assert last_number("9" * 5000) == Fraction(10) ** 5000 - 1
    assert last_number("-" + 50_000 * " " + "5" + 50_000 * " .") == 5


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (7, "7"), (-7, "-7"), (1e20, "1" + 20 * "0"), (0.1, "1/10"), (Decimal("2.50"), "5/2"), ("1/2", "1/2"),
        ("50%", "50"), ("$1,000", "1000"), ("x = -5", "-5"), ("48/2 = <<48/2=24>>24 clips.\n#### 1,072",
        "1072"),
        ("2 * 9 = <<2*9=18>>18 per day\nA: 18", "18"), ("48/2 = 24", "24"), (r"so \boxed{\frac{1}{2}}",
        "1/2"),
        ("a 5-year plan", "5"), ("18 dollars", "18"),
    ],
)  # fmt: skip
def test_answers(answer: object, value: str) -> None:
    assert number_of_answer(answer) == Fraction(value)


@pytest.mark.parametrize(
    "answer",
    [
        "3:30", "2024-01-05", "16-3", "10-20", "10 to 20", "3 and 5", "3, 4", "(3, 4)", "x + 5", "5 - x",
        "3x", "3 + 4i", "5!",
        r"2\sqrt{3}", "2^5", "3,14", "many", "", True, None, ["5"], {"value": 5}, float("nan"), float("inf"),
    ],
)  # fmt: skip
def test_answers_that_leave_doubt_are_refused(answer: object) -> None:
    with pytest.raises(
        ValueError, match=r"^the answer .* (holds no number|is not one number|not a number or text)$"
    ):
        number_of_answer(answer)


PIECES = [
    r"\boxed{\frac{\sqrt{3}}{2}}", r"-\frac{\sqrt{3}}{2}", r"\boxed{\frac{1+\sqrt{5}}{2}}", r"\binom{5}{2}", "25_8",
    "25_{8}", r"0.\overline{36}", r"\boxed{\begin{pmatrix}1\\2\end{pmatrix}}", r"[2,\infty)", r"x\ge 2", r"\pm 5",
    "±5", r"\frac{1}{\frac{2}{3}}", r"x=2, so \boxed{\text{none}}",
]  # fmt: skip


@pytest.mark.parametrize("text", PIECES)
def test_a_piece_of_an_expression_is_no_number(text: str) -> None:
    assert last_number(text) is None
    with pytest.raises(ValueError, match="the answer"):
        number_of_answer(text)

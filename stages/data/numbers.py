"""Numbers in text, as people and models write them. Values are exact: 0.1 is a tenth, 1/3 a third.

What looks like a number and is a piece of something larger (3:30, 2024-01-05, 2^5, 3,14) is none: it is not guessed at.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

from stages.data.spellings import plain_spelling

# 1,024 and 1 024 and 1'024 and 1_024: groups of three with one sign between them. 0,500 is no such group.
GROUPS = r"[1-9]\d{0,2}(?:(?:,\d{3})+|(?: \d{3})+|(?:['’]\d{3})+|(?:_\d{3})+)(?!\d)"
UNSIGNED = rf"(?:(?:{GROUPS}|\d+)(?:\.\d+)?(?:[eE][-+]?\d{{1,4}}(?!\w))?|(?<![\w.)])\.\d+)"
NUMBER = re.compile(
    rf"(?:(?P<factor>{UNSIGNED}) ?[×x*·] ?)?10 ?\^ ?\{{?(?P<power>[-+]?\d{{1,4}})\}}?(?!\d)"
    r"|(?P<whole>\d+) (?P<over>\d+)/(?P<under>\d+)(?![\d/])"
    rf"|(?P<top>{UNSIGNED})(?: ?/ ?(?P<bottom>{UNSIGNED}))?"
)
# LaTeX that takes a number for a part of it: \binom{5}{2}, 0.\overline{3}, \ge 2, \log 5; a row of a matrix; a base.
COMMAND = (
    r"\\(?:[dtc]?frac|[dt]?binom|overline|geq?|leq?|neq?|pm|mp|log|ln|sin|cos|tan) ?(?:\{[^{}]*\} ?)?\{?"
    r"|\\\\|[±∓≤≥≠] ?|\d_\{?"
)
# What makes a number a piece of something else: a time, a date, a root, a power, a comma that groups no thousands.
BEFORE = re.compile(
    rf"(?:\d:|\d : |\d ?/ ?|[^\W\d_]/|[)}}]/|\d[.,]|√|\d\*\*|\^ ?\{{?|\d[eE][-+]?|{COMMAND})\Z"
)
AFTER = re.compile(r" ?\^|:\d| : \d|[.,]\d| ?/ ?\d| ?(?:\\pi|π|√)|\*\*\d|i(?!\w)|, ?(?:\\infty|∞)|\\\\")
# And in an answer, which must leave no doubt: 16-3, 3 + x, 10 to 20, 5!, 3x.
OPERATOR_BEFORE = re.compile(r"(?:[\w)\]}%] ?[-+*×·]|\d\W{0,3}(?:and|or|to)\W{0,3}) ?[$(]*\Z")
OPERATOR_AFTER = re.compile(r" ?[-+*×·] ?(?:\d|[^\W\d_]\b|[(\\√])|!|[nxyz](?!\w)")

MINUS = re.compile(r"(?P<sign>-|\b(?:minus|negative)\b)(?P<gap>[ ]*)[$€£¥₹({*]*[ ]*\Z", re.IGNORECASE)
OPERAND = re.compile(r"[\w)\]}%°]\Z")  # behind one of these a minus may take away instead
VERB = re.compile(r"\b(?:is|are|was|be|equals?|to|of|by|at|gives)\Z", re.IGNORECASE)
ITEM = re.compile(r"^[ ]*- ", re.MULTILINE)
NEAR = 200  # characters before a number, at most, that tell what it is
SCALE = re.compile(r" ?(thousand|million|billion|trillion)\b", re.IGNORECASE)
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

BOXED = re.compile(r"\\f?boxed ?\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
MARKER = re.compile(r"####|^A:", re.MULTILINE)  # the final answer in GSM8K, and in its model solutions


def last_number(text: str) -> Fraction | None:
    """The number that a text ends with: in its last box, else behind its last `####` or a line's `A:`, else its last.

    None where there is none, or where it is a piece of something else.
    """
    text = plain_spelling(text)
    found = _final(text)
    return _value(text, found) if found else None


def number_of_answer(answer: Any) -> Fraction:
    """The number that an answer column gives. Raises ValueError where it holds none, or leaves doubt which."""
    if isinstance(answer, bool) or not isinstance(answer, str | int | float | Decimal):
        raise ValueError(f"the answer {_short(answer)} is {type(answer).__name__}, not a number or text")
    text = plain_spelling(str(answer))
    found = _final(text)
    if not found:
        raise ValueError(f"the answer {_short(answer)} holds no number")
    value = _value(text, found)
    if value is None or _in_doubt(text, found):
        raise ValueError(f"the answer {_short(answer)} is not one number")
    return value


def _final(text: str) -> re.Match[str] | None:
    if boxes := list(BOXED.finditer(text)):
        inside = list(NUMBER.finditer(text, *boxes[-1].span(1)))
        return inside[-1] if inside else None
    if (markers := list(MARKER.finditer(text))) and (found := NUMBER.search(text, markers[-1].end())):
        return found
    found = list(NUMBER.finditer(text))
    return found[-1] if found else None


def _value(text: str, found: re.Match[str]) -> Fraction | None:
    if BEFORE.search(_before(text, found)) or AFTER.match(text, found.end()):
        return None
    size = _size(found)
    if size is not None and (scale := SCALE.match(text, found.end())):
        size *= SCALES[scale[1].lower()]
    return -size if size is not None and _is_negative(text, _before(text, found)) else size


def _before(text: str, found: re.Match[str]) -> str:
    return text[max(0, found.start() - NEAR) : found.start()]


def _size(found: re.Match[str]) -> Fraction | None:
    part = found.groupdict()
    if part["power"]:
        return (_decimal(part["factor"]) if part["factor"] else 1) * Fraction(10) ** int(part["power"])
    if part["whole"]:
        over, under = _decimal(part["over"]), _decimal(part["under"])
        return _decimal(part["whole"]) + over / under if over < under else None
    bottom = _decimal(part["bottom"] or "1")
    return _decimal(part["top"]) / bottom if bottom else None


def _decimal(text: str) -> Fraction:
    return Fraction(Decimal(re.sub(r"[, '’_]", "", text)))


def _is_negative(text: str, before: str) -> bool:
    """Whether a minus stands before a number and is its sign: not the one of 16-3, of `Total - 5`, or of a list."""
    found = MINUS.search(before)
    if not found:
        return False
    if found["sign"].lower() == "negative":
        return True
    apart = bool(found["gap"])
    left = before[: found.start()].rstrip("$*")
    near = left.rstrip(" $*")
    if not OPERAND.search(near):
        begins_line = not near or near.endswith("\n")
        return not apart or not (near.endswith("-") or (begins_line and len(ITEM.findall(text)) > 1))
    return VERB.search(near) is not None if apart else left != near


def _in_doubt(text: str, found: re.Match[str]) -> bool:
    """Whether the number is a part of an expression, or one of several without words that would tell them apart."""
    before = _before(text, found)
    signed = MINUS.search(before) if _is_negative(text, before) else None
    before = before[: signed.start()] if signed else before
    if OPERATOR_BEFORE.search(before) or OPERATOR_AFTER.match(text, found.end()):
        return True
    beside = text[max(text.rfind(sign) for sign in "=#:") + 1 :]
    return re.search(r"[^\W\d_]", beside) is None and len(NUMBER.findall(beside)) > 1


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    return repr(text if len(text) <= 60 else f"{text[:20]}...{text[-37:]}")

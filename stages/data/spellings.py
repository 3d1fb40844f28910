"""Unicode's and LaTeX's spellings of numbers, brought to plain ones."""

from __future__ import annotations

import re
import unicodedata

SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻"
VULGAR = "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
# Dashes that people use for a minus, but not the long one, which is punctuation; slashes of fractions; Arabic's points.
PLAIN = str.maketrans({**dict.fromkeys("−‐‑–﹣", "-"), **dict.fromkeys("⁄∕", "/"), "٫": ".", "٬": ","})
BASE = r"(?<=[A-Za-zµΩ])"  # m^2 and x_1 have an exponent and an index: no numbers of their own
LATEX = (
    (re.compile(r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it)|mbox) ?\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\(?:left|right|displaystyle|!)"), ""),
    (re.compile(r"\{,\}(?:\\!)?"), ","),
    (re.compile(r"\\[,;: ]|~"), " "),
    (re.compile(r"\\([$%()\[\]])"), r"\1"),
    (re.compile(r"\\(?:times|cdot)(?![a-z])"), "×"),
    (re.compile(r"\^ ?\{?\\circ\}?"), "°"),
    (re.compile(r"\\sqrt ?(?:\[[^\]]*\])? ?(?:\{([^{}]*)\}|(\w))"), r"√\1\2"),
    (re.compile(BASE + r" ?[\^_] ?(?:\{[^{}]*\}|[-+]?\d+)"), ""),
)
FRACTION = re.compile(r"(?P<before>\d?) ?\\[dtc]?frac ?(?P<top>\{[^{}]*\}|\d) ?(?P<bottom>\{[^{}]*\}|\d)")


def plain_spelling(text: str) -> str:
    """The text with ASCII signs for Unicode's, `a/b` for fractions, and without LaTeX's spaces and wrappings."""
    text = re.sub(f"[{SUPERSCRIPTS}]+", lambda found: f"^{{{found[0]}}}", text)
    text = re.sub(f"(?<=\\d)(?=[{VULGAR}])", " ", text)  # 2½ is not 21/2
    text = unicodedata.normalize("NFKC", text).translate(PLAIN)
    for pattern, plain in LATEX:
        text = pattern.sub(plain, text)
    return FRACTION.sub(_fraction, text)


def _fraction(found: re.Match[str]) -> str:
    top, bottom = (found[name].strip("{} ") for name in ("top", "bottom"))
    parts = (part if re.fullmatch(r"[-\w.]*", part) else f"({part})" for part in (top, bottom))
    return f"{found['before']}{' ' if found['before'] else ''}" + "/".join(parts)

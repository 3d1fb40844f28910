"""What models say is text on every page, whatever it would be elsewhere."""

from pathlib import Path

import pytest

from stages.evaluation.report import Report
from stages.evaluation.reward_check import RewardCheck
from stages.evaluation.samples import write_csv, write_markdown
from stages.evaluation.text import markdown_cell, visible
from stages.statistics.interval import Interval


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("a | b", r"a \| b"),
        ("a \\| b", r"a \\\| b"),
        ("`code`", r"\`code\`"),
        ("**bold** _it_ ~~no~~ $x$", r"\*\*bold\*\* \_it\_ \~\~no\~\~ \$x\$"),
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("&lt;", "&amp;lt;"),
        ("![i](https://e.org/i.png)", r"!\[i\](https\://e.org/i.png)"),
        ("www.e.org", r"www\.e.org"),
        ("1\r\n2\n3\u20284\x0b5", "1<br>2<br>3<br>4<br>5"),
        ("\x1b[31mred\x00", r"\\x1b\[31mred\\x00"),
        ("\u202egnp.exe \ud800", r"\\u202egnp.exe \\ud800"),
        ("½ = 0.5, x² − 1 · 😀\tok!", "½ = 0.5, x² − 1 · 😀\tok!"),
    ],
)
def test_a_cell_shows_what_was_said(text: str, cell: str) -> None:
    assert markdown_cell(text) == cell


def test_every_page_takes_every_answer(tmp_path: Path) -> None:
    said = "</div><img src=x onerror=alert(1)> | \x1b[2J\x07 {{ 7 * 7 }} \u202e \ud800"
    rows = [{"prompt": said, "answer": said, "base": said, "sft": said, "sft_gold": 1.0, "rl": said}]
    write_markdown(tmp_path / "samples.md", rows, ["base", "sft", "rl"])
    write_csv(tmp_path / "samples.csv", rows)
    table = (tmp_path / "samples.md").read_text().splitlines()[2:]
    assert len(table) == 3 and "<img" not in table[2] and "\x1b" not in table[2]
    assert table[2].replace(r"\|", "").count("|") == 6

    length: Interval = {"mean": 4.0, "low": None, "high": None}
    metrics = {name: {"mean_length": length} for name in ("base", "sft", "rl")} | {"paired": {}}
    page = Report({"model": said}, metrics, {}, rows, None, 0.95, RewardCheck(None, None, {})).html()
    body = page[page.index("Samples <span") :]
    assert "<img" not in page and "\x1b" not in body and "\u202e" not in body
    assert "{{ 7 * 7 }}" in body and "&lt;/div&gt;" in body
    page.encode()


def test_lines_and_tabs_stay() -> None:
    assert visible("a\tb\r\nc") == "a\tb\nc"

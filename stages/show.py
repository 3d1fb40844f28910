"""A few examples as the model will see them: `python -m stages.show [sft|preference|prompt]`.

It reads what prepare wrote. Targets are green, context is dim; without colours targets stand in [[ ]], and special
tokens in ‹ ›.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from stages.config.errors import UserError
from stages.data.base_model import check_location
from stages.data.examples import Example, read_examples
from stages.data.nearest import nearest
from stages.data.pieces import Cutter, Piece, visible
from stages.data.preview import columns_of, titled
from stages.data.roles import ROLES
from stages.data.tokenizers import load_tokenizer
from stages.trees import Node

FOLDER = Path(__file__).resolve().parents[1] / "data" / "prepare"
BORDER = "|"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m stages.show", description="Show examples as the model will see them."
    )
    made.add_argument("roles", nargs="*", metavar="role", help=f"{', '.join(ROLES)}; all of them without one")
    parts = made.add_mutually_exclusive_group()
    parts.add_argument("--validation", dest="part", action="store_const", const="_validation", default="",
                       help="those that training is measured on, instead of those trained on")  # fmt: skip
    parts.add_argument("--test", dest="part", action="store_const", const="_test",
                       help="those that evaluate measures on")  # fmt: skip
    made.add_argument("-n", type=int, default=2, help="how many of each role (2)")
    made.add_argument("--start", type=int, default=1, help="the first one's number in the file (1)")
    made.add_argument("--seed", type=int, help="take them at random, by this seed")
    made.add_argument("--tokens", action="store_true", help=f"put a {BORDER} between tokens")
    made.add_argument("--limit", type=int, default=400, help="tokens of a prompt or a completion (400)")
    made.add_argument("--folder", type=Path, default=FOLDER, help="prepare's output (data/prepare)")
    return made


def show(arguments: argparse.Namespace, console: Console) -> None:
    """Print them. Raises UserError where prepare has not run, or there is no such role."""
    roles = arguments.roles or ROLES
    for role in roles:
        if role not in ROLES:
            raise UserError(f"there is no role '{role}'{nearest(role, ROLES)}")
    if arguments.n < 1 or arguments.start < 1 or arguments.limit < 2:
        raise UserError("-n and --start must be 1 or more, and --limit 2 or more")
    files = {role: arguments.folder / f"{role}{arguments.part}.jsonl" for role in roles}
    for path in (arguments.folder / "model.json", *files.values()):
        if not path.exists():
            raise UserError(f"there is no {path}: `dvc repro prepare` (or `make repro`) writes it")
    console.print(legend(console))
    cutter = Cutter(load_model_tokenizer(arguments.folder), arguments.limit, arguments.tokens)
    for role, path in files.items():
        examples = read_examples(path)
        for index in chosen(len(examples), arguments):
            console.rule(
                f"{role}, {'held-out ' if arguments.part else ''}example {index + 1} of {len(examples)}"
            )
            show_example(examples[index], cutter, console)


def chosen(count: int, arguments: argparse.Namespace) -> list[int]:
    """Which of `count` examples. Raises UserError where `start` is behind the last."""
    if arguments.seed is not None:
        return random.Random(arguments.seed).sample(range(count), min(arguments.n, count))
    if arguments.start > count:
        raise UserError(f"--start {arguments.start}: there are {count} examples")
    return list(range(count))[arguments.start - 1 :][: arguments.n]


def show_example(example: Example, cutter: Cutter, console: Console) -> None:
    """The prompt, the completions, and the columns beside them."""
    plain = without_colours(console)
    for title, node in titled(example):
        console.print(Text(title, "bold"), soft_wrap=True)
        console.print(painted(node, cutter, plain), soft_wrap=True)
    if example.columns:
        console.print(Text(visible(columns_of(example)), "cyan"), soft_wrap=True)


def legend(console: Console) -> Text:
    """How to read what follows."""
    if without_colours(console):
        return Text("Targets stand in [[ ]], special tokens in ‹ ›; ↵ is a line end.")
    kinds = {"targets": (True, False), "context": (False, False), "special tokens": (False, True)}
    names = [Text(name, style(Piece(name, *kind))) for name, kind in kinds.items()]
    return Text(", ").join(names).append("; ↵ is a line end")


def without_colours(console: Console) -> bool:
    """In a pipe or a file, and where NO_COLOR is set."""
    return console.color_system is None or console.no_color


def painted(node: Node, cutter: Cutter, plain: bool) -> Text:
    """A node in colours, or with marks."""
    border = Text.assemble((BORDER, "dim cyan") if cutter.borders else "")
    runs = []
    for is_target, pieces in groupby(cutter.pieces(node), key=lambda piece: piece.target):
        run = border.join([_painted(piece, plain) for piece in pieces])
        runs.append(Text.assemble("[[", run, "]]") if plain and is_target else run)
    return border.join(runs)


def _painted(piece: Piece, plain: bool) -> Text:
    shown = visible(piece.text)
    if piece.omitted:
        return Text(f"\n{shown}\n", "italic yellow")
    return Text(f"‹{shown}›" if plain and piece.special else shown, style(piece))


def style(piece: Piece) -> str:
    """rich's name of the colours of a piece."""
    if piece.special:
        return "bold black on green" if piece.target else "magenta"
    return "black on green" if piece.target else "dim"


def load_model_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of the model that prepare found. Its weights are not looked at."""
    model = json.loads((folder / "model.json").read_text())
    path = folder / model["path"] if model["embedded"] else check_location(model["path"])
    try:
        return load_tokenizer(path, model["revision"], model["trust_remote_code"])
    except (OSError, ValueError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"model.path: the tokenizer of {path} cannot be loaded: {first_line}") from error


def main() -> int:
    """0, or 2 with the reason."""
    arguments = parser().parse_args()
    try:
        show(arguments, Console(highlight=False))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader has seen enough
        sys.stderr.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())

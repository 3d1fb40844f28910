"""A YAML file as text: what its readers would choke on without a word that helps, or never come to the end of."""

from __future__ import annotations

from pathlib import Path

import yaml

from stages.config.errors import UserError

MOST_VALUES = 10_000  # of a file with all its aliases written out; ours have some hundreds
DEEPEST = 32  # nested mappings and lists: readers call themselves for each, and end at some hundreds
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check_yaml(path: Path, name: str) -> None:
    """Raise UserError where `path`, called `name`, is not UTF-8, not YAML, not a mapping, or grows without bound."""
    try:
        text = path.read_bytes().decode()
        events = list(yaml.parse(text, LOADER))
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{name}, line {line}: this is not UTF-8; save the file in that encoding") from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).replace(' in "<unicode string>",', " in").split())
        raise UserError(f"{name} cannot be read: {reason}") from error
    top = events[2] if len(events) > 2 else None  # behind the starts of stream and document
    if isinstance(top, yaml.SequenceStartEvent) or (isinstance(top, yaml.ScalarEvent) and top.value):
        raise UserError(f"{name} must hold sections of keys and values")
    _check_size(events, name)


def _check_size(events: list[yaml.Event], name: str) -> None:
    """By the parser's events, which do not nest: how deep the file is, and how large with its aliases written out."""
    anchors: dict[str, int] = {}
    opened: list[tuple[str | None, int]] = []  # anchor, and how many values stood before
    values = 0
    for event in events:
        place = f"{name}, line {event.start_mark.line + 1}"
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, values))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            if anchor:
                anchors[anchor] = values - before
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in (anchor for anchor, _ in opened):
                raise UserError(f"{place}: *{event.anchor} stands for what it is a part of")
            values += anchors.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            values += 1
        if len(opened) > DEEPEST:
            raise UserError(f"{place}: nested more than {DEEPEST} deep")
        if values > MOST_VALUES:
            raise UserError(f"{place}: more than {MOST_VALUES} values, with all aliases written out")

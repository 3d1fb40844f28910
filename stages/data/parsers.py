"""One function per format: its canonical columns to a record. All raise BadRow."""

from __future__ import annotations

import math
import os
from typing import Any

from stages.data.messages import as_turn, to_text
from stages.data.records import BadRow, Message, Record, Text

Fields = dict[str, Any]


def language_modelling(fields: Fields) -> Record:
    text = to_text(fields["text"], "text")
    return _from_messages(text) if isinstance(text, list) else Record("", [text], raw=True)


def messages(fields: Fields) -> Record:
    turns = to_text(fields["messages"], "messages")
    if isinstance(turns, str):
        raise BadRow("'messages' is text, not a list of messages")
    return _from_messages(turns)


def prompt_only(fields: Fields) -> Record:
    return Record(to_text(fields["prompt"], "prompt"), [])


def prompt_completion(fields: Fields) -> Record:
    return _record(fields, [to_text(fields["completion"], "completion")])


def instruction(fields: Fields) -> Record:
    task, given = fields["instruction"], fields.get("input")
    if not isinstance(task, str) or not task.strip():
        raise BadRow("'instruction' is empty or not text")
    prompt = f"{task}\n\n{given}" if given else task
    return _record({"prompt": prompt}, [to_text(fields["output"], "output")])


def preference(fields: Fields) -> Record:
    chosen, rejected = to_text(fields["chosen"], "chosen"), to_text(fields["rejected"], "rejected")
    if chosen == rejected:
        raise BadRow("chosen is equal to rejected")
    if fields.get("prompt") is not None:
        record = _record(fields, [chosen, rejected])
    elif isinstance(chosen, list) and isinstance(rejected, list):
        record = _shared_turns(chosen, rejected)
    elif isinstance(chosen, str) and isinstance(rejected, str):
        record = _shared_text(chosen, rejected)
    else:
        raise BadRow("one of chosen and rejected is text and the other messages")
    return Record(record.prompt, record.completions, [1.0, 0.0], record.raw)


def ranking(fields: Fields) -> Record:
    responses = fields["responses"]
    if not isinstance(responses, list) or not responses:
        raise BadRow("'responses' is not a list of responses")
    count = len(responses)
    # Without scores the order is the ranking, best first.
    scores = fields["scores"] if "scores" in fields else [count - 1 - place for place in range(count)]
    if not isinstance(scores, list) or len(scores) != count:
        raise BadRow("'scores' does not hold one number per response")
    record = _record(fields, [to_text(response, "responses") for response in responses])
    return Record(record.prompt, record.completions, [_number(score, "scores") for score in scores])


def unpaired(fields: Fields) -> Record:
    label = _number(fields["label"], "label")
    if label not in (0.0, 1.0):
        raise BadRow("'label' is neither true nor false")
    record = _record(fields, [to_text(fields["completion"], "completion")])
    return Record(record.prompt, record.completions, [label])


def _record(fields: Fields, completions: list[Text]) -> Record:
    """An explicit prompt and its completions, brought to one style."""
    prompt = to_text(fields["prompt"], "prompt")
    if isinstance(prompt, str) and all(isinstance(completion, str) for completion in completions):
        return Record(prompt, completions)
    turns = as_turn(prompt, "user")
    answers: list[Text] = [
        _without_prompt(as_turn(completion, "assistant"), turns) for completion in completions
    ]
    return Record(turns, answers)


def _without_prompt(answer: list[Message], prompt: list[Message]) -> list[Message]:
    """Some sets give the prompt and repeat it at the start of each answer."""
    rest = answer[len(prompt) :] if answer[: len(prompt)] == prompt else answer
    if not rest:
        raise BadRow("a completion says no more than its prompt")
    return rest


def _from_messages(turns: list[Message]) -> Record:
    """A dialogue: the prompt ends before the first assistant turn."""
    first = next((index for index, turn in enumerate(turns) if turn["role"] == "assistant"), None)
    return Record(turns, []) if first is None else Record(turns[:first], [turns[first:]])


def _shared_turns(chosen: list[Message], rejected: list[Message]) -> Record:
    """The implicit prompt: the turns that both dialogues share, up to an assistant turn that both have next.

    Where dialogues part at a user turn, the assistant turn before it is the first of both completions.
    """
    if not chosen[-1]["role"] == rejected[-1]["role"] == "assistant":
        raise BadRow("chosen or rejected ends without an answer")
    limit = min(len(chosen), len(rejected)) - 1
    shared = 0
    while shared < limit and chosen[shared] == rejected[shared]:
        shared += 1
    while shared > 0 and not chosen[shared]["role"] == rejected[shared]["role"] == "assistant":
        shared -= 1
    if shared == 0:
        raise BadRow("chosen and rejected share no prompt")
    return Record(chosen[:shared], [chosen[shared:], rejected[shared:]])


def _shared_text(chosen: str, rejected: str) -> Record:
    """The implicit prompt of plain text: what both begin with, up to the last break between words."""
    shared = os.path.commonprefix([chosen, rejected])  # noqa: RUF071 - of characters is what is meant
    end = max((index for index, character in enumerate(shared) if character.isspace()), default=0)
    if not shared[:end].strip():
        raise BadRow("chosen and rejected share no prompt")
    return Record(chosen[:end], [chosen[end:], rejected[end:]], raw=True)


def _number(value: Any, name: str) -> float:
    if isinstance(value, str):
        value = {"true": 1.0, "false": 0.0}.get(value.strip().lower(), value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise BadRow(f"'{name}' is not a number")
    return number

"""What each role takes from a record, whatever format it came in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

from stages.data.messages import as_turn
from stages.data.records import BadRow, LeftOut, Message, Record

ROLES = ("sft", "preference", "prompt")


def as_sft(record: Record) -> Record:
    """One completion to imitate: the demonstration, the chosen one, the best ranked, the one labelled true.

    Raises LeftOut where no completion is good, BadRow where there is none at all.
    """
    if not record.completions:
        raise BadRow("no completion to train on", "sft needs completions and this row is a prompt only")
    if record.scores is None:
        return record
    best = max(range(len(record.scores)), key=record.scores.__getitem__)
    # Scores of 0 and 1 are verdicts: where the best is a 0, no completion is right.
    if set(record.scores) == {0.0}:
        raise LeftOut("no completion is marked good")
    return replace(record, completions=[record.completions[best]], scores=None)


def as_preference(record: Record) -> Record:
    """Completions with scores; or a prompt, with or without a demonstration, to which samples are still to be added.

    Of a dialogue the last answer is the demonstration, for samples are single answers.

    Raises LeftOut where all are equally good, BadRow on text without a prompt.
    """
    if not record.prompt and record.scores is None:
        detail = (
            "preference needs a prompt with chosen and rejected, ranked or labelled completions, or none yet"
        )
        raise BadRow("no prompt", detail)
    if isinstance(record.prompt, list) and record.scores is None and record.completions:
        return _last_answer(record, as_turn(record.completions[0], "assistant"))
    # A lone label says something only beside others of its prompt, which group_unpaired puts together.
    if record.scores is None or len(record.completions) == 1:
        return record
    return _compared(record, "all responses are ranked equal")


def as_prompt(record: Record) -> Record:
    """The prompt alone; a dialogue up to its last answer. What became completions stays as columns.

    Raises BadRow where the row is text without a prompt.
    """
    prompt = record.prompt
    if not prompt:
        raise BadRow("no prompt", "the prompt role needs prompts and this row is text only")
    if isinstance(prompt, list) and record.scores is None and record.completions:
        turns = [*prompt, *as_turn(record.completions[0], "assistant")]
        prompt = turns[:-1] if turns[-1]["role"] == "assistant" else turns
    columns = {**record.used, **record.columns}
    return replace(record, prompt=prompt, completions=[], scores=None, columns=columns, used={})


def _last_answer(record: Record, completion: list[Message]) -> Record:
    answers = [index for index, turn in enumerate(completion) if turn["role"] == "assistant"]
    if not answers or not isinstance(record.prompt, list):
        return record
    before, last = completion[: answers[-1]], completion[answers[-1]]
    return replace(record, prompt=[*record.prompt, *before], completions=[[last]])


def group_unpaired(records: list[Record]) -> list[Record]:
    """Labelled completions of one prompt together, so that labels of both kinds make pairs too."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for index, record in enumerate(records):
        labelled = record.scores is not None and len(record.completions) == 1
        groups[key_of(record) if labelled else f"row {index}"].append(record)
    return [_joined(group) for group in groups.values()]


def key_of(record: Record) -> str:
    """What records of one prompt share: it, and the tools that it is answered with."""
    return f"{record.prompt}{record.tools or ''}"


def check_labels(record: Record) -> Record:
    """A record of `group_unpaired`, each response once. Raises LeftOut where one response is called good and bad.

    Labels of one kind stay: no pair can be made of them, but KTO learns from them.
    """
    if record.scores is None:
        return record
    if len(set(record.scores)) > 1:
        return _compared(record, "one response with labels of both kinds")
    return _each_once(record)


def _compared(record: Record, tie: str) -> Record:
    """Each response once. Raises LeftOut for `tie` where all score alike."""
    once = _each_once(record)
    if len(set(once.scores or [])) < 2:
        raise LeftOut(tie)
    return once


def _each_once(record: Record) -> Record:
    """Of responses that are equal, the first, with its score."""
    first = {str(text): index for index, text in reversed(list(enumerate(record.completions)))}
    kept = sorted(first.values())
    scores = [(record.scores or [])[index] for index in kept]
    return replace(record, completions=[record.completions[index] for index in kept], scores=scores)


def _joined(group: list[Record]) -> Record:
    completions = [record.completions[0] for record in group if record.completions]
    if len(group) == 1:
        return group[0]
    scores = [score for record in group for score in record.scores or []]
    return replace(group[0], completions=completions, scores=scores)


TAKE: dict[str, Callable[[Record], Record]] = {
    "sft": as_sft,
    "preference": as_preference,
    "prompt": as_prompt,
}

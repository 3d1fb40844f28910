"""What each role takes from the same record."""

from __future__ import annotations

import pytest

from stages.data.records import BadRow, LeftOut, Message, Record
from stages.data.roles import as_preference, as_prompt, as_sft, check_labels, group_unpaired

PAIR = Record(
    "p", ["good", "bad"], [1.0, 0.0], columns={"source": "web"}, used={"chosen": "good", "rejected": "bad"}
)
RANKING = Record("p", ["a", "b", "c"], [0.2, 0.9, 0.5])
DEMONSTRATION = Record("p", ["c"])
PROMPT = Record("p", [])
USER, ANSWER = Message(role="user", content="hi"), Message(role="assistant", content="yo")


def test_sft_takes_the_good_completion() -> None:
    assert as_sft(DEMONSTRATION).completions == ["c"]
    assert as_sft(PAIR).completions == ["good"] and as_sft(PAIR).scores is None
    assert as_sft(RANKING).completions == ["b"]
    assert as_sft(Record("p", ["c"], [1.0])).completions == ["c"]


def test_sft_leaves_out_what_is_marked_wrong() -> None:
    for scores in ([0.0], [0.0, 0.0]):
        with pytest.raises(LeftOut, match="no completion is marked good"):
            as_sft(Record("p", ["c"] * len(scores), scores))
    with pytest.raises(BadRow, match="sft needs completions"):
        as_sft(PROMPT)


def test_preference_takes_comparisons_labels_and_prompts() -> None:
    for record in (PAIR, RANKING, PROMPT, DEMONSTRATION, Record("p", ["c"], [0.0])):
        assert as_preference(record) == record
    with pytest.raises(BadRow, match="chosen and rejected"):
        as_preference(Record("", ["text"], raw=True))


def test_of_a_dialogue_the_last_answer_is_ranked_among_samples() -> None:
    more = Message(role="user", content="more")
    record = as_preference(Record([USER], [[ANSWER, more, ANSWER, more]]))
    assert (record.prompt, record.completions) == ([USER, ANSWER, more], [[ANSWER]])


def test_equal_responses_count_once_and_ties_say_nothing() -> None:
    assert as_preference(Record("p", ["a", "b", "a"], [1.0, 0.0, 1.0])).completions == ["a", "b"]
    with pytest.raises(LeftOut, match="ranked equal"):
        as_preference(Record("p", ["a", "b"], [1.0, 1.0]))


def test_prompts_keep_what_was_a_completion_as_columns() -> None:
    record = as_prompt(PAIR)
    assert (record.prompt, record.completions, record.scores) == ("p", [], None)
    assert record.columns == {"chosen": "good", "rejected": "bad", "source": "web"}


def test_the_prompt_of_a_dialogue_goes_up_to_its_last_answer() -> None:
    more = Message(role="user", content="more")
    assert as_prompt(Record([USER], [[ANSWER, more, ANSWER]])).prompt == [USER, ANSWER, more]
    assert as_prompt(Record([USER], [[ANSWER, more]])).prompt == [USER, ANSWER, more]
    assert as_prompt(Record([USER], [])).prompt == [USER]
    with pytest.raises(BadRow, match="no prompt|text only"):
        as_prompt(Record("", ["text"], raw=True))


def test_labels_of_one_prompt_are_put_together() -> None:
    records = [Record("p", ["a"], [1.0]), Record("q", ["b"], [0.0]), Record("p", ["c"], [0.0]), PROMPT, PAIR]
    grouped = group_unpaired(records)
    assert [(record.prompt, record.completions, record.scores) for record in grouped] == [
        ("p", ["a", "c"], [1.0, 0.0]),
        ("q", ["b"], [0.0]),
        ("p", [], None),
        ("p", ["good", "bad"], [1.0, 0.0]),
    ]


def test_each_labelled_response_stays_once() -> None:
    for record in (PAIR, RANKING, PROMPT, DEMONSTRATION):
        assert check_labels(record) == record
    for scores in ([1.0], [0.0], [1.0, 1.0], [0.0, 0.0, 0.0]):
        record = Record("p", ["a", "b", "c"][: len(scores)], scores)
        assert check_labels(record) == record
    once = check_labels(Record("p", ["a", "b", "a"], [1.0, 1.0, 1.0]))
    assert (once.completions, once.scores) == (["a", "b"], [1.0, 1.0])
    assert check_labels(Record("p", ["a", "b", "b"], [1.0, 0.0, 0.0])).completions == ["a", "b"]
    # One response that is called both cannot differ from itself.
    with pytest.raises(LeftOut, match="labels of both kinds"):
        check_labels(Record("p", ["a", "a"], [1.0, 0.0]))

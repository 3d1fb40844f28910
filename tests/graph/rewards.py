"""A user's own reward and verifier, named in the tests' params.yaml as module:function."""

from __future__ import annotations


def odd_share(completions: list[str], **_: list) -> list[float]:
    """The share of characters with an odd number: samples of an untrained model differ in it."""
    return [sum(ord(letter) % 2 for letter in text) / max(len(text), 1) for text in completions]


def even(completions: list[str], **_: list) -> list[float]:
    """1 where the sum of the characters is even."""
    return [float(sum(map(ord, text)) % 2 == 0) for text in completions]

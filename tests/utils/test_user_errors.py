"""Messages for people: ranges of settings, and what a misspelt word may have meant."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dydiff.utils.errors import UserError, above_zero, at_least, below_one, did_you_mean, first_line

NUMBERS = st.integers(-5, 5) | st.floats(-3, 3)


def message(check, *args, **settings):
    """What a check says; empty where it agrees."""
    try:
        check(*args, **settings)
    except UserError as error:
        return str(error)
    return ""


@given(NUMBERS, st.integers(-2, 2))
def test_ranges_are_those_that_are_named(value, lowest):
    assert bool(message(at_least, lowest, lr=value)) == (value < lowest)
    assert bool(message(above_zero, lr=value)) == (value <= 0)
    assert bool(message(below_one, lr=value)) == (not 0 <= value < 1)


def test_the_wrong_one_of_several_settings_is_named():
    assert message(at_least, 1, a=1, b=0, c=None) == "b must be at least 1, not 0."
    assert message(at_least, 0, a=0, b=-2) == "b must not be negative, not -2."
    assert message(above_zero, a=0.1, b=None, c=0.0) == "c must be above 0, not 0.0."
    assert message(below_one, a=0.0, b=1.0) == "b must lie in [0, 1), not 1.0."


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n  one  \ntwo"), "one  "),
        (ValueError(), "ValueError"),
        (KeyError("\n"), "'\\n'"),
        (ZeroDivisionError("  "), "ZeroDivisionError"),
    ],
)
def test_the_first_line_of_an_error(error, line):
    assert first_line(error) == line


WORDS = [f"{first}{second}" for first in ("learning", "batch", "hidden") for second in ("_rate", "_size", "_units")]


@given(st.sampled_from(WORDS), st.integers(0, 20), st.sampled_from("xyz"))
def test_a_word_with_one_wrong_letter_is_recognised(word, position, letter):
    position %= len(word)
    suggestion = did_you_mean(word[:position] + letter + word[position + 1 :], WORDS)
    assert suggestion.startswith(" Did you mean ") and suggestion.endswith("?")
    near = re.split(", ", suggestion.removeprefix(" Did you mean ").removesuffix("?"))
    assert near[0] == word and len(near) <= 3


def test_a_word_that_is_near_to_none_lists_them_if_they_are_few():
    assert did_you_mean("qqq", iter(["b", "a"])) == " Known: a, b."
    assert did_you_mean("qqq", map(str, range(20))).startswith(" Known: 0, 1, 10, ")
    assert did_you_mean("qqq", map(str, range(21))) == did_you_mean("qqq", []) == ""
    assert did_you_mean("aaa", ["aaa1", "aaa2"], count=1).count("aaa") == 1

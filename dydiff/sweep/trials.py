"""The grid of a sweep: every combination of its axes is a trial, which is one command."""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dydiff.utils.errors import UserError, did_you_mean

Axes = Mapping[str, Sequence[Any] | Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
        name: The labels of its choices, joined.
        args: Its options, as on the command line.
    """

    name: str
    args: tuple[str, ...]


def expand(axes: Axes, options: Mapping[str, Any], extra: Sequence[str] = ()) -> list[Trial]:
    """All trials of a grid, the last axis fastest.

    Args:
        axes: For each axis its values, or labels with the options that each of them stands for.
        options: Options of every trial, in order; ``{axis}`` in a text is replaced by the axis's value or label.
        extra: Further arguments of every trial, as they are.

    Raises:
        UserError: An axis without values, a text with an unknown axis, or two trials of one name.
    """
    for axis, values in axes.items():
        if not values:
            raise UserError(f"The axis '{axis}' has no values.")
    trials = []
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        given = dict(options)
        for axis, value in chosen.items():
            choices = axes[axis]
            if isinstance(choices, Mapping):
                given |= choices[value]
        args = [argument for key, value in given.items() for argument in _arguments(key, value, chosen)]
        trials.append(Trial(_name(chosen), (*args, *extra)))
    names = [trial.name for trial in trials]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"Two trials of the sweep would be called {twice[0]}.")
    return trials


def _arguments(key: str, value: Any, chosen: Mapping[str, Any]) -> list[str]:
    if isinstance(value, list) and key == "config":
        return [argument for each in value for argument in _arguments(key, each, chosen)]
    if not isinstance(value, str):
        return [f"--{key}", json.dumps(value)]
    try:
        return [f"--{key}", value.format_map({axis: _text(choice) for axis, choice in chosen.items()})]
    except KeyError as error:
        unknown = str(error.args[0])
        raise UserError(f"'{key}: {value}' names no axis of the sweep.{did_you_mean(unknown, chosen)}") from None
    except (ValueError, IndexError):
        raise UserError(f"'{key}: {value}' is no text with an axis in braces.") from None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _name(chosen: Mapping[str, Any]) -> str:
    return "-".join(re.sub(r"[^\w.+=]+", "_", _text(value)).strip("_") for value in chosen.values()) or "run"

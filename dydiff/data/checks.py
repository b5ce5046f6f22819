"""Checks of what sources, synthesizers and termination rules return, before anything else relies on it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dydiff.data.episodes import Episodes, Trajectories, Transitions
from dydiff.data.tasks import Task
from dydiff.data.termination import ended, unknown
from dydiff.utils.errors import UserError

ACT_LIMIT = 1 + 1e-4  # tanh and float32 may overshoot 1 by an ulp

RULE_TOLERANCE = 0.05
"""Largest share of episode ends in which a termination rule and the data may differ.

They differ where float32 rounds a state across a bound, where an observation hides what the environment judges
(Hopper's clipped velocities), and where a termination at the time limit is recorded as a timeout; all are rare. A
wrong rule differs in most ends."""

_RULE_CHUNK = 100_000  # transitions; the rule's intermediate results stay small
_DTYPES = {"terminal": torch.bool, "timeout": torch.bool, "valid": torch.bool, "lengths": torch.int64}


def episodes_flaw(episodes: Episodes, task: Task) -> str | None:
    """Describe the first error in a dataset of a task; ``None`` if it is valid."""
    data, lengths = episodes.transitions, episodes.lengths
    given = {**data._asdict(), "timeout": episodes.timeout, "lengths": lengths}
    count, num_episodes = _rows(data.reward), _rows(lengths)
    widths = {"obs": (task.obs_dim,), "act": (task.act_dim,), "next_obs": (task.obs_dim,)}
    shapes = {name: (num_episodes if name == "lengths" else count, *widths.get(name, ())) for name in given}
    if flaw := _kind_flaw(given, shapes):
        return flaw
    if count == 0:
        return "it contains no transitions"
    if int(lengths.min()) < 1 or int(lengths.sum()) != count:
        return f"its lengths must be at least 1 and add up to {count:,} transitions, not to {int(lengths.sum()):,}"
    for name in ("obs", "act", "reward", "next_obs"):
        if not torch.stack(torch.aminmax(given[name])).isfinite().all():
            row = int((~given[name].reshape(count, -1).isfinite().all(1)).nonzero()[0])
            return f"'{name}' has a value that is not finite in row {row}"
    if (largest := float(data.act.abs().max())) > ACT_LIMIT:
        return f"'act' reaches {largest:.3g}, but must be in [-1, 1]"
    inside = data.terminal | episodes.timeout
    inside[lengths.cumsum(0) - 1] = False
    return f"an episode continues after its end in row {int(inside.nonzero()[0])}" if inside.any() else None


def trajectories_flaw(made: Trajectories, count: int, obs_dim: int, act_dim: int) -> str | None:
    """Describe the first error in ``count`` synthetic trajectories; ``None`` if they are valid.

    Numbers that are not finite are no error here: a model may diverge, and such trajectories are dropped later.
    """
    steps = made.reward.shape[1] if isinstance(made.reward, Tensor) and made.reward.ndim == 2 else 1
    shapes = {"obs": (steps + 1, obs_dim), "act": (steps, act_dim), "next_obs": (steps, obs_dim)}
    flaw = _kind_flaw(made._asdict(), {name: (count, *shapes.get(name, (steps,))) for name in made._fields})
    if flaw is not None:
        return flaw
    largest = float(made.act.where(made.valid[..., None] & made.act.isfinite(), 0).abs().max())
    return f"'act' reaches {largest:.3g}, but must be in [-1, 1]" if largest > ACT_LIMIT else None


def check_rule(task: Task, data: Transitions) -> None:
    """Compare a task's termination rule with the terminals recorded in a dataset ``[N]``.

    Recorded timeouts are no terminals. Up to ``RULE_TOLERANCE`` of the ends may differ.

    Raises:
        UserError: The rule fails, does not return one bool for each transition, or contradicts the data.
    """
    by_rule_only = by_data_only = both = 0
    for begin in range(0, len(data.reward), _RULE_CHUNK):
        obs, act, _, next_obs, terminal = data.at(slice(begin, begin + _RULE_CHUNK))
        by_rule = ended(task.terminated, obs, act, next_obs)
        both += int((by_rule & terminal).sum())
        by_rule_only += int((by_rule & ~terminal).sum())
        by_data_only += int((terminal & ~by_rule).sum())
    contradictions = by_rule_only + by_data_only
    if task.ignore_terminals or contradictions <= RULE_TOLERANCE * (contradictions + both):
        return
    advice = (
        "Name a rule with '--data.source.terminated my_package.my_rule', or, so that synthetic trajectories never end, "
        "'--data.source.terminated dydiff.data.never'."
    )
    if task.terminated is unknown:
        raise UserError(
            f"The data have {by_data_only:,} terminals, but no termination rule is known for {task.env_id}. {advice}"
        )
    raise UserError(
        f"The termination rule of {task.env_id} contradicts the data: of {len(data.reward):,} transitions the rule "
        f"ends {by_rule_only + both:,}, the data end {by_data_only + both:,}, and both end {both:,}. The likely cause: "
        f"the data were recorded with other options of the environment, or the rule is wrong. {advice}"
    )


def as_flags(values: np.ndarray, name: str) -> np.ndarray:
    """Flags of a file as bool, of the same shape.

    Args:
        values: Numbers or bools.
        name: What the flags are, for the error message.

    Raises:
        UserError: A value is neither 0 nor 1.
    """
    if values.dtype != bool and (wrong := (values != 0) & (values != 1)).any():
        row = int(np.argwhere(wrong)[0][0]) if values.ndim else 0
        raise UserError(f"{name} must be 0 or 1, but has {values[wrong].flat[0]} in row {row}.")
    return values.astype(bool, copy=False)


def _rows(value: Any) -> int:
    return len(value) if isinstance(value, Tensor) and value.ndim else 0


def _kind_flaw(given: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Describe the first tensor with a wrong type or shape; ``None`` if all are correct."""
    for name, shape in shapes.items():
        value, dtype = given[name], _DTYPES.get(name, torch.float32)
        if not isinstance(value, Tensor) or value.dtype != dtype:
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            return f"'{name}' must be a tensor of {dtype}, not {kind}"
        if tuple(value.shape) != shape:
            return f"'{name}' has shape {tuple(value.shape)}, not {shape}"
    return None

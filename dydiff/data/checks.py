"""Whether what sources, synthesizers and termination rules of anyone's give is what everything else relies on."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dydiff.data.episodes import Episodes, Trajectories
from dydiff.data.tasks import Task
from dydiff.utils.errors import UserError, first_line

ACT_LIMIT = 1 + 1e-4  # tanh and float32 may overshoot 1 by an ulp
_DTYPES = {"terminal": torch.bool, "timeout": torch.bool, "valid": torch.bool, "lengths": torch.int64}


def episodes_flaw(episodes: Episodes, task: Task) -> str | None:
    """What is wrong with a dataset of a task, in words; ``None`` where nothing is."""
    data, lengths = episodes.transitions, episodes.lengths
    given = {**data._asdict(), "timeout": episodes.timeout, "lengths": lengths}
    count, num_episodes = _rows(data.reward), _rows(lengths)
    widths = {"obs": (task.obs_dim,), "act": (task.act_dim,), "next_obs": (task.obs_dim,)}
    shapes = {name: (num_episodes if name == "lengths" else count, *widths.get(name, ())) for name in given}
    if flaw := _kind_flaw(given, shapes):
        return flaw
    if count == 0:
        return "it holds no transitions"
    if int(lengths.min()) < 1 or int(lengths.sum()) != count:
        return f"its lengths must be at least 1 and add up to {count:,} transitions, not to {int(lengths.sum()):,}"
    for name in ("obs", "act", "reward", "next_obs"):
        if not torch.stack(torch.aminmax(given[name])).isfinite().all():
            row = int((~given[name].reshape(count, -1).isfinite().all(1)).nonzero()[0])
            return f"'{name}' has a value that is not finite in row {row}"
    if (largest := float(data.act.abs().max())) > ACT_LIMIT:
        return f"'act' reaches {largest:.3g}, but must lie in [-1, 1]"
    inside = data.terminal | episodes.timeout
    inside[lengths.cumsum(0) - 1] = False
    return f"an episode goes on after its end in row {int(inside.nonzero()[0])}" if inside.any() else None


def trajectories_flaw(made: Trajectories, count: int, obs_dim: int, act_dim: int) -> str | None:
    """What is wrong with ``count`` trajectories that a synthesizer has made, in words; ``None`` where nothing is.

    Numbers that are not finite are not looked for: a model may blow up, and such trajectories are dropped.
    """
    steps = made.reward.shape[1] if isinstance(made.reward, Tensor) and made.reward.ndim == 2 else 1
    shapes = {"obs": (steps + 1, obs_dim), "act": (steps, act_dim), "next_obs": (steps, obs_dim)}
    flaw = _kind_flaw(made._asdict(), {name: (count, *shapes.get(name, (steps,))) for name in made._fields})
    if flaw is not None:
        return flaw
    largest = float(made.act.where(made.valid[..., None] & made.act.isfinite(), 0).abs().max())
    return f"'act' reaches {largest:.3g}, but must lie in [-1, 1]" if largest > ACT_LIMIT else None


def check_rule(task: Task, obs: Tensor, act: Tensor, next_obs: Tensor) -> None:
    """Try a task's termination rule on some transitions ``[N]``.

    Raises:
        UserError: It fails, or gives something else than one bool for each.
    """
    try:
        ended = task.terminated(obs, act, next_obs)
    except Exception as error:  # it may be anyone's
        raise UserError(f"The termination rule fails: {type(error).__name__}: {first_line(error)}.") from error
    if flaw := _kind_flaw({"terminal": ended}, {"terminal": (len(obs),)}):
        raise UserError(f"The termination rule must give a bool tensor [N] for N transitions: {flaw}.")


def _rows(value: Any) -> int:
    return len(value) if isinstance(value, Tensor) and value.ndim else 0


def _kind_flaw(given: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The first of some tensors that has not the type and the shape that it must have, in words."""
    for name, shape in shapes.items():
        value, dtype = given[name], _DTYPES.get(name, torch.float32)
        if not isinstance(value, Tensor) or value.dtype != dtype:
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            return f"'{name}' must be a tensor of {dtype}, not {kind}"
        if tuple(value.shape) != shape:
            return f"'{name}' has shape {tuple(value.shape)}, not {shape}"
    return None

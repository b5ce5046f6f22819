"""When episodes end: the rules of Gymnasium's MuJoCo environments, and how a rule is called."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dydiff.utils.errors import UserError, first_line

TerminationRule = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``terminated(obs [N, O], act [N, A], next_obs [N, O]) -> bool [N]``, on raw states. Call it with :func:`ended`."""


def never(obs: Tensor, act: Tensor, next_obs: Tensor) -> Tensor:
    """No state ends an episode; only a time limit does."""
    return torch.zeros(next_obs.shape[:-1], dtype=torch.bool, device=next_obs.device)


def unknown(obs: Tensor, act: Tensor, next_obs: Tensor) -> Tensor:
    """The environment's rule is not known: no state ends an episode."""
    return never(obs, act, next_obs)


@dataclass(frozen=True)
class OutOfRange:
    """An episode ends when a number of the next state is out of its range; NaN is out of every range.

    Args:
        ranges: Of each range the first column, the column after the last (``None``: to the end), the lowest and the
            highest value.
        closed: Whether the lowest and the highest value belong to the range.
        finite: Whether a number that is not finite also ends the episode.
    """

    ranges: tuple[tuple[int, int | None, float, float], ...]
    closed: bool = False
    finite: bool = False

    def __call__(self, obs: Tensor, act: Tensor, next_obs: Tensor) -> Tensor:
        inside = next_obs.isfinite().all(-1) if self.finite else ~never(obs, act, next_obs)
        for first, stop, low, high in self.ranges:
            values = next_obs[..., first:stop]
            within = (values >= low) & (values <= high) if self.closed else (values > low) & (values < high)
            inside &= within.all(-1)
        return ~inside


def double_pendulum_fell(obs: Tensor, act: Tensor, next_obs: Tensor) -> Tensor:
    """InvertedDoublePendulum: the tip of two poles of 0.6 m is at a height of at most 1 m.

    A state has the sines and cosines of both joints. The environment reads the height in the middle of MuJoCo's last
    step, so rule and environment may differ by one step when the tip passes 1 m.
    """
    sine, second_sine, cosine, second_cosine = next_obs[..., 1:5].unbind(-1)
    return 0.6 * (cosine + cosine * second_cosine - sine * second_sine) <= 1.0


HOPPER_RULE = OutOfRange(((0, 1, 0.7, float("inf")), (1, 2, -0.2, 0.2), (1, None, -100.0, 100.0)))
WALKER2D_RULE = OutOfRange(((0, 1, 0.8, 2.0), (1, 2, -1.0, 1.0)))

_ENDLESS = ("half_cheetah", "swimmer", "reacher", "pusher", "humanoidstandup")


def rule_of(simulator: Any) -> TerminationRule | None:
    """The rule of an unwrapped environment with its current options; ``None`` if it is unknown.

    Known are Gymnasium's own MuJoCo environments, v4 and v5. States must be the observations of the environment itself.
    """
    module = type(simulator).__module__
    if not module.startswith("gymnasium.envs.mujoco."):
        return None
    name = module.rpartition(".")[2].rpartition("_")[0]
    if name in _ENDLESS or not getattr(simulator, "_terminate_when_unhealthy", True):
        return never
    if name == "inverted_pendulum":
        return OutOfRange(((1, 2, -0.2, 0.2),), closed=True, finite=True)
    if name == "inverted_double_pendulum":
        usual = str(simulator.fullpath).endswith("assets/inverted_double_pendulum.xml")
        return double_pendulum_fell if usual else None
    if name not in ("ant", "humanoid", "hopper", "walker2d"):
        return None
    height = 0 if simulator._exclude_current_positions_from_observation else (2 if name in ("ant", "humanoid") else 1)
    ranges: list[tuple[int, int | None, float, float]] = [(height, height + 1, *_numbers(simulator._healthy_z_range))]
    if name in ("hopper", "walker2d"):
        ranges.append((height + 1, height + 2, *_numbers(simulator._healthy_angle_range)))
    if name == "hopper":
        ranges.append((height + 1, None, *_numbers(simulator._healthy_state_range)))
    return OutOfRange(tuple(ranges), closed=name == "ant", finite=name == "ant")


def _numbers(bounds: Any) -> tuple[float, float]:
    low, high = bounds
    return float(low), float(high)


def ended(rule: TerminationRule, obs: Tensor, act: Tensor, next_obs: Tensor) -> Tensor:
    """Apply a rule to transitions with any leading dimensions; the rule receives rows ``[N, ...]``.

    Args:
        rule: The rule.
        obs: Raw states ``[..., O]``.
        act: Actions ``[..., A]``.
        next_obs: Raw next states ``[..., O]``.

    Returns:
        Bool ``[...]``.

    Raises:
        UserError: The rule fails, or does not return one bool for each row.
    """
    shape = next_obs.shape[:-1]
    rows = [value.reshape(-1, value.shape[-1]) for value in (obs, act, next_obs)]
    try:
        terminal = rule(*rows)
    except Exception as error:  # a custom rule may raise anything
        raise UserError(f"The termination rule fails: {type(error).__name__}: {first_line(error)}.") from error
    count = len(rows[2])
    if not isinstance(terminal, Tensor):
        wrong = type(terminal).__name__
    elif terminal.dtype != torch.bool or terminal.shape != (count,):
        wrong = f"{terminal.dtype} of shape {tuple(terminal.shape)}"
    else:
        return terminal.reshape(shape)
    raise UserError(f"The termination rule must return a tensor of torch.bool and shape [N] = ({count},), not {wrong}.")

"""Transitions, trajectories, episodes and the windows over them. Tensors are float32 in raw environment units."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import Self

from dydiff.utils.errors import below_one


def at_rows(value: Tensor, index: Tensor | int | slice) -> Tensor:
    """``value[index]`` along the first dimension; integer tensors must not count from the end."""
    if not (isinstance(index, Tensor) and index.dtype == torch.int64):
        return value[index]
    # index_select copies complete rows, several times as fast as indexing on a CPU.
    return value.index_select(0, index.flatten()).reshape(index.shape + value.shape[1:])


class Transitions(NamedTuple):
    """``N`` steps of an environment; leading dimensions are free (``[K, B]`` is a stack of minibatches).

    A time limit is not a terminal: only ``terminal`` means that the value of the next state is zero.
    """

    obs: Tensor
    act: Tensor
    reward: Tensor
    next_obs: Tensor
    terminal: Tensor

    def at(self, index: Tensor | int | slice) -> Self:
        """The transitions at ``index`` along the first dimension."""
        return type(self)(*(at_rows(value, index) for value in self))

    def to(self, device: torch.device | str) -> Self:
        return type(self)(*(value.to(device) for value in self))

    def state_range(self) -> tuple[Tensor, Tensor]:
        """Least and largest value of each state dimension, ``[O]`` each; next states, with the terminal ones, count."""
        low, high = (
            torch.stack([values.aminmax(dim=0)[end] for values in (self.obs, self.next_obs)]) for end in (0, 1)
        )
        return low.amin(0), high.amax(0)

    def columns(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """States, actions, reward, next states, terminal as floats, ``[N, width]`` each."""
        return self.obs, self.act, self.reward[:, None], self.next_obs, self.terminal[:, None].float()

    def table(self) -> Tensor:
        """The columns side by side, ``[N, O + A + 1 + O + 1]``."""
        return torch.cat(self.columns(), dim=1)

    def where(self, mine: Tensor, others: Self) -> Self:
        """These transitions where ``mine`` (bool, of the leading shape), else the others."""
        pairs = zip(self, others, strict=True)
        return type(self)(
            *(torch.where(mine.reshape(mine.shape + (1,) * (a.ndim - mine.ndim)), a, b) for a, b in pairs)
        )


class Batch(NamedTuple):
    """Transitions that an agent learns from, and where they come from; leading dimensions as in :class:`Transitions`.

    Attributes:
        real: bool, the transition is the dataset's, not synthetic.
        next_act: The action that the dataset takes in ``next_obs``; NaN where it takes none, after the last step of an
            episode, and for synthetic transitions.
    """

    obs: Tensor
    act: Tensor
    reward: Tensor
    next_obs: Tensor
    terminal: Tensor
    real: Tensor
    next_act: Tensor

    def at(self, index: Tensor | int | slice) -> Self:
        """The transitions at ``index`` along the first dimension."""
        return type(self)(*(at_rows(value, index) for value in self))


class Trajectories(NamedTuple):
    """``N`` trajectories of ``L`` steps.

    Attributes:
        obs: ``[N, L + 1, O]``, the state after the last action included.
        act: ``[N, L, A]``.
        reward: ``[N, L]``.
        next_obs: ``[N, L, O]``, the state that each step leads to: that of ``obs``, unless a synthesizer knows better.
        terminal: bool ``[N, L]``, the step ends the episode.
        valid: bool ``[N, L]``, the step counts: mostly those before or at the first terminal one.
    """

    obs: Tensor
    act: Tensor
    reward: Tensor
    next_obs: Tensor
    terminal: Tensor
    valid: Tensor

    def at(self, index: Tensor) -> Self:
        """The trajectories at ``index``."""
        return type(self)(*(at_rows(value, index) for value in self))

    @property
    def returns(self) -> Tensor:
        """Undiscounted sum of the valid rewards, ``[N]`` (eq. 11)."""
        return self.reward.where(self.valid, 0.0).sum(1)

    @property
    def lengths(self) -> Tensor:
        """Number of valid steps, ``[N]``."""
        return self.valid.sum(1)

    @property
    def finite(self) -> Tensor:
        """Whether all numbers of all valid steps are finite, bool ``[N]``."""
        states = self.obs[:, :-1].isfinite().all(-1) & self.next_obs.isfinite().all(-1)
        steps = states & self.act.isfinite().all(-1) & self.reward.isfinite()
        return (steps | ~self.valid).all(1)

    def transitions(self) -> Transitions:
        """The valid steps, in order, as ``[sum(lengths)]`` transitions."""
        keep = self.valid
        return Transitions(
            self.obs[:, :-1][keep], self.act[keep], self.reward[keep], self.next_obs[keep], self.terminal[keep]
        )

    @classmethod
    def cut(cls, obs: Tensor, act: Tensor, reward: Tensor, terminal: Tensor, next_obs: Tensor | None = None) -> Self:
        """Trajectories whose steps after the first terminal one are marked invalid."""
        ended_before = terminal.cumsum(1) - terminal.long() > 0
        return cls(obs, act, reward, obs[:, 1:] if next_obs is None else next_obs, terminal, ~ended_before)

    @classmethod
    def single_steps(cls, transitions: Transitions) -> Self:
        """Each of ``N`` transitions as a trajectory of one step."""
        obs, act, reward, next_obs, terminal = transitions
        states = torch.stack([obs, next_obs], dim=1)
        return cls.cut(states, act[:, None], reward[:, None], terminal[:, None])

    @classmethod
    def concatenate(cls, parts: list[Self]) -> Self:
        """All parts' trajectories, in order."""
        return cls(*(torch.cat(values) for values in zip(*parts, strict=True)))


class Windows(NamedTuple):
    """``B`` slices of ``H`` consecutive steps, ``[B, H]`` and a last dimension for states and actions.

    Steps after the episode's end are zero and not valid.
    """

    obs: Tensor
    act: Tensor
    reward: Tensor
    terminal: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Episodes:
    """A dataset: transitions in the order of their episodes.

    Attributes:
        transitions: ``[N]`` transitions, ``next_obs`` the true next state also at an episode's end.
        timeout: bool ``[N]``, the episode was cut here without a terminal state.
        lengths: int64 ``[E]``, steps of each episode; they add up to ``N``.
    """

    transitions: Transitions
    timeout: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.transitions.reward)

    @cached_property
    def starts(self) -> Tensor:
        """Row of each episode's first step, ``[E]``."""
        return self.lengths.cumsum(0) - self.lengths

    @cached_property
    def is_last(self) -> Tensor:
        """Whether a step is the last one of its episode, bool ``[N]``."""
        last = torch.zeros(len(self), dtype=torch.bool)
        last[self.starts + self.lengths - 1] = True
        return last

    @cached_property
    def _last_rows(self) -> Tensor:
        return torch.repeat_interleave(self.starts + self.lengths - 1, self.lengths)

    @cached_property
    def returns(self) -> Tensor:
        """Undiscounted return of each episode, ``[E]``."""
        episode = torch.repeat_interleave(torch.arange(len(self.lengths)), self.lengths)
        return torch.zeros(len(self.lengths)).index_add_(0, episode, self.transitions.reward)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over every array: two datasets share it only when all their numbers agree."""
        digest = hashlib.sha256()
        for tensor in (*self.transitions, self.timeout, self.lengths):
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()

    def select(self, episodes: Tensor) -> "Episodes":
        """A dataset of the episodes at ``episodes [E']``, in that order."""
        rows = self.rows(episodes)
        return Episodes(self.transitions.at(rows), self.timeout[rows], self.lengths[episodes])

    def split(self, holdout_fraction: float, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Indices of the episodes for training and for the holdout, drawn once by ``seed``; neither is ever empty.

        A dataset of one episode serves as both.

        Raises:
            UserError: ``holdout_fraction`` outside of [0, 1).
        """
        below_one(holdout_fraction=holdout_fraction)
        count = len(self.lengths)
        if count == 1:
            return torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        num_held = min(max(1, round(holdout_fraction * count)), count - 1)
        return order[num_held:].sort().values, order[:num_held].sort().values

    def rows(self, episodes: Tensor) -> Tensor:
        """Rows of all steps of the episodes at ``episodes [E']``, in that order."""
        return _ranges(self.starts[episodes], self.lengths[episodes])

    def window_starts(self, horizon: int, episodes: Tensor | None = None, padded: bool = False) -> Tensor:
        """First rows of all length-``horizon`` slices, ``[W]``; an episode shorter than that gives one (eq. 2).

        Args:
            horizon: Length of a slice.
            episodes: Indices of the episodes to slice; ``None`` uses all.
            padded: Start a slice at every row; slices that pass the end of their episode are padded.
        """
        chosen = slice(None) if episodes is None else episodes
        if padded:
            return _ranges(self.starts[chosen], self.lengths[chosen])
        return _ranges(self.starts[chosen], (self.lengths[chosen] - horizon + 1).clamp(min=1))

    def windows(self, starts: Tensor, horizon: int) -> Windows:
        """The windows that begin at rows ``starts [B]``, gathered from the flat episodes."""
        last = self._last_rows[starts]
        rows = starts[:, None] + torch.arange(horizon)
        valid = rows <= last[:, None]
        rows = torch.minimum(rows, last[:, None])
        data = self.transitions
        obs, act = (at_rows(value, rows) * valid[..., None] for value in (data.obs, data.act))
        return Windows(obs, act, at_rows(data.reward, rows) * valid, at_rows(data.terminal, rows) & valid, valid)


def _ranges(first: Tensor, count: Tensor) -> Tensor:
    """``first[i], first[i] + 1, ..., first[i] + count[i] - 1`` for each ``i``, one after the other."""
    offset = torch.repeat_interleave(first - (count.cumsum(0) - count), count)
    return offset + torch.arange(len(offset))

"""What every synthesizer, filter and dataset source must do."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dydiff.data.checks import check_rule, episodes_flaw, trajectories_flaw
from dydiff.data.episodes import Trajectories
from dydiff.data.source import EpisodeSource
from dydiff.data.termination import ended
from dydiff.rollout.base import LearningPolicy, Synthesizer
from dydiff.rollout.filters import Filter
from dydiff.utils.errors import UserError


def check_synthesizer(synthesizer: Synthesizer, source: EpisodeSource, policy: LearningPolicy | None = None) -> None:
    """Check that a synthesizer keeps the contract of :class:`dydiff.rollout.Synthesizer`.

    Args:
        synthesizer: With trained or untrained models.
        source: A dataset of the task; a small one is faster.
        policy: What it rolls out; ``None`` is one of random but fixed actions, with values and densities.

    Raises:
        AssertionError: It does not, with the reason.
    """
    name, task = type(synthesizer).__name__, source.task
    policy = policy or _AnyPolicy(task.obs_dim, task.act_dim)
    states = source.load().transitions.obs
    start_obs = states[torch.arange(7) * len(states) // 7]
    try:
        synthesizer.check(policy)
        synthesizer.attach(source)
        with torch.no_grad():
            results = [
                synthesizer.synthesize(policy, start_obs.clone(), torch.Generator().manual_seed(5)) for _ in range(2)
            ]
    except UserError as error:
        raise AssertionError(str(error)) from error
    pairs = all(isinstance(each, tuple) and len(each) == 2 and isinstance(each[0], Trajectories) for each in results)
    assert pairs, f"{name}.synthesize must return (Trajectories, metrics)."
    (made, metrics), (again, _) = results
    flaw = trajectories_flaw(made, len(start_obs), task.obs_dim, task.act_dim)
    assert flaw is None, f"{name}.synthesize must return valid trajectories: {flaw}."
    for metric, values in metrics.items():
        fits = isinstance(values, Tensor) and values.shape == (len(start_obs),)
        assert fits, f"{name}: the metric '{metric}' must have a number for each trajectory."
    assert all(map(_equal, made, again)), f"{name}.synthesize must give the same for the same generator."
    after_terminal = (made.terminal & made.valid).cumsum(1) - (made.terminal & made.valid).long() > 0
    assert not (made.valid & after_terminal).any(), (
        f"{name}: a step after a terminal one is valid; see Trajectories.cut."
    )
    steps = made.at(made.finite).transitions()
    if len(steps.reward):
        by_rule = ended(task.terminated, steps.obs, steps.act, steps.next_obs)
        assert torch.equal(by_rule, steps.terminal), f"{name}: terminals are not those of the task's termination rule."


def check_filter(filter: Filter, metrics: Sequence[str] = ()) -> None:
    """Check that a filter keeps the contract of :class:`dydiff.rollout.Filter`.

    Args:
        filter: The filter.
        metrics: Names of the synthesizer's metrics that it ranks by; it gets random numbers for them.

    Raises:
        AssertionError: It does not, with the reason.
    """
    name, made = type(filter).__name__, random_trajectories(20)
    given = [value.clone() for value in made]
    numbers = {metric: torch.rand(20, generator=torch.Generator().manual_seed(4)) for metric in metrics}
    try:
        kept = [filter.choose(made, torch.Generator().manual_seed(1), metrics=numbers) for _ in range(2)]
    except UserError as error:
        raise AssertionError(str(error)) from error
    assert all(map(_equal, made, given)), f"{name}.keys must not change the trajectories."
    assert torch.equal(kept[0], kept[1]), f"{name} must choose the same for the same generator."


def check_source(source: EpisodeSource) -> None:
    """Check that a dataset's source keeps the contract of :class:`dydiff.data.EpisodeSource`.

    Raises:
        AssertionError: It does not, with the reason.
    """
    kind = type(source).__name__
    assert isinstance(source.name, str) and source.name, f"{kind}.name must be a name."
    assert "/" not in source.name, f"{kind}.name is part of folders' names: '{source.name}' must have no slash."
    try:
        task = source.task
        episodes = source.read()
        flaw = episodes_flaw(episodes, task)
        assert flaw is None, f"{kind}.read gives a dataset with an error: {flaw}."
        check_rule(task, episodes.transitions)
        source.load()
    except UserError as error:
        raise AssertionError(str(error)) from error
    assert source.read().fingerprint == episodes.fingerprint, f"{kind}.read must give the same data each time."


def random_trajectories(count: int, steps: int = 6, obs_dim: int = 4, act_dim: int = 2, seed: int = 0) -> Trajectories:
    """Trajectories of unrelated numbers, some of which end early."""
    generator = torch.Generator().manual_seed(seed)
    return Trajectories.cut(
        torch.randn(count, steps + 1, obs_dim, generator=generator),
        torch.rand(count, steps, act_dim, generator=generator) * 2 - 1,
        torch.randn(count, steps, generator=generator),
        torch.rand(count, steps, generator=generator) < 0.1,
    )


class _AnyPolicy:
    """Fixed actions for each state, with a value and a density."""

    def __init__(self, obs_dim: int, act_dim: int) -> None:
        self.weights = torch.randn(obs_dim, act_dim, generator=torch.Generator().manual_seed(0))

    def __call__(self, obs: Tensor) -> Tensor:
        return (obs @ self.weights).tanh()

    def log_prob(self, obs: Tensor, act: Tensor) -> Tensor:
        return -(act - self(obs)).square().sum(-1)

    def value(self, obs: Tensor) -> Tensor:
        return obs.sum(-1)


def _equal(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.float().nan_to_num(), other.float().nan_to_num())

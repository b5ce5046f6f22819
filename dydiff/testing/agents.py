"""What every agent must do."""

import io
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from dydiff.agents.base import Agent
from dydiff.testing.training import random_batches, train
from dydiff.utils import distributed
from dydiff.utils.errors import UserError

OBS_DIM, ACT_DIM = 4, 2


def check_agent(make: Callable[[int, int], Agent]) -> None:
    """Check that an agent keeps the contract of :class:`dydiff.agents.Agent`.

    It trains on random minibatches for some seconds. What an agent learns is not part of the contract.

    Args:
        make: The class, or a function that makes the agent, of ``obs_dim`` and ``act_dim``; small networks are faster.

    Raises:
        AssertionError: It does not, with the reason.
    """
    try:
        _acts(_seeded(make))
        _updates(make)
        _draws_by_the_seed(make)
        _is_saved(make)
        _compiles(make)
        _shares_draws(make)
    except UserError as error:
        raise AssertionError(str(error)) from error


def _seeded(make: Callable[[int, int], Agent], seed: int = 0) -> Agent:
    torch.manual_seed(seed)
    return make(OBS_DIM, ACT_DIM)


def _acts(agent: Agent) -> None:
    name = type(agent).__name__
    agent.check()
    obs = torch.randn(40, OBS_DIM, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    act = agent.act(obs)
    assert torch.equal(act, agent.act(obs)), f"{name}.act without sampling must be a function of the state."
    one_by_one = torch.cat([agent.act(row[None]) for row in obs])
    assert torch.allclose(one_by_one, act, atol=1e-5), f"{name}.act must treat each state by itself."
    first, again = (agent.act(obs, True, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again), f"{name}.act must draw from the generator that it is given alone."
    assert torch.equal(state, torch.get_rng_state()), f"{name}.act must not use torch's global random numbers."
    for sample in (False, True):
        act = agent.act(obs * 1e4, sample, torch.Generator().manual_seed(1))
        assert act.shape == (40, ACT_DIM), (
            f"{name}.act gives shape {tuple(act.shape)} for 40 states, not {(40, ACT_DIM)}."
        )
        assert act.isfinite().all() and float(act.abs().max()) <= 1, f"{name}.act must stay in [-1, 1] in any state."


def _updates(make: Callable[[int, int], Agent]) -> None:
    agent, batches = _seeded(make), random_batches(6)
    name, before, given = type(agent).__name__, _weights(agent), deepcopy(batches)
    logged = train(agent, batches)
    assert all(_same(ours, theirs) for ours, theirs in zip(batches, given, strict=True)), (
        f"{name}.update must not change the minibatch."
    )
    assert not torch.equal(before, _weights(agent)), f"{name}.update changes no weight: do its minimizers take a step?"
    assert _weights(agent).isfinite().all(), f"{name} has weights that are not finite after 6 updates."
    assert int(agent.num_updates) == 6, f"{name} counts {int(agent.num_updates)} updates, not 6."
    assert any(key.startswith("train/") for key in logged[-1]), f"{name}.update must return metrics."


def _draws_by_the_seed(make: Callable[[int, int], Agent]) -> None:
    found = []
    for updates_per_step in (1, 1, 6):
        agent = _seeded(make)
        torch.manual_seed(3)
        train(agent, random_batches(6), updates_per_step)
        found.append(_weights(agent))
    name = type(agent).__name__
    assert torch.equal(found[0], found[1]), f"{name}: two trainings of one seed give other weights."
    assert torch.equal(found[0], found[2]), (
        f"{name}: one update a training step and six give other weights; what an update needs must be in its batch."
    )


def _is_saved(make: Callable[[int, int], Agent]) -> None:
    agent = _seeded(make)
    states = torch.randn(50, OBS_DIM, generator=torch.Generator().manual_seed(2)) * 3 + 1
    train(agent, random_batches(3), normalized_by=states)
    file = io.BytesIO()
    torch.save(agent.state_dict(), file)
    file.seek(0)
    other = type(agent)(**agent.hparams)
    other.load_state_dict(torch.load(file, weights_only=True))
    for sample in (False, True):
        first, second = (each.act(states, sample, torch.Generator().manual_seed(3)) for each in (agent, other))
        assert torch.equal(first, second), (
            f"{type(agent).__name__} acts differently once it is saved and loaded: what is no parameter, buffer or "
            "hyperparameter is lost."
        )


def _compiles(make: Callable[[int, int], Agent]) -> None:
    found = []
    for compiles in (False, True):
        agent = _seeded(make)
        agent.compile_updates, agent.compile_backend = compiles, "aot_eager"
        torch.manual_seed(1)
        train(agent, random_batches(4), updates_per_step=2)
        found.append(_weights(agent))
    plain, compiled = found
    assert torch.allclose(compiled, plain, atol=1e-5, rtol=1e-4), (
        f"{type(agent).__name__}.update gives other weights when it is compiled as a whole: it must not branch on "
        "tensors or keep numbers outside of them."
    )


def _shares_draws(make: Callable[[int, int], Agent]) -> None:
    """A rank with half of a batch must use up as many random numbers as one process with all of it."""
    whole, states = random_batches(1, size=64), []
    for count in (1, 2):
        agent = _seeded(make)
        train(agent, whole)
        torch.manual_seed(5)
        with _seeming_ranks(count):
            agent.update(whole.at(0).at(slice(0, 64 // count)), **agent.schedule(2))
        states.append(torch.get_rng_state())
    assert torch.equal(states[0], states[1]), (
        f"{type(agent).__name__}.update draws other random numbers on two devices than on one: draw what is for the "
        "batch with dydiff.utils.distributed.draw."
    )


def _seeming_ranks(count: int) -> AbstractContextManager[Any]:
    """Let this process seem the first of ``count`` ranks, each with the same numbers."""
    if count == 1:
        return nullcontext()

    def fill(parts: list[Any], part: Any) -> None:
        parts[:] = [part] * len(parts)

    def copy(parts: list[Tensor], part: Tensor) -> None:
        for each in parts:
            each.copy_(part)

    seeming = SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: True, get_rank=lambda: 0, get_world_size=lambda: count,
        all_reduce=lambda message, operation: None, all_gather=copy, all_gather_object=fill,
        ReduceOp=torch.distributed.ReduceOp,
    )  # fmt: skip
    return patch.object(distributed, "dist", seeming)


def _weights(agent: Agent) -> Tensor:
    return torch.cat([value.detach().flatten() for value in agent.parameters()]).clone()


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one.float(), other.float(), rtol=0, atol=0, equal_nan=True)

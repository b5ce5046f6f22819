"""IQL's losses against closed forms."""

import math
from copy import deepcopy

import pytest
import torch
from torch import nn

from dydiff.agents.iql import IQL
from dydiff.testing.training import random_batches, train
from dydiff.utils.errors import UserError


def constant(value):
    """A network whose output is one number for all states."""
    layer = nn.Linear(4, 1)
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, value)
    return layer


@pytest.mark.parametrize("expectile", [0.5, 0.7, 0.9])
def test_the_value_is_the_expectile_of_the_q_values(expectile):
    """Of 0, 1, ..., 9 the expectile m solves ``expectile * sum (q - m)+ = (1 - expectile) * sum (m - q)+``."""
    agent, q, obs = IQL(4, 2, (8,), expectile=expectile), torch.arange(10.0), torch.zeros(10, 4)
    low, high = 0.0, 9.0
    for _ in range(60):
        middle = (low + high) / 2
        above = expectile * (q - middle).clamp(min=0).sum() > (1 - expectile) * (middle - q).clamp(min=0).sum()
        low, high = (middle, high) if above else (low, middle)
    slopes = []
    for value in (low - 0.1, low, low + 0.1):
        agent.value = constant(value)
        slopes.append(float(torch.autograd.grad(agent.value_loss(obs, q)[0], agent.value.bias)[0]))
    assert slopes[0] < 0 < slopes[2] and slopes[1] == pytest.approx(0, abs=1e-5)


def test_the_value_loss_weighs_errors_by_their_signs():
    agent = IQL(4, 2, (8,), expectile=0.7)
    agent.value = constant(1.0)
    loss, _ = agent.value_loss(torch.zeros(3, 4), torch.tensor([3.0, 0.0, 1.0]))
    assert loss.item() == pytest.approx((0.7 * 4 + 0.3 * 1 + 0) / 3)


def test_the_policy_clones_by_exponential_weights_up_to_a_hundred():
    agent, batch = IQL(4, 2, (8,), beta=3.0), random_batches(1, size=3).at(0)
    agent.log_std.data = torch.tensor([-1.0, 0.5])
    agent.value = constant(1.0)
    weights = torch.tensor([math.exp(-3.0), 1.0, 100.0])
    density = torch.distributions.Normal(agent.actor(batch.obs), torch.tensor([-1.0, 0.5]).exp())
    log_prob = density.log_prob(batch.act).sum(-1)
    loss, figures = agent.actor_loss(batch, torch.tensor([0.0, 1.0, 9.0]))
    torch.testing.assert_close(loss, -(weights * log_prob).mean())
    torch.testing.assert_close(figures["cloning_weight"], weights.mean())
    torch.testing.assert_close(agent.log_prob(batch.obs, batch.act), log_prob)


def test_the_critics_bootstrap_from_the_value_alone():
    agent, batch = IQL(4, 2, (8,), gamma=0.9), random_batches(1).at(0)
    agent.value = constant(5.0)
    target = batch.reward + 0.9 * 5.0 * (~batch.terminal)
    q = agent.critics.q_values(batch.obs, batch.act)
    torch.testing.assert_close(agent.critic_loss(batch)[0], (q - target).square().mean(1).sum())


@pytest.mark.parametrize(("reward_scale", "expected"), [(None, 0.5), (0.25, 0.25), (1.0, 1.0)])
def test_rewards_are_scaled_and_values_are_in_the_environments_units(reward_scale, expected):
    """The training's episodes have returns from 0 to 2,000, which become a range of 1,000."""
    agent, batches = IQL(4, 2, (8,), gamma=0.0, reward_scale=reward_scale), random_batches(1)
    begun = deepcopy(agent.critics)
    logged = train(agent, batches)[0]
    before = begun.q_values(agent.normalizer(batches.obs[0]), batches.act[0]).detach()
    error = before - expected * batches.reward[0]
    assert logged["train/critic_loss"] == pytest.approx(float(error.square().mean(1).sum()), rel=1e-4)
    assert logged["train/target_q_max"] == pytest.approx(float(batches.reward.abs().max()), rel=1e-4)
    assert logged["train/q_mean"] == pytest.approx(float(before.mean()) / expected, rel=1e-4)
    obs, act = torch.randn(9, 4), torch.rand(9, 2)
    values = agent.critics.q_values(agent.normalizer(obs), act).min(0).values
    torch.testing.assert_close(agent.q_value(obs, act), values / expected)


def test_a_saved_agent_keeps_its_unit():
    agent, other = IQL(4, 2, (8,)), IQL(4, 2, (8,))
    train(agent, random_batches(1))
    other.load_state_dict(agent.state_dict())
    assert other.reward_unit == 2.0


@pytest.mark.parametrize("updates_per_step", [1, 4])
def test_the_policys_learning_rate_falls_by_half_a_cosine(updates_per_step):
    agent, rates = IQL(4, 2, (8,), lr=0.01), []
    update = agent.update

    def watched(batch):
        rates.append([minimizer.optimizer.param_groups[0]["lr"] for minimizer in agent.minimizers])
        return update(batch)

    agent.update = watched
    train(agent, random_batches(8), updates_per_step)
    cosine = [0.01 * (1 + math.cos(math.pi * done / 8)) / 2 for done in range(8)]
    assert [policy for policy, *_ in rates] == pytest.approx(cosine)
    assert all(others == [0.01, 0.01] for _, *others in rates)


@pytest.mark.parametrize("expectile", [0.0, 1.0])
def test_an_expectile_beyond_its_bounds_is_refused(expectile):
    with pytest.raises(UserError, match="expectile must"):
        IQL(4, 2, expectile=expectile)

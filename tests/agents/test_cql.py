"""CQL's parts against closed forms."""

import math

import pytest
import torch
from torch import nn

from dydiff.agents.cql import CQL
from dydiff.agents.critic import Critics
from dydiff.agents.soft import TanhGaussianPolicy
from dydiff.testing.training import random_batches, train


class LinearQ(nn.Module):
    """Twin critics with ``Q(s, a) = slope . a``, the second one twice the first."""

    def __init__(self, *slope):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def q_values(self, obs, act):
        return torch.stack([act @ self.slope, 2 * act @ self.slope])

    action_values = Critics.action_values


def test_the_conservative_term_estimates_the_log_integral_of_exp_q():
    """With importance sampling each of the three kinds of actions estimates ``int exp(Q) da``, a product of sinh."""
    slope, count = (1.5, -0.7), 4000
    agent = CQL(4, 2, hidden_sizes=(8,), num_sampled_actions=count)
    agent.critics = LinearQ(*slope)
    batch = random_batches(1, size=50).at(0)
    _, gap, _ = agent.critic_loss(batch)
    for critic, factor in enumerate((1.0, 2.0)):
        integral = math.prod(2 * math.sinh(factor * k) / (factor * k) for k in slope)
        data_q = (batch.act @ torch.tensor(slope)).mean().item() * factor
        assert gap[critic].item() == pytest.approx(math.log(3 * count * integral) - data_q, abs=0.05)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_without_importance_sampling_it_is_a_soft_maximum_over_all_actions(temperature):
    agent = CQL(4, 2, hidden_sizes=(8,), importance_sampling=False, cql_temperature=temperature)
    data_q, drawn_q = torch.randn(2, 7), torch.randn(2, 7, 5)
    term = agent.conservative_term(data_q, drawn_q, torch.randn(7, 5))
    values = torch.cat([drawn_q, data_q[..., None]], dim=-1)
    expected = (temperature * (values / temperature).exp().sum(-1).log() - data_q).mean(1)
    torch.testing.assert_close(term, expected)


def test_raising_the_data_q_lowers_the_term_and_raising_the_others_raises_it():
    agent = CQL(4, 2, hidden_sizes=(8,))
    data_q, drawn_q, density = torch.zeros(2, 5), torch.zeros(2, 5, 30), torch.zeros(5, 30)
    term = agent.conservative_term(data_q, drawn_q, density)
    torch.testing.assert_close(agent.conservative_term(data_q + 1, drawn_q, density), term - 1)
    torch.testing.assert_close(agent.conservative_term(data_q, drawn_q + 1, density), term + 1)


def test_the_density_is_that_of_a_squashed_gaussian():
    policy = TanhGaussianPolicy(4, 3, (16,)).double()
    obs = torch.randn(40, 4).double()
    mean, log_std = policy(obs)
    gaussian = torch.distributions.Normal(mean, log_std.exp())
    reference = torch.distributions.TransformedDistribution(gaussian, torch.distributions.TanhTransform())
    act, density = policy.sample(obs, 1)
    torch.testing.assert_close(density[:, 0], reference.log_prob(act[:, 0]).sum(-1), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(policy.log_prob(obs, act[:, 0]), density[:, 0], atol=1e-6, rtol=1e-6)


def test_the_density_stays_finite_at_the_bounds():
    policy = TanhGaussianPolicy(4, 3, (16,))
    act = torch.ones(5, 3) * torch.tensor([1.0, -1.0, 0.0])
    assert policy.log_prob(torch.randn(5, 4), act).isfinite().all()


def test_max_backup_takes_the_best_of_the_sampled_actions():
    agents = [CQL(4, 2, hidden_sizes=(8,), max_backup=best, num_sampled_actions=500) for best in (False, True)]
    values = []
    for agent in agents:
        agent.target_critics = LinearQ(1.0, 1.0)
        agent.actor = TanhGaussianPolicy(4, 2, (8,))
        for parameter in agent.actor.parameters():
            nn.init.zeros_(parameter)  # tanh of a unit Gaussian, whatever the state
        values.append(agent.next_value(torch.randn(300, 4)))
    assert values[0].mean() < 0 and values[0].std() > 0.5  # one random action: min(Q, 2 Q) is negative on average
    assert values[1].min() > 1.2  # of 500 actions, the best one's min(Q1, Q2) is close to 2


def test_lagrange_multiplier_and_temperature_move_against_what_they_hold():
    agent = CQL(4, 2, hidden_sizes=(8,), target_action_gap=2.0)
    for gap, sign in ((5.0, -1), (0.5, 1)):  # too large a gap: descent raises the multiplier
        (gradient,) = torch.autograd.grad(agent.multiplier_loss(torch.full((2,), gap)), agent.log_multiplier)
        assert torch.sign(gradient) == sign
    for log_prob, sign in ((5.0, -1), (-5.0, 1)):  # too little entropy: descent raises the temperature
        (gradient,) = torch.autograd.grad(agent.temperature_loss(torch.full((9,), log_prob)), agent.log_temperature)
        assert torch.sign(gradient) == sign


def test_the_critic_loss_is_the_sum_of_its_terms():
    agent = CQL(4, 2, hidden_sizes=(8,), cql_weight=3.0)
    loss, gap, metrics = agent.critic_loss(random_batches(1).at(0))
    torch.testing.assert_close(loss.detach(), metrics["critic_loss"] + 3.0 * gap.sum())


@pytest.mark.parametrize(("max_temperature", "expected"), [(1.2, 1.2), (None, math.exp(0.5))])
def test_the_temperature_is_bounded(max_temperature, expected):
    """Adam's first five steps of 0.1 raise the logarithm by 0.5 where the entropy is far below its target."""
    agent = CQL(4, 2, hidden_sizes=(8,), policy_lr=0.1, max_temperature=max_temperature)
    agent.target_entropy = 1e6
    train(agent, random_batches(5))
    assert agent.log_temperature.exp().item() == pytest.approx(expected, rel=1e-4)

"""EDAC's terms against computations of their own."""

import pytest
import torch

from dydiff.agents.critic import Critics
from dydiff.agents.edac import EDAC, slope_similarity
from dydiff.testing.training import random_batches
from dydiff.utils.errors import UserError


def test_slopes_are_the_gradients_of_each_critic():
    """Against finite differences: between kinks, critics with ReLU are linear."""
    torch.manual_seed(0)
    critics, obs, act = (
        Critics(4, 2, (16, 16), num_critics=5).double(),
        torch.randn(30, 4).double(),
        torch.rand(30, 2).double(),
    )
    q, slopes = critics.values_and_slopes(obs, act)
    torch.testing.assert_close(q, critics.q_values(obs, act))
    assert slopes.shape == (5, 30, 2)
    for dim in range(2):
        step = torch.zeros(2).double()
        step[dim] = 1e-6
        change = (critics.q_values(obs, act + step) - critics.q_values(obs, act - step)) / 2e-6
        torch.testing.assert_close(slopes[..., dim], change, atol=1e-5, rtol=1e-5)


def test_similarity_is_the_sum_of_the_cosines_of_all_pairs():
    slopes = torch.randn(6, 20, 3)
    cosines = [
        torch.nn.functional.cosine_similarity(slopes[i], slopes[j], dim=-1)
        for i in range(6)
        for j in range(6)
        if i != j
    ]
    torch.testing.assert_close(slope_similarity(slopes), torch.stack(cosines).sum(0).mean() / 5)


@pytest.mark.parametrize("count", [2, 5])
def test_similarity_of_equal_slopes_is_their_number_and_of_opposite_ones_negative(count):
    same = torch.randn(1, 9, 3).expand(count, -1, -1)
    assert slope_similarity(same).item() == pytest.approx(count, rel=1e-5)
    assert slope_similarity(torch.stack([same[0], -same[0]])).item() == pytest.approx(-2, rel=1e-5)


def test_the_gradient_of_the_diversity_term_is_that_of_its_definition():
    """In the critics' weights, against central differences of :func:`slope_similarity`."""
    torch.manual_seed(0)
    critics, obs, act = (
        Critics(3, 2, (8,), num_critics=3).double(),
        torch.randn(12, 3).double(),
        torch.rand(12, 2).double(),
    )

    def similarity():
        return slope_similarity(critics.values_and_slopes(obs, act)[1])

    (gradient,) = torch.autograd.grad(similarity(), critics.layers[1].weight)
    weight = critics.layers[1].weight.data
    for index in ((0, 1, 0), (1, 4, 0), (2, 7, 0)):
        begun, values = weight[index].item(), []
        for shift in (1e-6, -1e-6):
            weight[index] = begun + shift
            values.append(similarity().item())
        weight[index] = begun
        assert gradient[index].item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("diversity_weight", [0.0, 2.0])
def test_the_critic_loss_has_one_soft_target_for_all_critics(diversity_weight):
    torch.manual_seed(0)
    agent, batch = EDAC(4, 2, (16,), 4, diversity_weight, gamma=0.9), random_batches(1).at(0)
    agent.log_temperature.data.fill_(-0.5)
    torch.manual_seed(5)
    act, log_prob = (value[:, 0] for value in agent.actor.sample(batch.next_obs, 1))
    lowest = agent.target_critics.q_values(batch.next_obs, act).min(0).values
    soft_value = lowest - torch.tensor(-0.5).exp() * log_prob
    target = batch.reward + 0.9 * soft_value * (~batch.terminal)
    expected = sum((q - target).square().mean() for q in agent.critics.q_values(batch.obs, batch.act))
    if diversity_weight:
        expected = expected + 2.0 * slope_similarity(agent.critics.values_and_slopes(batch.obs, batch.act)[1])
    torch.manual_seed(5)
    loss, metrics = agent.critic_loss(batch)
    torch.testing.assert_close(loss, expected)
    assert ("slope_similarity" in metrics) is bool(diversity_weight)


def test_policy_and_values_follow_the_lowest_critic():
    agent, batch = EDAC(4, 2, (16,), 6), random_batches(1).at(0)
    act, log_prob = (value[:, 0] for value in agent.actor.sample(batch.obs, 1))
    lowest = agent.critics.q_values(batch.obs, act).amin(0)
    agent.log_temperature.data.fill_(-0.5)
    loss, _ = agent.actor_loss(batch.obs, act, log_prob)
    torch.testing.assert_close(loss, (torch.tensor(-0.5).exp() * log_prob - lowest).mean())
    torch.testing.assert_close(agent.q_value(batch.obs, act), lowest)  # as made, its normalizer changes nothing


def test_one_critic_is_refused():
    with pytest.raises(UserError, match="num_critics must be at least 2"):
        EDAC(4, 2, num_critics=1)

"""ReBRAC's losses against computations of their own."""

import torch

from dydiff.agents.rebrac import ReBRAC
from dydiff.testing.training import random_batches


def noiseless(**options):
    torch.manual_seed(0)
    agent = ReBRAC(4, 2, (16, 16), policy_noise=0.0, **options)
    for network in (agent.actor, agent.critics, agent.target_actor, agent.target_critics):
        for parameter in network.parameters():
            parameter.data.normal_(0, 0.4)
    return agent


def test_targets_lose_the_distance_to_the_datasets_next_action():
    agent, batch = noiseless(gamma=0.9, critic_penalty=0.7), random_batches(1).at(0)
    next_act = agent.target_actor(batch.next_obs)
    next_q = agent.target_critics.q_values(batch.next_obs, next_act).min(0).values
    target = batch.reward.clone()
    for row in range(len(target)):
        if not batch.terminal[row]:
            distance = sum((next_act[row] - batch.next_act[row]) ** 2) if batch.real[row] else 0.0
            target[row] += 0.9 * (next_q[row] - 0.7 * distance)
    assert 0 < batch.real.sum() < 32
    q = agent.critics.q_values(batch.obs, batch.act)
    loss, metrics = agent.critic_loss(batch)
    torch.testing.assert_close(loss, (q - target).square().mean(1).sum())
    assert metrics["next_distance"] > 0


def test_without_penalties_it_is_td3_whose_actor_climbs_the_lower_critic():
    agent, batch = noiseless(actor_penalty=0.0, critic_penalty=0.0), random_batches(1).at(0)
    unknown = batch._replace(next_act=torch.full_like(batch.next_act, torch.nan))
    torch.testing.assert_close(agent.critic_loss(batch)[0], agent.critic_loss(unknown)[0])
    q = agent.critics.q_values(batch.obs, agent.actor(batch.obs)).min(0).values
    torch.testing.assert_close(agent.actor_loss(batch)[0], -q.mean() / q.abs().mean())


def test_the_actors_penalty_is_the_squared_distance_of_all_actions_or_of_the_real_ones():
    batch = random_batches(1).at(0)
    for clone_synthetic, rows in ((True, torch.ones(32).bool()), (False, batch.real)):
        agent, free = (noiseless(actor_penalty=weight, clone_synthetic=clone_synthetic) for weight in (0.3, 0.0))
        expected = 0.3 * (agent.actor(batch.obs) - batch.act).square().sum(-1)[rows].mean()
        torch.testing.assert_close(agent.actor_loss(batch)[0] - free.actor_loss(batch)[0], expected)


def test_its_critics_are_bounded_by_their_last_layer():
    """What layer normalization is for: far from the data, a value cannot exceed ``|w| sqrt(width) + |b|``."""
    agent = noiseless()
    last = agent.critics.layers[-1]
    bound = last.weight.flatten(1).norm(dim=1) * 16**0.5 + last.bias.flatten().abs()
    far = agent.critics.q_values(torch.randn(500, 4) * 1e5, torch.rand(500, 2))
    assert (far.abs().max(1).values <= bound * 1.001).all()


def test_networks_begin_near_zero_and_targets_are_their_copies():
    agent = ReBRAC(4, 2, (16, 16))
    obs, act = torch.randn(50, 4), torch.rand(50, 2)
    assert agent.critics.q_values(obs, act).abs().max() < 3e-3 * (16 * 16**0.5 + 1)
    assert agent.actor(obs).abs().max() < 0.05
    for online, target in ((agent.actor, agent.target_actor), (agent.critics, agent.target_critics)):
        assert all(torch.equal(*pair) for pair in zip(online.parameters(), target.parameters(), strict=True))

"""Policy-guided diffusion: its schedule, its direction, and what it leaves alone."""

import math

import pytest
import torch

from dydiff.agents.td3bc import TD3BC
from dydiff.data.episodes import Windows
from dydiff.models.edm import EDMSampler
from dydiff.models.trajectory_diffusion import TrajectoryDiffusion
from dydiff.rollout.base import PlainPolicy
from dydiff.rollout.pgd import PGD
from dydiff.utils.errors import UserError


class GaussianTrajectories(TrajectoryDiffusion):
    """Knows its data: standard normal numbers, whose conditional mean is ``x / (1 + sigma^2)``."""

    def denoise(self, x, sigma):
        return x / (1 + sigma[:, None, None] ** 2)


class GaussianPolicy:
    """Wants the action 0.5 everywhere."""

    def __call__(self, obs):
        return torch.full((len(obs), 2), 0.5)

    def log_prob(self, obs, act):
        return -(act - 0.5).square().sum(-1) / 2


def made_by(guidance, seed=0, count=400, **settings):
    model = GaussianTrajectories(3, 2, horizon=6, width=8, multipliers=(1, 2))
    pgd = PGD(model, guidance, sampler=EDMSampler(num_steps=30, s_churn=0.0), **settings)
    return pgd.synthesize(GaussianPolicy(), torch.zeros(count, 3), torch.Generator().manual_seed(seed))


def test_guidance_moves_actions_towards_the_policy_and_leaves_the_rest():
    (behaviour, plain), (guided, figures) = made_by(0.0), made_by(1.0)
    assert figures["log_prob"].mean() > plain["log_prob"].mean() + 0.2
    assert (guided.act - 0.5).abs().mean() < (behaviour.act - 0.5).abs().mean() - 0.1
    torch.testing.assert_close(guided.obs, behaviour.obs)
    torch.testing.assert_close(guided.reward, behaviour.reward)


def test_stronger_guidance_moves_further():
    likelihoods = [made_by(guidance)[1]["log_prob"].mean().item() for guidance in (0.0, 0.3, 1.0)]
    assert likelihoods == sorted(likelihoods)


@pytest.mark.parametrize("cosine_guidance", [0.0, 0.3])
def test_each_step_follows_the_unit_gradient_by_the_schedule(cosine_guidance):
    model = GaussianTrajectories(3, 2, horizon=6, width=8, multipliers=(1, 2))
    pgd = PGD(model, 2.0, cosine_guidance, EDMSampler(num_steps=10))
    x = torch.randn(5, 6, 7)
    for step in (0, 4, 8):
        moved = pgd._follow(GaussianPolicy(), x, 1.0, step) - x
        length = 2.0 * (1 - step / 10 + cosine_guidance * math.sin(math.pi * (step + 1) / 10))
        torch.testing.assert_close(moved.flatten(1).norm(dim=1), torch.full((5,), length))
        assert (moved[..., :3] == 0).all() and (moved[..., 5:] == 0).all()
        direction = 0.5 - (x[..., 3:5] / 2).clamp(-1, 1)  # of log pi at the denoised action
        torch.testing.assert_close(
            torch.cosine_similarity(moved[..., 3:5].flatten(1), direction.flatten(1)), torch.ones(5)
        )


def test_the_last_step_is_not_guided():
    steps = []
    sampler = EDMSampler(num_steps=4, s_churn=0.0)

    def guide(x, sigma, step):
        steps.append(step)
        return x

    sampler(lambda x, sigma: x * 0, torch.zeros(2, 3), torch.zeros(()).bool(), guide=guide)
    assert steps == [0, 1, 2]


def test_trajectories_end_at_the_modelled_terminal():
    made, _ = made_by(0.0, count=2000)
    assert made.obs.shape == (2000, 6, 3) and made.act.shape == (2000, 5, 2)
    assert made.act.abs().max() <= 1
    assert 0.2 < made.terminal[:, 0].float().mean() < 0.4  # a standard normal is above 0.5 in 31%
    assert (made.lengths == 1).float().mean().item() == pytest.approx(made.terminal[:, 0].float().mean().item())


def test_rewards_and_terminals_are_part_of_the_model():
    model = TrajectoryDiffusion(3, 2, horizon=6, width=8, multipliers=(1, 2))
    obs, act, reward = torch.randn(4, 6, 3), torch.rand(4, 6, 2), torch.randn(4, 6)
    terminal = torch.rand(4, 6) < 0.2
    samples, _ = model.clean_samples(Windows(obs, act, reward, terminal, torch.ones(4, 6).bool()))
    for ours, theirs in zip(model.split(samples), (obs, act, reward, terminal.float()), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_it_follows_a_real_agent():
    torch.manual_seed(0)
    agent = TD3BC(3, 2, hidden_sizes=(16,))
    model = GaussianTrajectories(3, 2, horizon=6, width=8, multipliers=(1, 2))
    likelihoods = []
    for guidance in (0.0, 1.0):
        pgd = PGD(model, guidance, sampler=EDMSampler(num_steps=30, s_churn=0.0))
        figures = pgd.synthesize(agent.policy(True), torch.zeros(300, 3), torch.Generator().manual_seed(0))[1]
        likelihoods.append(figures["log_prob"].mean())
    assert likelihoods[1] > likelihoods[0] + 0.1


def test_a_policy_without_a_density_is_refused():
    with pytest.raises(UserError, match="log_prob"):
        PGD(GaussianTrajectories(3, 2, horizon=6, width=8)).synthesize(PlainPolicy(lambda obs: obs), torch.zeros(2, 3))

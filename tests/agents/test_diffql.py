"""DiffQL's diffusion policy against closed forms."""

import pytest
import torch

from dydiff.agents.diffql import DiffQL
from dydiff.agents.diffusion_policy import DiffusionPolicy, VPSchedule
from dydiff.models.networks import Mish
from dydiff.run.settings import check_settings
from dydiff.testing.training import random_batches, train
from dydiff.utils.errors import UserError


def test_the_schedule_is_the_vp_process_sampled_evenly():
    """``abar(t) = exp(-beta_min t - (beta_max - beta_min) t^2 / 2)`` at ``t = 1/5 .. 1``."""
    time = torch.arange(1, 6) / 5
    torch.testing.assert_close(VPSchedule(5).alpha_bar, torch.exp(-0.1 * time - 9.9 * time**2 / 2))


def test_the_posterior_is_bayes():
    """``x_{t-1}`` given ``x_0`` and ``x_t``: the product of the Gaussians q(x_{t-1} | x_0) and q(x_t | x_{t-1})."""
    schedule, clean, noised = VPSchedule(5), torch.randn(9, 2), torch.randn(9, 2)
    for step in range(1, 5):
        before, alpha = schedule.alpha_bar[step - 1], schedule.alpha_bar[step] / schedule.alpha_bar[step - 1]
        prior_mean, prior_precision = before.sqrt() * clean, 1 / (1 - before)
        likelihood_mean, likelihood_precision = noised / alpha.sqrt(), alpha / (1 - alpha)
        precision = prior_precision + likelihood_precision
        expected = (prior_precision * prior_mean + likelihood_precision * likelihood_mean) / precision
        mean, std = schedule.posterior(clean, noised, torch.full((9,), step))
        torch.testing.assert_close(mean, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(std, precision.rsqrt().expand(9, 1), atol=1e-5, rtol=1e-5)
    mean, std = schedule.posterior(clean, noised, torch.zeros(9, dtype=torch.int64))
    torch.testing.assert_close(mean, clean, atol=1e-5, rtol=1e-5)
    assert (std == 0).all()


def test_the_noise_is_taken_away_exactly():
    schedule, clean, noise = VPSchedule(5), torch.randn(50, 3), torch.randn(50, 3)
    step = torch.arange(50) % 5
    torch.testing.assert_close(schedule.remove_noise(schedule.add_noise(clean, step, noise), step, noise), clean)


class Exact(DiffusionPolicy):
    """Knows the noise: every state's action is its first two numbers."""

    def predict_noise(self, obs, noised, step):
        share = self.schedule.alpha_bar[step][:, None]
        return (noised - share.sqrt() * obs[:, :2]) / (1 - share).sqrt()


def test_an_exact_noise_predictor_samples_the_data():
    policy = Exact(4, 2, (8,), 5)
    obs = torch.rand(30, 4) * 1.8 - 0.9
    torch.testing.assert_close(policy.sample(obs), obs[:, :2], atol=1e-5, rtol=1e-5)


def test_samples_stay_in_the_bounds_where_the_network_leads_out_of_them():
    policy = Exact(4, 2, (8,), 5)
    assert (policy.sample(torch.full((10, 4), 7.0)) == 1).all()


@pytest.mark.parametrize("recovered_action", [False, True])
def test_without_a_q_weight_the_policy_clones(recovered_action):
    """The q_coef term is all that the critics have to say: with 0 their values do not matter."""
    batch, losses = random_batches(1).at(0), []
    for seed in (0, 1):
        torch.manual_seed(0)
        agent = DiffQL(4, 2, (8,), q_coef=0.0, recovered_action=recovered_action)
        torch.manual_seed(seed)
        for parameter in agent.critics.parameters():
            parameter.data.normal_()
        torch.manual_seed(3)
        losses.append(agent.policy_loss(batch)[0])
    torch.testing.assert_close(*losses)


def test_the_evaluated_action_is_the_best_of_the_candidates():
    agent, obs = DiffQL(4, 2, (16,), num_candidates=50), torch.randn(20, 4)
    best = agent.target_critics.q_values(obs, agent.act(obs)).min(0).values
    others = [agent.target_critics.q_values(obs, agent.act(obs, sample=True)).min(0).values for _ in range(20)]
    assert (best >= torch.stack(others).mean(0)).all()
    single = DiffQL(4, 2, (16,), num_candidates=1)
    single.load_state_dict(agent.state_dict())
    assert (best >= single.target_critics.q_values(obs, single.act(obs)).min(0).values - 1e-5).all()


def test_the_averaged_policy_starts_late_and_follows_every_few_updates():
    agent, moves = DiffQL(4, 2, (8,), ema_start=4, ema_every=3), []
    before = agent.ema_policy_network.network[0].weight.clone()
    for _ in range(12):
        train(agent, random_batches(1))
        after = agent.ema_policy_network.network[0].weight.clone()
        moves.append(not torch.equal(before, after))
        before = after
    assert [update for update, moved in enumerate(moves, start=1) if moved] == [6, 9, 12]


def test_gradients_are_clipped():
    agent = DiffQL(4, 2, (8,), max_grad_norm=1e-3)
    train(agent, random_batches(1)._replace(reward=torch.full((1, 32), 1e4)))
    for network in (agent.critics, agent.policy_network):
        norm = torch.stack([parameter.grad.norm() for parameter in network.parameters()]).norm()
        assert norm.item() == pytest.approx(1e-3, rel=1e-2)


def test_the_networks_are_the_authors():
    """By default a policy of three hidden layers with Mish, critics of two with ReLU."""
    agent = DiffQL(11, 3)
    widths = [layer.out_features for layer in agent.policy_network.network if hasattr(layer, "out_features")]
    assert widths == [256, 256, 256, 3]
    assert [tuple(layer.weight.shape) for layer in agent.critics.layers] == [(2, 14, 256), (2, 256, 256), (2, 256, 1)]
    assert isinstance(agent.critics.activation, torch.nn.ReLU)
    assert isinstance(DiffQL(11, 3, critic_activation="mish").critics.activation, Mish)


def test_a_checkpoint_of_one_size_for_both_networks_is_refused():
    made_with = {"hidden_sizes": [256, 256], "gamma": 0.99, "obs_dim": 11, "act_dim": 3}
    command = {"policy_hidden_sizes": [256, 256, 256], "gamma": 0.99}
    with pytest.raises(
        UserError, match=r"made with model.hidden_sizes \[256, 256\], an option that .*DiffQL no longer"
    ):
        check_settings({"hyper_parameters": made_with}, "dydiff.agents.DiffQL", command)

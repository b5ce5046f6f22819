"""The sampler and the preconditioning against the authors' numbers and closed forms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dydiff.data.episodes import Episodes, Transitions, Windows
from dydiff.models.denoiser import Denoiser, condition_mask
from dydiff.models.edm import EDMSampler, loss_weight, noise_levels, preconditioning
from dydiff.utils.errors import UserError

PLAIN = {"s_churn": 0.0}


@pytest.mark.parametrize("num_steps", [5, 34])
def test_deterministic_sampler_equals_the_authors(golden, num_steps):
    g = golden("edm_sampler")

    def denoise(x, sigma):
        sigma = sigma[:, None, None]
        w = 0.25 / (0.25 + sigma**2)
        return w * x + (1 - w) * (g["net_mu"] + torch.tanh(x @ g["net_W"] / (1 + sigma)))

    condition = torch.zeros_like(g["latents"])
    condition[:, 0, :3] = g["first_state"]
    condition[:, :, 3:] = g["actions"]
    mask = torch.zeros(8, 5, dtype=torch.bool)
    mask[0, :3] = True
    mask[:, 3:] = True
    sample = EDMSampler(num_steps=num_steps, **PLAIN)(denoise, condition, mask, latents=g["latents"])
    torch.testing.assert_close(sample, g[f"sample_{num_steps}"], atol=1e-6, rtol=0)
    levels = torch.tensor(noise_levels(num_steps, 0.002, 80, 7), dtype=torch.float64)
    torch.testing.assert_close(levels, g[f"sigmas_{num_steps}"].double(), atol=1e-9, rtol=1e-9)


def gaussian_denoiser(mean, covariance):
    """The exact denoiser of data ``N(mean, covariance)``: a posterior mean."""
    identity = torch.eye(len(mean), dtype=mean.dtype)

    def denoise(x, sigma):
        gain = covariance @ torch.linalg.inv(covariance + sigma[0] ** 2 * identity)
        return (mean + (x.flatten(1) - mean) @ gain.T).view_as(x)

    return denoise


@pytest.mark.parametrize(("num_steps", "s_churn"), [(34, 0.0), (300, 60.0)])
def test_sampler_recovers_a_gaussian(num_steps, s_churn):
    """With the paper's churn the discretisation bias of 34 steps is a tenth of the variance; it vanishes with steps."""
    torch.manual_seed(1)
    mean = torch.tensor([0.5, -1.0, 0.2, 0.0], dtype=torch.float64)
    root = torch.randn(4, 4, dtype=torch.float64) * 0.4
    covariance = root @ root.T + 0.05 * torch.eye(4, dtype=torch.float64)
    nothing = torch.zeros(20_000, 2, 2, dtype=torch.float64)
    sampler = EDMSampler(num_steps=num_steps, s_churn=s_churn, s_noise=1.0)
    sample = sampler(gaussian_denoiser(mean, covariance), nothing, torch.zeros(2, 2, dtype=torch.bool))
    flat = sample.flatten(1)
    torch.testing.assert_close(flat.mean(0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(flat.T.cov(), covariance, atol=0.03, rtol=0.03)


def test_sampler_recovers_the_conditional_of_a_gaussian_when_replacement_is_exact():
    """States that depend on nothing but the conditions: the sampler must return the regression on them."""
    weights = torch.tensor([[0.5, -0.2], [0.1, 0.9]], dtype=torch.float64)
    condition = torch.randn(64, 3, 4, dtype=torch.float64)
    mask = condition_mask(3, 2, 2)

    def denoise(x, sigma):
        states = x[..., 2:] @ weights  # sees the clean actions, as training promises
        return torch.cat([states, x[..., 2:]], dim=-1)

    sample = EDMSampler()(denoise, condition, mask)
    torch.testing.assert_close(sample[:, 1:, :2], condition[:, 1:, 2:] @ weights, atol=1e-4, rtol=0)


@settings(max_examples=25, deadline=None)
@given(
    num_steps=st.integers(1, 6),
    num_samples=st.integers(1, 3),
    sigma_start=st.sampled_from([None, 0.5, 3.0, 80.0]),
    solver=st.sampled_from([{"s_churn": 0.0}, {"s_churn": 60.0}, {"s_churn": 0.0, "solver": "dpm++2m"}]),
    seed=st.integers(0, 1000),
)
def test_replaced_entries_come_back_exactly_and_enter_the_network_clean(
    num_steps, num_samples, sigma_start, solver, seed
):
    generator = torch.Generator().manual_seed(seed)
    condition = torch.randn(3, 6, 5, generator=generator)
    mask = torch.rand(6, 5, generator=generator) < 0.4
    seen = []

    def denoise(x, sigma):
        seen.append(torch.equal(x[:, mask], condition[:, mask]))
        return 0.3 * x + 1

    sampler = EDMSampler(num_steps, num_samples=num_samples, sigma_start=sigma_start, **solver)
    sample = sampler(denoise, condition, mask, generator)
    assert torch.equal(sample[:, mask], condition[:, mask])
    assert all(seen) and len(seen) == sampler.num_calls


def test_one_step_from_a_draft_is_the_denoisers_conditional_mean():
    draft, latents = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    sampler = EDMSampler(num_steps=1, sigma_start=0.7, **PLAIN)
    no_mask = torch.zeros(4, 3, dtype=torch.bool)
    sample = sampler(lambda x, sigma: x**2, draft, no_mask, latents=latents)
    torch.testing.assert_close(sample, (draft + 0.7 * latents) ** 2)


def test_draft_is_ignored_from_pure_noise():
    latents, no_mask = torch.randn(2, 4, 3), torch.zeros(4, 3, dtype=torch.bool)
    samples = [
        EDMSampler(num_steps=3, **PLAIN)(lambda x, s: x / (1 + s[:, None, None]), draft, no_mask, latents=latents)
        for draft in (torch.zeros(2, 4, 3), torch.ones(2, 4, 3))
    ]
    assert torch.equal(*samples)


@given(st.floats(0.002, 80))
def test_preconditioning_keeps_unit_variance(sigma):
    """EDM's defining properties: unit-variance network inputs and targets, and a loss weight that cancels c_out."""
    sigma, sigma_data = torch.tensor(sigma, dtype=torch.float64), 0.5
    c_skip, c_out, c_in, c_noise = preconditioning(sigma, sigma_data)
    torch.testing.assert_close(c_in**2 * (sigma**2 + sigma_data**2), torch.ones_like(sigma))
    target_variance = (1 - c_skip) ** 2 * sigma_data**2 + c_skip**2 * sigma**2
    torch.testing.assert_close(target_variance, c_out**2)
    torch.testing.assert_close(loss_weight(sigma, sigma_data) * c_out**2, torch.ones_like(sigma))
    torch.testing.assert_close(c_noise, sigma.log() / 4)


def test_draft_noise_0_takes_the_drafts_own_error_for_the_noise():
    """Gaussian data of deviation 2, drafts with errors of deviation 0.7: the result is the posterior mean.

    With noise of the same size on top, the error is larger by exactly what that noise leaves.
    """
    torch.manual_seed(0)
    spread, sigma, count = 2.0, 0.7, 200_000
    shrink = spread**2 / (spread**2 + sigma**2)
    clean = spread * torch.randn(count, 1)
    draft = clean + sigma * torch.randn(count, 1)
    open_everywhere = torch.zeros(1, dtype=torch.bool)
    made = {
        noise: EDMSampler(1, sigma_start=sigma, draft_noise=noise, **PLAIN)(
            lambda x, sigma: shrink * x, draft, open_everywhere
        )
        for noise in (0.0, 1.0)
    }
    torch.testing.assert_close(made[0.0], shrink * draft)
    posterior = spread**2 * sigma**2 / (spread**2 + sigma**2)
    assert (made[0.0] - clean).square().mean().item() == pytest.approx(posterior, rel=0.02)
    assert (made[1.0] - clean).square().mean().item() == pytest.approx(posterior + (shrink * sigma) ** 2, rel=0.02)


@pytest.mark.parametrize(
    "setting", [{"num_steps": 0}, {"sigma_start": 0.001}, {"sigma_start": 81.0}, {"draft_noise": -0.1}]
)
def test_sampler_refuses_impossible_settings(setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        EDMSampler(**setting)


def test_denoiser_loss_counts_only_open_states_within_the_episode():
    model = Denoiser(3, 2, horizon=8, width=8, multipliers=(1, 2))
    obs, act = torch.randn(4, 8, 3), torch.rand(4, 8, 2)
    valid = torch.arange(8) < torch.tensor([[8], [5], [2], [8]])
    batch = Windows(obs * valid[..., None], act * valid[..., None], 0 * obs[..., 0], ~valid, valid)
    for parameter in model.network.parameters():
        parameter.data.zero_()
    sigma, sigma_data = torch.full((4,), 2.0), 0.5
    noise = torch.randn(4, 8, 5)
    # with a network of zeros, D(x) = c_skip x: the error is known in closed form
    c_skip = sigma_data**2 / (4 + sigma_data**2)
    error = (c_skip * (batch.obs + 2 * noise[..., :3]) - batch.obs).square()[:, 1:]
    counted = valid[:, 1:, None].expand_as(error)
    expected = loss_weight(torch.tensor(2.0), sigma_data) * error[counted].mean()
    torch.testing.assert_close(model._loss_at(*model.clean_samples(batch), sigma, noise), expected)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(1, 9), st.data())
def test_padded_windows_begin_once_at_every_row(lengths, horizon, data):
    """Of the chosen episodes; a window holds what is left of its episode, and zeros."""
    count, lengths = sum(lengths), torch.tensor(lengths)
    numbers = torch.arange(1.0, count + 1)
    transitions = Transitions(numbers[:, None], numbers[:, None], numbers, numbers[:, None], torch.zeros(count).bool())
    episodes = Episodes(transitions, torch.zeros(count).bool(), lengths)
    chosen = torch.tensor(data.draw(st.lists(st.sampled_from(range(len(lengths))), min_size=1, unique=True)))
    starts = episodes.window_starts(horizon, chosen, padded=True)
    assert sorted(starts.tolist()) == sorted(episodes.rows(chosen).tolist())
    ends = (episodes.starts + episodes.lengths).repeat_interleave(episodes.lengths)[starts]
    windows = episodes.windows(starts, horizon)
    rows = starts[:, None] + torch.arange(horizon)
    assert torch.equal(windows.valid, rows < ends[:, None])
    assert torch.equal(windows.obs[..., 0], torch.where(windows.valid, rows + 1.0, 0.0))


def test_padding_has_no_loss():
    """What a padded window holds past its episode's end changes neither the loss nor what it is divided by."""
    torch.manual_seed(0)
    model = Denoiser(3, 2, horizon=8, width=8, multipliers=(1, 2))
    obs, act = torch.randn(5, 8, 3), torch.rand(5, 8, 2)
    valid = torch.arange(8) < torch.tensor([8, 5, 3, 2, 1])[:, None]
    windows = Windows(obs, act, torch.zeros(5, 8), torch.zeros(5, 8).bool(), valid)
    other = windows._replace(
        obs=obs.where(valid[..., None], torch.tensor(7.0)), act=act.where(valid[..., None], torch.tensor(-1.0))
    )
    losses = []
    for each in (windows, other):
        torch.manual_seed(1)
        losses.append(model.loss(each))
    assert torch.equal(*losses)
    # A window of one valid step has none to predict: without it the mean over all others is the same.
    sigma, noise = torch.full((5,), 0.5), torch.randn(5, 8, 5)
    clean, valid = model.clean_samples(windows)
    torch.testing.assert_close(
        model._loss_at(clean, valid, sigma, noise), model._loss_at(clean[:4], valid[:4], sigma[:4], noise[:4])
    )


def test_multistep_solver_is_of_second_order():
    """On a Gaussian, halving the steps' size divides the error by about four; of first order, by two."""
    mean, covariance = torch.zeros(4, dtype=torch.float64), torch.diag(torch.tensor([0.1, 0.3, 1.0, 2.0])).double()
    latents = torch.randn(64, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    nothing, no_mask = torch.zeros(64, 2, 2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.bool)
    # The probability flow of a Gaussian scales each dimension by the ratio of its noised standard deviations.
    variance = covariance.diag().view(2, 2)
    exact = 80 * latents * (variance / (variance + 80**2)).sqrt()

    def error(num_steps):
        sampler = EDMSampler(num_steps=num_steps, solver="dpm++2m", sigma_min=1e-5, **PLAIN)
        sample = sampler(gaussian_denoiser(mean, covariance), nothing, no_mask, latents=latents)
        return float((sample - exact).abs().mean())

    assert 3 < error(40) / error(80) < 5
    assert 3 < error(80) / error(160) < 5


def test_mean_of_samples_has_the_variance_of_a_mean():
    draft, no_mask = torch.zeros(4000, 1, 2), torch.zeros(1, 2, dtype=torch.bool)
    sampler = EDMSampler(num_steps=1, sigma_start=1.0, num_samples=4, **PLAIN)
    samples = sampler(lambda x, sigma: x, draft, no_mask, torch.Generator().manual_seed(0))
    assert samples.var().item() == pytest.approx(1 / 4, rel=0.05)


def test_churn_with_the_multistep_solver_is_refused():
    with pytest.raises(UserError, match=r"no churn: set s_churn to 0"):
        EDMSampler(solver="dpm++2m")

"""SynthER's model in a world that is known."""

import pytest
import torch

from dydiff.analysis.transition_quality import kolmogorov_distance
from dydiff.data.episodes import Episodes, Transitions
from dydiff.models.edm import EDMSampler
from dydiff.models.transition_diffusion import TransitionDiffusion
from dydiff.rollout.synther import SynthER


def lively(count, seed=0):
    """A deterministic world: s' = s / 2 + a, reward s + a, an end where s > 1."""
    generator = torch.Generator().manual_seed(seed)
    obs = torch.randn(count, 1, generator=generator)
    act = torch.rand(count, 1, generator=generator) * 2 - 1
    return Transitions(obs, act, (obs + act)[:, 0], obs / 2 + act, obs[:, 0] > 1)


def as_episodes(transitions):
    count = len(transitions.reward)
    return Episodes(transitions, torch.zeros(count, dtype=torch.bool), torch.ones(count, dtype=torch.int64))


def test_decoding_undoes_encoding():
    model, data = TransitionDiffusion(1, 1, width=8, num_layers=1), lively(100)
    model.fit_statistics(as_episodes(data))
    encoded, valid = model.clean_samples(data)
    torch.testing.assert_close(encoded[:, :4].std(0, correction=0), torch.ones(4), atol=1e-3, rtol=0)
    assert set(encoded[:, 4].tolist()) == {0.0, 1.0} and valid.all()
    decoded = model.sample(100, lambda denoise, empty, mask, generator: encoded)
    for ours, theirs in zip(decoded, data, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_terminal_is_thresholded_and_actions_are_clipped():
    model = TransitionDiffusion(1, 1, width=8, num_layers=1)
    rows = torch.tensor([[0.0, 2.0, 0, 0, 0.4], [0, -3, 0, 0, 0.51], [0, 0.5, 0, 0, 7.0]])
    made = model.sample(3, lambda *_: rows)
    assert made.terminal.tolist() == [False, True, True] and made.act[:, 0].tolist() == [1, -1, 0.5]


def test_the_terminal_is_the_models_or_the_rules():
    model = TransitionDiffusion(1, 1, width=8, num_layers=1)
    rows = torch.tensor([[0.0, 0, 0, 2.0, 0.4], [0, 0, 0, 0.5, 0.6]])
    for terminals, expected in (("modelled", [False, True]), ("rule", [True, False])):
        synthesizer = SynthER(model, lambda *_: rows, terminals)
        synthesizer.terminated = lambda obs, act, next_obs: next_obs[..., 0] > 1
        assert synthesizer.synthesize(None, torch.zeros(2, 1))[0].terminal[:, 0].tolist() == expected


def test_it_learns_the_joint_distribution():
    """After a short training: marginals, the dynamics and the end's share of a world that is known."""
    torch.manual_seed(0)
    model, data = TransitionDiffusion(1, 1, width=96, num_layers=3), lively(20_000)
    model.fit_statistics(as_episodes(data))
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(700):
        loss = model.loss(data.at(torch.randint(20_000, (256,))))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    synthesizer = SynthER(model, EDMSampler(num_steps=18, s_churn=0.0))
    made = synthesizer.synthesize(None, torch.zeros(4000, 1), torch.Generator().manual_seed(0))[0]
    assert made.obs.shape == (4000, 2, 1) and made.valid.all()
    made = made.transitions()
    for real, ours in zip(data.table().T[:4], made.table().T[:4], strict=True):
        assert kolmogorov_distance(real, ours) < 0.06
    assert (made.next_obs - (made.obs / 2 + made.act)).abs().median() < 0.1
    assert made.terminal.float().mean().item() == pytest.approx(data.terminal.float().mean().item(), abs=0.03)
    assert (made.terminal == (made.obs[:, 0] > 1)).float().mean() > 0.95

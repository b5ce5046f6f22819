"""Figures about synthetic transitions where the right ones are known."""

import pytest
import torch

from dydiff.analysis.transition_quality import kolmogorov_distance, measure_quality
from dydiff.data.tasks import HOPPER
from dydiff.envs.play import collect_episodes


def hop(obs):
    return torch.sin(obs[:, :3] * 7)


def test_kolmogorov_distance():
    even = torch.arange(1000) / 1000
    assert kolmogorov_distance(even, even) == 0
    assert kolmogorov_distance(even, even + 2) == 1
    assert kolmogorov_distance(even, even * 2).item() == pytest.approx(0.5, abs=2e-3)
    assert kolmogorov_distance(even, even[:500]).item() == pytest.approx(0.5, abs=2e-3)


def test_real_transitions_have_no_dynamics_error_and_wrong_ones_theirs():
    data = collect_episodes(HOPPER, hop, 600, seed=0).transitions
    right = measure_quality(data, data, HOPPER)
    scale = data.obs.std(0, correction=0)
    wrong = measure_quality(data._replace(next_obs=data.next_obs + 0.3 * scale, terminal=~data.terminal), data, HOPPER)
    assert right.distances.max() == 0 and right.correlation_error == 0 and right.terminal_agreement == 1
    assert right.dynamics_error.median() < 1e-4
    assert wrong.dynamics_error.median().item() == pytest.approx(0.09, rel=0.1)
    assert wrong.terminal_agreement < 0.5 and wrong.distances.max() > 0.1

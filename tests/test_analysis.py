"""The horizon error of synthesizers whose error is known."""

import numpy as np
import pytest
import torch

from dydiff.analysis.horizon_error import Curve, crossing, measure
from dydiff.data.d4rl import D4RLSource
from dydiff.data.episodes import Trajectories
from dydiff.data.tasks import HOPPER
from dydiff.envs.replay import real_rollout
from dydiff.errors import UserError
from dydiff.rollout.base import Synthesizer

LENGTH = 7


class RealEnvironment(Synthesizer):
    """The perfect synthesizer, with a known error added to every made state."""

    rollout_length = LENGTH

    def __init__(self, error=0.0):
        super().__init__()
        self.error = error

    def synthesize(self, policy, start_obs, generator=None):
        obs, act, _ = real_rollout(HOPPER, start_obs, policy, LENGTH)
        obs[:, 1:] += self.error
        reward = torch.zeros(act.shape[:2])
        return Trajectories.cut(obs, act, reward, reward.bool()), {}


@pytest.fixture
def episodes(tmp_path, write_dataset):
    """Standing Hoppers in slow motion, so that no state lies outside what an observation shows."""
    random = np.random.default_rng(0)
    obs = random.normal(scale=0.05, size=(30, 11)).astype(np.float32)
    obs[:, 0] += 1.25
    path = write_dataset((30,), observations=obs, next_observations=np.roll(obs, -1, axis=0))
    return D4RLSource(path=str(path)).load()


def policy(obs):
    return torch.tanh(obs[:, :3] - 1)


def test_errors_are_the_known_ones(episodes):
    scale = episodes.transitions.obs.std(0, correction=0)
    wrong = 0.3 * scale
    curves = measure({"real": RealEnvironment(), "wrong": RealEnvironment(wrong)}, HOPPER, episodes, policy)
    assert [(curve.actions, curve.synthesizer) for curve in curves] == [
        (actions, name) for actions in ("recorded", "policy", "on-policy") for name in ("real", "wrong")
    ]
    for curve in curves:
        expected = 0.09 if curve.synthesizer == "wrong" else 0.0
        assert curve.errors.shape == (24, LENGTH - 1)
        torch.testing.assert_close(curve.mean, torch.full((LENGTH - 1,), expected), atol=1e-4, rtol=0)
        torch.testing.assert_close(curve.median, curve.mean, atol=1e-4, rtol=0)


def test_synthesizers_of_different_lengths_are_refused(episodes):
    short = RealEnvironment()
    short.rollout_length = 3
    with pytest.raises(UserError, match=r"one rollout_length, not \[3, 7\]"):
        measure({"long": RealEnvironment(), "short": short}, HOPPER, episodes)


def test_crossing_is_the_first_step_that_stays_below():
    reference = Curve("recorded", "reference", torch.full((1, 5), 1.0), 0.0)

    def against(*errors):
        return crossing(Curve("recorded", "other", torch.tensor([errors]), 0.0), reference)

    assert against(2.0, 0.5, 2.0, 0.5, 0.5) == 4
    assert against(0.5, 0.5, 0.5, 0.5, 0.5) == 1
    assert against(0.5, 0.5, 0.5, 0.5, 2.0) is None

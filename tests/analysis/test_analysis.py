"""The horizon error of synthesizers whose error is known."""

import numpy as np
import pytest
import torch

from dydiff.analysis.horizon_error import Curve, crossing, measure
from dydiff.analysis.rollout_outcomes import compare, value_bias
from dydiff.analysis.theory import error_bound, lemma_1, theorem_1
from dydiff.analysis.theory import measure as theory_of
from dydiff.data.episodes import Trajectories
from dydiff.data.local import LocalSource
from dydiff.data.tasks import HOPPER
from dydiff.data.termination import never
from dydiff.envs.real_rollout import RecordedActions, real_rollout
from dydiff.rollout.autoregressive import Autoregressive
from dydiff.rollout.base import Synthesizer
from dydiff.rollout.dydiff import DyDiff
from dydiff.rollout.filters import Hardmax
from dydiff.utils.errors import UserError

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
    return LocalSource(path=str(path), terminated=never).load()


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


def test_bounds_are_the_papers():
    """Lemma 1, Theorem 1, their ratio, and the limits of eq. 17."""
    assert lemma_1(2.0, 0.9, 0.1) == pytest.approx(2 * 2 * 0.9 * 0.1 / 0.01)
    assert theorem_1(2.0, 0.9, 0.1) == pytest.approx(2 * 2 * 0.1 / 0.1)
    assert lemma_1(1, 0.99, 0.3) / theorem_1(1, 0.99, 0.2) == pytest.approx(0.99 / 0.01 * 0.3 / 0.2)
    assert error_bound(0.5, 0, 32, 0.01, 0.2) == pytest.approx(0.32)
    assert error_bound(0.5, 2, 32, 0.01, 0.2) == pytest.approx(0.25 * 0.32 + 0.2 * (1 - 0.25) / 0.5)
    assert error_bound(0.5, 60, 32, 0.01, 0.2) == pytest.approx(0.4)
    assert error_bound(1.0, 3, 32, 0.01, 0.2) == pytest.approx(0.32 + 0.6)


def test_outcomes_are_counted_and_kept_by_what_was_made():
    """Four rollouts of two steps: one falls really and as made, one really only, one as made only."""
    fall, stand = (True, False), (False, False)
    flags = {"real": (fall, fall, stand, stand), "made": (fall, stand, fall, stand)}
    rewards = {"real": [1.0, 2.0, 3.0, 4.0], "made": [1.0, 9.0, 3.0, 4.0]}
    obs, act = torch.zeros(4, 3, 2), torch.zeros(4, 2, 1)
    made, real = (
        Trajectories.cut(obs, act, torch.tensor(rewards[kind])[:, None].expand(4, 2), torch.tensor(flags[kind]))
        for kind in ("made", "real")
    )
    outcomes = compare(made, real, Hardmax(keep_ratio=0.5).choose(made))
    assert outcomes.terminal == outcomes.really_terminal == outcomes.found == outcomes.false_alarms == 0.5
    assert outcomes.made_return == (1 + 18 + 3 + 8) / 4 and outcomes.real_return == (1 + 2 + 6 + 8) / 4
    # Kept are the second and the fourth: what was made promises 13 each, there is 5, and one of the two really falls.
    assert (outcomes.made_return_kept, outcomes.real_return_kept, outcomes.really_terminal_kept) == (13, 5, 0.5)
    same = compare(real, real, Hardmax(keep_ratio=0.5).choose(real))
    assert same.found == 1 and same.false_alarms == 0 and same.correlation == pytest.approx(1)


def test_the_error_of_the_value_bias_is_over_rollouts(episodes):
    """Transitions of a rollout that err together are no more evidence than one of them."""
    obs, act, _ = real_rollout(HOPPER, episodes.transitions.obs[:20], lambda obs: torch.zeros(len(obs), 3), LENGTH)
    errors = torch.randn(20, generator=torch.Generator().manual_seed(0))
    next_obs = obs[:, 1:].clone()
    next_obs[..., 0] += errors[:, None]
    made = Trajectories.cut(obs, act, torch.zeros(20, LENGTH), torch.zeros(20, LENGTH).bool(), next_obs)
    mean, error = value_bias(made, HOPPER, lambda states: states[:, 0], 20 * LENGTH)
    assert mean == pytest.approx(float(errors.mean()), abs=1e-5)
    assert error == pytest.approx(float(errors.std(correction=0)) / 20**0.5, rel=1e-4)


@pytest.mark.parametrize("error", [0.0, 0.25, -0.5])
def test_value_bias_is_what_made_next_states_are_worth_beyond_the_real_ones(episodes, error):
    """Valued by the height alone, an error of the height is the bias; falls are worth nothing, made or real."""
    start = episodes.transitions.obs[:20]
    obs, act, _ = real_rollout(HOPPER, start, lambda obs: torch.zeros(len(obs), 3), LENGTH)
    next_obs = obs[:, 1:].clone()
    next_obs[..., 0] += error
    nothing = torch.zeros(20, LENGTH)

    def bias(terminal):
        made = Trajectories.cut(obs, act, nothing, terminal, next_obs)
        return value_bias(made, HOPPER, lambda states: states[:, 0], 1000)

    mean, deviation = bias(nothing.bool())
    assert mean == pytest.approx(error, abs=1e-5) and deviation < 1e-5
    one_step = nothing.bool()
    one_step[:, 0] = True  # made falls where there are none: the real heights are missed
    assert bias(one_step)[0] == pytest.approx(-float(obs[:, 1, 0].mean()), abs=1e-5)


class Hopper:
    """Parts of DyDiff that are the real environment, but for known errors."""

    def __init__(self, step_error=0.0, state_error=0.0):
        self.step_error = step_error
        self.state_error = state_error

    def step(self, obs, act, generator=None, sample=True):
        return real_rollout(HOPPER, obs, lambda _: act, 1)[0][:, 1] + self.step_error

    def sample_states(self, obs, act, sampler, generator=None):
        true = real_rollout(HOPPER, obs[:, 0], RecordedActions(act), act.shape[1])[0][:, :-1]
        return torch.cat([true[:, :1], true[:, 1:] + self.state_error], dim=1)


def test_constants_are_the_known_ones(episodes):
    """A denoiser with one constant error, a linear policy: eps_d, C_pi and the coverage have closed forms."""
    data = episodes.transitions.obs
    scale = data.std(0, correction=0) + 1e-6
    parts = Hopper(step_error=0.01 * scale, state_error=0.1 * scale)
    synthesizer, draft = DyDiff.__new__(DyDiff), Autoregressive.__new__(Autoregressive)
    for each in (synthesizer, draft):
        torch.nn.Module.__init__(each)
        each.rollout_length = 4
    draft.dynamics, draft.reward = parts, lambda obs, act: torch.ones(act.shape[:-1])
    draft.sample_states = draft.clip_states = False
    synthesizer.draft, synthesizer.denoiser = draft, parts
    synthesizer.sampler, synthesizer.state_blend = None, 1.0

    def linear(obs):
        return 0.1 * (obs / scale)[:, :3].clamp(-5, 5)

    constants, iterations = theory_of(synthesizer, HOPPER, linear, data, data[:20], 0.99, 2, 0)
    assert constants.eps_m == pytest.approx(0.01, rel=1e-2)
    assert constants.eps_d == pytest.approx(0.1, rel=1e-2)
    # Actions answer to 3 of 11 disturbed dimensions, by a tenth: both means are over their own dimensions.
    assert constants.c_pi == pytest.approx(0.1, rel=0.15)
    assert constants.c_d > 0 and len(iterations) == 3
    assert iterations[0].inconsistency == 0 and iterations[1].inconsistency > 0
    assert all(each.return_gap == 0 for each in iterations)
    assert iterations[0].coverage > 0

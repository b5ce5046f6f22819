"""Algorithm 1 in a world where the right answer is known, and the filters."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from linear import ExactDenoiser, ExactDynamics, ExactReward, episodes, policy, true_reward, true_rollout, true_step

from dydiff.data.episodes import Trajectories
from dydiff.data.tasks import HOPPER, never
from dydiff.models.denoiser import Denoiser
from dydiff.models.dynamics import DynamicsEnsemble
from dydiff.models.edm import EDMSampler
from dydiff.models.reward import RewardModel
from dydiff.rollout.autoregressive import Autoregressive
from dydiff.rollout.dydiff import DyDiff
from dydiff.rollout.filters import Hardmax, Softmax
from dydiff.utils.errors import UserError


def real_rollout(start, length):
    obs, states, actions = start, [start], []
    for _ in range(length):
        actions.append(policy(obs))
        obs = true_rollout(obs, actions[-1][:, None])[:, 1]
        states.append(obs)
    return torch.stack(states, 1), torch.stack(actions, 1)


@pytest.mark.parametrize("num_corrections", [0, 1, 3])
@pytest.mark.parametrize("state_blend", [0.5, 1.0])
def test_exact_parts_give_the_true_rollout(num_corrections, state_blend):
    start = torch.randn(6, 3)
    synthesizer = DyDiff(
        ExactDenoiser(), ExactDynamics(), ExactReward(), 10, num_corrections, state_blend=state_blend
    )  # fmt: skip
    trajectories, figures = synthesizer.synthesize(policy, start)
    states, actions = real_rollout(start, 10)
    torch.testing.assert_close(trajectories.obs, states)
    torch.testing.assert_close(trajectories.act, actions)
    torch.testing.assert_close(trajectories.reward, true_reward(states[:, :-1], actions))
    assert trajectories.valid.all() and not trajectories.terminal.any()
    assert len(figures) == 2 * num_corrections
    assert all(value.shape == (6,) and value.max() < 1e-5 for value in figures.values())


def test_corrections_converge_to_the_true_rollout_from_a_wrong_draft():
    """Eq. 7-9: each correction gives states of the true dynamics under the last actions, so the error must shrink."""
    start = torch.randn(50, 3)
    states, _ = real_rollout(start, 8)
    errors = []
    for num_corrections in range(5):
        synthesizer = DyDiff(ExactDenoiser(), ExactDynamics(bias=0.05), ExactReward(), 8, num_corrections)
        made = synthesizer.synthesize(policy, start)[0]
        errors.append((made.obs[:, :-1] - states[:, :-1]).abs().mean().item())
        if num_corrections:  # the states are the true dynamics' under the actions before the last correction of them
            torch.testing.assert_close(made.act, policy(made.obs[:, :-1].flatten(0, 1)).unflatten(0, (50, 8)))
    assert all(later < 0.6 * earlier for earlier, later in pairwise(errors))


def test_state_blend_is_the_share_of_the_new_states():
    start, draft_bias = torch.zeros(4, 3), 0.1
    blended, taken = (
        DyDiff(ExactDenoiser(), ExactDynamics(bias=draft_bias), ExactReward(), 5, 1, state_blend=blend)
        for blend in (0.5, 1.0)
    )
    draft = blended.draft.roll_out(policy, start)[0]
    new = taken.synthesize(policy, start)[0].obs
    torch.testing.assert_close(blended.synthesize(policy, start)[0].obs[:, :-1], (draft + new)[:, :-1] / 2)


class Source:
    """Stands in for a dataset: the linear world's."""

    task = replace(HOPPER, terminated=never)

    def load(self):
        return episodes()


def test_clipped_drafts_stay_within_the_data():
    data = episodes().transitions
    low, high = torch.stack([data.obs, data.next_obs]).flatten(0, 1).aminmax(dim=0)
    runaway = Autoregressive(ExactDynamics(bias=0.5), ExactReward(), 20, clip_states=True)
    runaway.attach(Source())
    made = runaway.synthesize(policy, data.obs[:6])[0].obs
    assert (made >= low).all() and (made <= high).all() and (made == high).any()
    first = true_rollout(data.obs[:6], policy(data.obs[:6])[:, None])[:, 1] + 0.5
    torch.testing.assert_close(made[:, 1], first.clamp(low, high))


def test_corrected_states_stay_within_the_data():
    class Runaway(ExactDenoiser):
        def sample_states(self, obs, act, sampler, generator=None):
            return obs + 9.0

    data = episodes().transitions
    low, high = torch.stack([data.obs, data.next_obs]).flatten(0, 1).aminmax(dim=0)
    synthesizer = DyDiff(Runaway(), ExactDynamics(), ExactReward(), 5, 1)
    synthesizer.attach(Source())
    made = synthesizer.synthesize(policy, data.obs[:6])[0]
    torch.testing.assert_close(made.obs[:, :-1], high.expand(6, 5, 3))
    torch.testing.assert_close(made.act, policy(high[None]).expand(6, 5, 2))
    assert (made.next_obs >= low).all() and (made.next_obs <= high).all()


def test_drafts_of_means_have_no_noise():
    """One elite leaves no other choice to make."""
    ensemble = DynamicsEnsemble(3, 2, num_members=1, num_elites=1)
    start = torch.randn(5, 3)
    for sample_states, alike in ((False, True), (True, False)):
        synthesizer = Autoregressive(ensemble, ExactReward(), 3, sample_states=sample_states)
        seeds = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
        first, second = (synthesizer.roll_out(policy, start, generator)[0] for generator in seeds)
        assert torch.allclose(first, second, atol=1e-5) == alike


def test_a_trajectory_ends_where_its_own_states_fall_too():
    """The denoiser's states fall, the dynamics' next states from them do not: nothing goes on from a fallen state."""

    class Falling(ExactDenoiser):
        def sample_states(self, obs, act, sampler, generator=None):
            states = super().sample_states(obs, act, sampler, generator)
            states[:, 2] = 100.0
            return states

    synthesizer = DyDiff(Falling(), ExactDynamics(bias=-50.0), ExactReward(), 5, 1, next_states="dynamics")
    synthesizer.draft.terminated = lambda obs, act, next_obs: (next_obs > 60).any(-1)
    made = synthesizer.synthesize(policy, torch.randn(4, 3))[0]
    assert made.terminal.nonzero()[:, 1].unique().tolist() == [1]
    assert not (made.transitions().obs > 60).any() and (made.lengths == 2).all()
    fell = made.next_obs[:, 1]
    assert torch.equal(fell, made.obs[:, 2]) and (fell == 100).all()  # not the healthy one of the dynamics
    assert (made.next_obs[:, 0] < 60).all() and not torch.equal(made.next_obs[:, 0], made.obs[:, 1])


def test_elites_by_themselves_are_what_a_step_draws_from():
    torch.manual_seed(0)
    ensemble = DynamicsEnsemble(3, 2, num_members=4, num_elites=3)
    ensemble.elites.copy_(torch.tensor([3, 0, 2]))
    obs, act = torch.randn(30, 3), torch.rand(30, 2)
    means, drawn = ensemble.elite_means(obs, act), ensemble.step(obs, act, sample=False)
    closest = (means - drawn).abs().amax(-1).min(0)
    assert means.shape == (3, 30, 3) and closest.values.max() < 1e-5
    assert closest.indices.unique().tolist() == [0, 1, 2]


def test_next_states_of_the_dynamics_follow_from_the_corrected_ones():
    """A denoiser that is wrong by a constant spoils the trajectory's own next states, not these."""

    class Shifted(ExactDenoiser):
        def sample_states(self, obs, act, sampler, generator=None):
            states = super().sample_states(obs, act, sampler, generator)
            return torch.cat([states[:, :1], states[:, 1:] + 0.3], dim=1)

    start = torch.randn(6, 3)
    made = {}
    for source in ("trajectory", "dynamics"):
        synthesizer = DyDiff(Shifted(), ExactDynamics(), ExactReward(), 5, 1, next_states=source)
        made[source] = synthesizer.synthesize(policy, start)[0]
    assert torch.equal(made["trajectory"].obs, made["dynamics"].obs)
    obs, act, _, next_obs, _ = made["dynamics"].transitions()
    torch.testing.assert_close(next_obs, true_rollout(obs, act[:, None])[:, 1])
    obs, act, _, next_obs, _ = made["trajectory"].transitions()
    assert (next_obs - true_rollout(obs, act[:, None])[:, 1]).abs().max() > 0.02
    assert torch.equal(next_obs.view(6, 5, 3), made["trajectory"].obs[:, 1:])


class Valuing:
    """The linear world's policy, with values."""

    def __init__(self, value):
        self.value = value

    def __call__(self, obs):
        return policy(obs)


@pytest.mark.parametrize("kind", [Autoregressive, DyDiff])
def test_pessimistic_next_states_are_the_elites_least_valued_ones(kind):
    """Of three elites' predictions, by values that fall and rise with the state; a fall is worth nothing."""
    biases = torch.tensor([0.2, -0.3, 0.1])

    class Elites(ExactDynamics):
        def elite_means(self, obs, act):
            return true_step(obs, act) + biases[:, None, None]

    parts = (Elites(), ExactReward()) if kind is Autoregressive else (ExactDenoiser(), Elites(), ExactReward())
    synthesizer = kind(*parts, 5, next_states="pessimistic")
    start = torch.randn(6, 3)

    def bias_chosen(value):
        obs, act, _, next_obs, terminal = synthesizer.synthesize(Valuing(value), start)[0].transitions()
        return (next_obs - true_step(obs, act)).mean(1), terminal

    same = torch.ones(30)
    torch.testing.assert_close(bias_chosen(lambda obs: obs.sum(1))[0], -0.3 * same)
    torch.testing.assert_close(bias_chosen(lambda obs: -obs.sum(1))[0], 0.2 * same)
    # The second elite always falls, to nothing: less than the others where they are worth something, more where less.
    draft = synthesizer if kind is Autoregressive else synthesizer.draft
    draft.terminated = lambda obs, act, next_obs: (next_obs - true_step(obs, act)).mean(-1) < -0.2
    for sign, bias, count in ((1, -0.3, 6), (-1, 0.1, 30)):
        chosen, terminal = bias_chosen(lambda obs, sign=sign: sign * (5 - 0.01 * obs.sum(1)))
        torch.testing.assert_close(chosen, torch.full((count,), bias))
        assert terminal.all() == (sign > 0) and terminal.any() == (sign > 0)


class Disagreeing(ExactDynamics):
    """Elites that disagree as much as the first dimension of the state is large."""

    def disagreement(self, obs, act):
        return obs[:, 0].abs()


@pytest.mark.parametrize("kind", [Autoregressive, DyDiff])
@pytest.mark.parametrize("share", [0.8, 0.95, 1.0])
def test_rollouts_are_cut_where_the_elites_disagree(kind, share):
    """From the first step whose first dimension is larger than in a share of the data, and without a terminal."""
    parts = (
        (Disagreeing(), ExactReward()) if kind is Autoregressive else (ExactDenoiser(), Disagreeing(), ExactReward())
    )
    synthesizer = kind(*parts, 9, clip_states=False, max_disagreement=share)
    synthesizer.attach(Source())
    start = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)) * 1.5
    made, figures = synthesizer.synthesize(policy, start)
    limit = episodes().transitions.obs[:, 0].abs().quantile(share)
    states, _ = real_rollout(start, 9)
    too_large = states[:, :-1, 0].abs() > limit
    first = torch.where(too_large.any(1), too_large.int().argmax(1), 9)
    assert torch.equal(made.lengths, first) and 0 < (first < 9).sum() < 64
    assert torch.equal(made.valid, torch.arange(9) < first[:, None])
    assert torch.equal(figures["cut_share"], (first < 9).float()) and not made.terminal.any()
    assert len(made.transitions().reward) == first.sum()


def test_a_rollout_that_has_ended_is_not_cut():
    """Disagreement about what follows a terminal state does not matter."""
    synthesizer = Autoregressive(Disagreeing(), ExactReward(), 9, clip_states=False, max_disagreement=0.5)
    synthesizer.attach(Source())
    synthesizer.terminated = lambda obs, act, next_obs: torch.ones(obs.shape[:-1]).bool()
    start = torch.tensor([[0.01, 0.0, 0.0], [50.0, 0.0, 0.0]])
    made, figures = synthesizer.synthesize(policy, start)
    assert made.lengths.tolist() == [1, 0] and figures["cut_share"].tolist() == [0.0, 1.0]


def test_without_a_largest_disagreement_nothing_is_cut():
    made, figures = Autoregressive(ExactDynamics(), ExactReward(), 9).synthesize(policy, torch.randn(64, 3) * 9)
    assert made.valid.all() and "cut_share" not in figures


@pytest.mark.parametrize("kind", [Autoregressive, DyDiff])
@pytest.mark.parametrize("share", [None, 0.8])
def test_rewards_lose_the_weighted_disagreement_of_their_step(kind, share):
    """MOPO's ``r - lambda u(s, a)``; the trajectories are those without it, and cut alike."""
    parts = (
        (Disagreeing(), ExactReward()) if kind is Autoregressive else (ExactDenoiser(), Disagreeing(), ExactReward())
    )
    start, made = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)) * 1.5, []
    for penalty in (0.0, 2.5):
        options = {"clip_states": False, "max_disagreement": share, "reward_penalty": penalty}
        synthesizer = kind(*parts, 9, **options)
        synthesizer.attach(Source())
        made.append(synthesizer.synthesize(policy, start))
    (plain, figures), (penalised, more) = made
    lost = 2.5 * plain.obs[:, :-1, 0].abs()
    torch.testing.assert_close(plain.reward - penalised.reward, lost)
    for field in ("obs", "act", "next_obs", "terminal", "valid"):
        assert torch.equal(getattr(plain, field), getattr(penalised, field))
    expected = [float(row[kept].mean()) if kept.any() else 0.0 for row, kept in zip(lost, plain.valid, strict=True)]
    torch.testing.assert_close(more.pop("reward_penalty"), torch.tensor(expected))
    assert set(more) == set(figures)


@pytest.mark.parametrize("length", [1, 2, 10])
def test_every_length_up_to_the_horizon(length):
    synthesizer = DyDiff(ExactDenoiser(), ExactDynamics(), ExactReward(), length, 2)
    made = synthesizer.synthesize(policy, torch.randn(3, 3))[0]
    assert made.obs.shape == (3, length + 1, 3) and made.act.shape == (3, length, 2)
    torch.testing.assert_close(made.obs, real_rollout(made.obs[:, 0], length)[0])


def test_longer_than_the_horizon_is_refused():
    with pytest.raises(UserError, match=r"rollout_length \(11\) is longer than the denoiser's horizon \(10\)"):
        DyDiff(ExactDenoiser(), ExactDynamics(), ExactReward(), 11)


@pytest.mark.parametrize(
    "setting",
    [
        {"state_blend": 0.0},
        {"num_corrections": -1},
        {"rollout_length": 0},
        {"max_disagreement": 0.0},
        {"reward_penalty": -1.0},
    ],
)
def test_impossible_settings(setting):
    arguments = {"rollout_length": 5} | setting
    with pytest.raises(UserError, match=next(iter(setting))):
        DyDiff(ExactDenoiser(), ExactDynamics(), ExactReward(), **arguments)


def test_what_follows_a_terminal_state_is_neither_scored_nor_stored():
    def falls(obs, act, next_obs):
        return next_obs[..., 0] > 0.4

    synthesizer = Autoregressive(ExactDynamics(), ExactReward(), 9)
    synthesizer.terminated = falls
    start = torch.randn(64, 3) * 0.4
    made = synthesizer.synthesize(policy, start)[0]
    states, actions = real_rollout(start, 9)
    for row in range(64):
        fallen = (states[row, 1:, 0] > 0.4).nonzero()
        alive = int(fallen[0]) + 1 if len(fallen) else 9
        assert made.lengths[row] == alive
        expected = true_reward(states[row, :alive], actions[row, :alive]).sum()
        torch.testing.assert_close(made.returns[row], expected, atol=1e-5, rtol=1e-4)
    stored = made.transitions()
    assert (
        len(stored.reward) == made.lengths.sum()
        and stored.terminal.sum() == (made.lengths < 9).sum() + ((made.lengths == 9) & made.terminal[:, -1]).sum()
    )


def test_draft_noise_is_the_generators():
    """The same generator gives the same rollout, whatever the global state of random numbers."""
    parts = Denoiser(3, 2, horizon=8, width=8, multipliers=(1, 2)), DynamicsEnsemble(3, 2), RewardModel(3, 2)
    synthesizer = DyDiff(*parts, rollout_length=8, sampler=EDMSampler(num_steps=3))
    start, made = torch.randn(5, 3), []
    for _ in range(2):
        torch.rand(3)
        made.append(synthesizer.synthesize(policy, start, torch.Generator().manual_seed(4))[0])
    assert torch.equal(made[0].obs, made[1].obs)


def with_returns(returns):
    count = len(returns)
    flags = torch.zeros(count, 1).bool()
    return Trajectories.cut(torch.zeros(count, 2, 1), torch.zeros(count, 1, 1), returns[:, None], flags)


class TestFilters:
    def test_softmax_probabilities_equal_the_authors(self, golden):
        g = golden("softmax_filter")
        probabilities = Softmax(float(g["temperature"])).log_probs(g["returns"]).exp()
        torch.testing.assert_close(probabilities, g["probabilities"].to(probabilities), atol=2e-12, rtol=1e-4)
        torch.testing.assert_close(probabilities.sum(), torch.ones(()).to(probabilities))

    @pytest.mark.parametrize("shape", ["normal", "left-skewed"])
    def test_softmax_keeps_what_the_authors_draw_keeps(self, shape):
        """How often each of 64 trajectories is among the 60% kept, against NumPy's draw without replacement."""
        count, draws, random = 64, 4000, np.random.default_rng(0)
        returns = random.normal(size=count) if shape == "normal" else 100 - 20 * random.gamma(1.0, size=count)
        logits = (returns - returns.mean()) / (returns.std() + 1e-6) / 0.05
        softmax = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        authors = softmax * (1 - 1e-6) + 1e-6 / count
        kept = [random.choice(count, 38, replace=False, p=authors) for _ in range(draws)]
        expected = np.bincount(np.concatenate(kept), minlength=count) / draws
        trajectories, generator = with_returns(torch.tensor(returns).float()), torch.Generator().manual_seed(0)

        def difference(floor):
            filter = Softmax(floor=floor)
            kept = torch.cat([filter.choose(trajectories, generator) for _ in range(draws)])
            return np.abs(kept.bincount(minlength=count).numpy() / draws - expected)

        assert difference(1e-6).max() < 0.05 and difference(1e-6).mean() < 0.015
        assert difference(0.0).max() > 0.3

    def test_softmax_top_keys_are_a_draw_without_replacement(self):
        """The first two of three by Gumbel top-k, against the exact probabilities of such draws."""
        returns, temperature, draws = torch.tensor([0.0, 1.0, 2.5]), 1.0, 20_000
        softmax, generator = Softmax(temperature), torch.Generator().manual_seed(0)
        p = softmax.log_probs(returns).exp()
        trajectories = with_returns(returns)
        tops = torch.stack([softmax.keys(trajectories, generator).topk(2).indices for _ in range(draws)])
        for first in range(3):
            for second in set(range(3)) - {first}:
                expected = p[first] * p[second] / (1 - p[first])
                observed = ((tops[:, 0] == first) & (tops[:, 1] == second)).float().mean()
                assert observed.item() == pytest.approx(expected.item(), abs=0.012)

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=20, unique=True), st.integers(1, 19))
    def test_hardmax_keeps_the_best(self, returns, count):
        returns = torch.tensor(returns)
        count = min(count, len(returns))
        kept = Hardmax().keys(with_returns(returns)).topk(count).indices
        assert set(kept.tolist()) == set(returns.argsort(descending=True)[:count].tolist())

    def test_equal_returns_are_drawn_evenly(self):
        softmax, generator = Softmax(), torch.Generator().manual_seed(0)
        tops = [int(softmax.keys(with_returns(torch.ones(4)), generator).argmax()) for _ in range(4000)]
        assert torch.tensor(tops).bincount(minlength=4).min() > 900

    @pytest.mark.parametrize(
        "setting", [{"temperature": 0.0}, {"keep_ratio": 0.0}, {"keep_ratio": 1.1}, {"floor": -0.1}]
    )
    def test_impossible_settings(self, setting):
        with pytest.raises(UserError, match=next(iter(setting))):
            Softmax(**setting)

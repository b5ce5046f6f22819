"""The motivating experiment's data: from the real environment, and from what a split holds back."""

from dataclasses import replace

import pytest
import torch

from dydiff.data.local import LocalSource
from dydiff.data.split import SplitSource
from dydiff.data.tasks import HALFCHEETAH, HOPPER
from dydiff.envs.play import collect_episodes
from dydiff.envs.real_rollout import RecordedActions, real_rollout, restorable
from dydiff.models.reward import RewardModel
from dydiff.rollout.real import HeldBackData, RealEnvironment, RealRollouts, RealTransitions
from dydiff.utils.errors import UserError


def hop(obs):
    return torch.sin(obs[:, :3] * 7)


def test_collected_transitions_are_the_environments():
    made = collect_episodes(HOPPER, hop, 333, seed=1).transitions
    assert len(made.reward) == 333 and 0 < made.terminal.sum() < 100
    kept = made.at(restorable(HOPPER, made.obs))
    truth = real_rollout(HOPPER, kept.obs, RecordedActions(kept.act[:, None]), 1)[0][:, 1]
    assert (truth - kept.next_obs).abs().median() < 1e-3  # but for the warm start of the contact solver
    assert torch.equal(HOPPER.terminated(made.obs, made.act, made.next_obs), made.terminal)
    torch.testing.assert_close(made.act, hop(made.obs).clamp(-1, 1))


def test_collected_episodes_lie_one_after_the_other():
    """Within an episode each state is the one that the step before reached; ends are falls or the collection's."""
    episodes = collect_episodes(HOPPER, hop, 333, seed=1)
    data, ends = episodes.transitions, episodes.lengths.cumsum(0) - 1
    assert ends[-1] == 332 and ((data.terminal | episodes.timeout).nonzero().flatten() == ends).all()
    inside = torch.ones(332, dtype=torch.bool)
    inside[ends[:-1]] = False
    assert torch.equal(data.next_obs[:-1][inside], data.obs[1:][inside])
    assert not (data.terminal & episodes.timeout).any()


def test_on_policy_data_follow_the_generator(write_dataset):
    synthesizer = RealEnvironment()
    synthesizer.attach(LocalSource(path=str(write_dataset())))
    first, again, other = (
        synthesizer.synthesize(hop, torch.zeros(25, 11), torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2)
    )
    assert torch.equal(first.obs, again.obs) and not torch.equal(first.obs, other.obs)
    assert first.act.shape == (25, 1, 3)


def test_on_policy_episodes_are_whole(tmp_path):
    """HalfCheetah never falls: as many transitions as two episodes have are two episodes."""
    synthesizer = RealEnvironment()
    synthesizer.task = replace(HALFCHEETAH, episode_limit=30)
    made = synthesizer.synthesize(lambda obs: torch.zeros(len(obs), 6), torch.zeros(60, 17))[0].transitions()
    goes_on = (made.next_obs[:-1] == made.obs[1:]).all(-1)
    assert (~goes_on).nonzero().flatten().tolist() == [29]


def test_real_rollouts_go_on_from_the_datas_states_as_the_environment_does(write_dataset):
    made = collect_episodes(HOPPER, hop, 333, seed=1).transitions
    data = made.at(restorable(HOPPER, made.obs) & restorable(HOPPER, made.next_obs))
    synthesizer = RealRollouts(RewardModel(11, 3, hidden_sizes=(8,)), rollout_length=6)
    synthesizer.attach(LocalSource(path=str(write_dataset())))
    rolled, figures = synthesizer.synthesize(hop, data.obs)
    assert figures == {} and torch.equal(rolled.obs[:, 0], data.obs)
    assert (rolled.obs[:, 1] - data.next_obs).abs().median() < 1e-3
    acted = hop(rolled.obs[:, :-1].flatten(0, 1)).clamp(-1, 1)
    torch.testing.assert_close(rolled.act, acted.unflatten(0, (-1, 6)))
    assert torch.equal(rolled.terminal, HOPPER.terminated(rolled.obs[:, :-1], rolled.act, rolled.next_obs))
    torch.testing.assert_close(rolled.reward, synthesizer.reward(rolled.obs[:, :-1], rolled.act))
    assert 0 < (rolled.lengths < 6).sum() < len(data.obs)


class Noisy(RealRollouts):
    """Real rollouts with wrong next states, whose last steps are not valid."""

    def synthesize(self, policy, start_obs, generator=None):
        made = super().synthesize(policy, start_obs, generator)[0]
        made.valid[:, -2:] = False
        wrong = made.next_obs + 0.1 * torch.randn(made.next_obs.shape, generator=generator)
        return made._replace(next_obs=wrong, terminal=~made.terminal), {"figure": wrong.mean((1, 2))}


def test_real_transitions_mend_next_states_and_terminals_alone(write_dataset):
    """Real rollouts whose next states were made wrong get their own back."""
    data = collect_episodes(HOPPER, hop, 333, seed=1).transitions
    start = data.obs[restorable(HOPPER, data.obs)][:40]
    inner = Noisy(RewardModel(11, 3, hidden_sizes=(8,)), rollout_length=6)
    synthesizer = RealTransitions(inner)
    synthesizer.attach(LocalSource(path=str(write_dataset())))
    wrong, figures = inner.synthesize(hop, start, torch.Generator().manual_seed(0))
    made, same_figures = synthesizer.synthesize(hop, start, torch.Generator().manual_seed(0))
    assert synthesizer.rollout_length == 6 and torch.equal(figures["figure"], same_figures["figure"])
    for name in ("obs", "act", "reward", "valid"):
        assert torch.equal(getattr(made, name), getattr(wrong, name)), name
    assert torch.equal(made.next_obs[~made.valid], wrong.next_obs[~made.valid])
    transitions = made.transitions()
    error = (transitions.next_obs - made.obs[:, 1:][made.valid]).abs().amax(1)
    shown = restorable(HOPPER, transitions.obs)
    assert error[shown].median() < 1e-3 and len(error) > 100
    really = HOPPER.terminated(transitions.obs, transitions.act, transitions.next_obs)
    assert torch.equal(transitions.terminal, really) and 0 < really.sum() < len(really)


def test_a_split_and_what_it_holds_back_are_the_dataset(write_dataset):
    whole = LocalSource(path=str(write_dataset([7] * 40, name="whole.hdf5")))
    split = SplitSource(whole, fraction=0.05)
    rows = torch.cat([split.load().transitions.obs, split.held_back().transitions.obs])
    assert len(split.load().lengths) == 2 and split.name == "whole-5pct" and split.task == whole.task
    assert sorted(rows.tolist()) == sorted(whole.load().transitions.obs.tolist())
    assert split.load().fingerprint != SplitSource(whole, 0.05, split_seed=1).load().fingerprint


def test_behaviour_data_come_from_what_is_held_back(write_dataset):
    split = SplitSource(LocalSource(path=str(write_dataset([7] * 40, name="whole.hdf5"))), fraction=0.3)
    synthesizer = HeldBackData()
    synthesizer.attach(split)
    made = synthesizer.synthesize(hop, torch.zeros(500, 11), torch.Generator().manual_seed(0))[0]
    held_back = {tuple(row) for row in split.held_back().transitions.obs.tolist()}
    drawn = {tuple(row) for row in made.obs[:, 0].tolist()}
    assert drawn <= held_back and len(drawn) > 0.8 * len(held_back)


def test_behaviour_data_need_a_split(write_dataset):
    with pytest.raises(UserError, match="SplitSource"):
        HeldBackData().attach(LocalSource(path=str(write_dataset())))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0])
def test_impossible_splits(write_dataset, fraction):
    with pytest.raises(UserError, match="fraction"):
        SplitSource(LocalSource(path=str(write_dataset())), fraction)

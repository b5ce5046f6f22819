"""Where synthetic data come in: the rollout callback and the module that mixes minibatches."""

import lightning as L
import pytest
import torch

from callbacks import SyntheticRollout
from dydiff.agents.cql import CQL
from dydiff.agents.td3bc import TD3BC
from dydiff.data.episodes import Trajectories
from dydiff.data.local import LocalSource
from dydiff.data.mixed import MixedDataModule
from dydiff.rollout.base import Synthesizer
from dydiff.rollout.filters import Hardmax
from dydiff.utils.errors import UserError

MADE = 7.5  # reward of everything synthetic, so that it can be told from real data


class Marked(Synthesizer):
    """Trajectories of two steps; the first trajectory of a chunk falls after one. Returns grow along the chunk."""

    def __init__(self):
        super().__init__()
        self.starts = []

    def synthesize(self, policy, start_obs, generator=None):
        self.starts.append(start_obs)
        count = len(start_obs)
        obs = start_obs[:, None].repeat(1, 3, 1)
        reward = torch.full((count, 2), MADE)
        terminal = torch.zeros(count, 2).bool()
        terminal[0, 0] = True
        figures = {"index": torch.arange(count).float()}
        return Trajectories.cut(obs, policy(start_obs)[:, None].repeat(1, 2, 1), reward, terminal), figures


class Batches(L.Callback):
    """Keeps what the agent was trained on."""

    def __init__(self):
        self.stacks = []

    def on_train_batch_start(self, trainer, agent, batch, batch_idx):
        self.stacks.append((trainer.current_epoch, batch))


@pytest.fixture
def train(write_dataset):
    def run(rollout, epochs=3, agent=None, **data_options):
        torch.manual_seed(0)
        options = {"batch_size": 20, "updates_per_epoch": 4, "updates_per_step": 2} | data_options
        data = MixedDataModule(LocalSource(path=str(write_dataset((30, 40)))), **options)
        batches = Batches()
        trainer = L.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0, callbacks=[batches, rollout],
        )  # fmt: skip
        trainer.fit(agent or TD3BC(11, 3, hidden_sizes=(8,)), datamodule=data)
        return data, batches.stacks

    return run


def test_chunks_bound_the_rollout_and_cover_it(train):
    synthesizer = Marked()
    data, _ = train(SyntheticRollout(synthesizer, Hardmax(), rollout_batch_size=25, chunk_size=10), epochs=2)
    assert [len(starts) for starts in synthesizer.starts] == [10, 10, 5] * 2
    real = {tuple(row.tolist()) for row in data.real.obs}
    starts = torch.cat(synthesizer.starts)
    assert {tuple(row.tolist()) for row in starts} <= real
    assert len(starts.unique(dim=0)) > 20  # chunks and epochs have random numbers of their own


@pytest.mark.parametrize(("rollout_freq", "rollouts"), [(1, 4), (2, 2), (3, 2), (9, 1), (None, 1)])
def test_rollout_freq(train, rollout_freq, rollouts):
    synthesizer = Marked()
    train(SyntheticRollout(synthesizer, Hardmax(), rollout_batch_size=5, rollout_freq=rollout_freq), epochs=4)
    assert len(synthesizer.starts) == rollouts


def test_the_kept_share_goes_into_the_buffer_without_what_follows_a_terminal(train):
    rollout = SyntheticRollout(Marked(), Hardmax(keep_ratio=0.4), rollout_batch_size=10)
    data, _ = train(rollout, epochs=1)
    assert len(data.synthetic) == 8  # the best four have two steps each; the fallen one has the lowest return
    everything = SyntheticRollout(Marked(), rollout_batch_size=10, chunk_size=10)
    data, _ = train(everything, epochs=1)
    stored = data.synthetic.at(torch.arange(len(data.synthetic)))
    assert len(data.synthetic) == 19 and stored.terminal.sum() == 1


@pytest.mark.parametrize(("real_ratio", "synthetic"), [(0.6, 8), (0.95, 1), (1.0, 0), (0.01, 19), (0.0, 20)])
def test_every_minibatch_has_its_share(train, real_ratio, synthetic):
    _, stacks = train(SyntheticRollout(Marked(), Hardmax(), real_ratio, 30))
    for _, batch in stacks:
        assert batch.reward.shape == (2, 20)
        assert ((batch.reward == MADE).sum(1) == synthetic).all()


def test_all_real_while_the_buffer_is_too_small(train):
    """Each rollout keeps 3 of 5 trajectories, 6 steps; a share of 8 is there from the second epoch on."""
    _, stacks = train(SyntheticRollout(Marked(), Hardmax(), 0.6, 5))
    for epoch, batch in stacks:
        assert ((batch.reward == MADE).sum(1) == (0 if epoch == 0 else 8)).all()


@pytest.mark.parametrize("filter", [None, Hardmax(keep_ratio=1.0)])
@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_trajectories_that_are_not_finite_never_enter_the_buffer(train, broken, filter):
    class Broken(Marked):
        def synthesize(self, policy, start_obs, generator=None):
            made, figures = super().synthesize(policy, start_obs, generator)
            made.reward[1] = broken
            made.obs[2, 2] = broken
            made.obs[0, 2] = broken  # after the fall: not a valid step
            return made, figures

    data, _ = train(SyntheticRollout(Broken(), filter, rollout_batch_size=10), epochs=1)
    stored = data.synthetic.at(torch.arange(len(data.synthetic)))
    assert len(data.synthetic) == 1 + 2 * 7
    assert all(value.isfinite().all() for value in stored)


def test_without_rollout_everything_is_real(train):
    _, stacks = train(L.Callback())
    assert not any((batch.reward == MADE).any() for _, batch in stacks)


def test_minibatches_differ_and_follow_the_seed(train):
    first, second = (train(SyntheticRollout(Marked(), Hardmax(), rollout_batch_size=30))[1] for _ in range(2))
    for (_, left), (_, right) in zip(first, second, strict=True):
        assert torch.equal(left.obs, right.obs)
    assert not torch.equal(first[0][1].obs[0], first[0][1].obs[1])


def test_updates_per_step_changes_nothing(train):
    agents = []
    for updates_per_step in (1, 2, 4):
        torch.manual_seed(1)
        agents.append(TD3BC(11, 3, hidden_sizes=(8,)))
        train(
            SyntheticRollout(Marked(), Hardmax(), rollout_batch_size=30),
            agent=agents[-1],
            updates_per_step=updates_per_step,
        )
    for agent in agents[1:]:
        for ours, theirs in zip(agent.parameters(), agents[0].parameters(), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("real_ratio", [0.6, 1.0, 0.0, None])
def test_a_minibatch_says_which_transitions_are_real(train, real_ratio):
    _, stacks = train(SyntheticRollout(Marked(), Hardmax(), real_ratio, 30))
    for _, batch in stacks:
        assert torch.equal(batch.real, batch.reward != MADE)


@pytest.mark.parametrize("real_ratio", [0.6, None])
def test_without_cloning_synthetic_actions_the_real_ones_alone_count(train, real_ratio):
    agent = TD3BC(11, 3, hidden_sizes=(8,), clone_synthetic=False)
    _, stacks = train(SyntheticRollout(Marked(), Hardmax(), real_ratio, 30), agent=agent)
    for minibatch in (stacks[-1][1].at(row) for row in (0, 1)):
        real = minibatch.reward != MADE
        act = torch.rand(20, 3)
        assert 0 < real.sum() < 20
        expected = (act[real] - minibatch.act[real]).square().mean()
        torch.testing.assert_close(agent.cloning_loss(act, minibatch), expected)
    nothing = minibatch._replace(real=torch.zeros(20).bool())
    assert agent.cloning_loss(act, nothing) == 0


@pytest.mark.parametrize(
    "setting",
    [{"rollout_freq": 0}, {"rollout_batch_size": 0}, {"chunk_size": 0}, {"real_ratio": 1.5}, {"real_ratio": -0.1},
     {"synthetic_capacity": 0}],
)  # fmt: skip
def test_impossible_settings(setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        SyntheticRollout(Marked(), Hardmax(), **setting)


def test_all_transitions_alike(train):
    """With ``real_ratio: null`` each of the 70 real and the 54 synthetic transitions is as likely as any other."""
    rollout = SyntheticRollout(Marked(), real_ratio=None, rollout_batch_size=30, rollout_freq=None, chunk_size=5)
    data, stacks = train(rollout, epochs=100)
    assert len(data.synthetic) == 54  # each of six chunks falls once
    assert data.synthetic_share == pytest.approx(54 / 124)
    drawn = torch.stack([(batch.reward == MADE).float().mean() for _, batch in stacks])
    assert drawn.mean().item() == pytest.approx(54 / 124, abs=0.02)


@pytest.mark.parametrize(("sample_actions", "differ"), [(True, True), (False, False)])
def test_rollouts_take_sampled_or_deterministic_actions(train, sample_actions, differ):
    acts = []

    class Twice(Marked):
        def synthesize(self, policy, start_obs, generator=None):
            acts.append((policy(start_obs), policy(start_obs)))
            return super().synthesize(policy, start_obs, generator)

    train(SyntheticRollout(Twice(), sample_actions=sample_actions), epochs=1, agent=CQL(11, 3, hidden_sizes=(8,)))
    assert all(torch.equal(*pair) != differ for pair in acts)


def test_the_newest_synthetic_transitions_stay(train):
    rollout = SyntheticRollout(Marked(), rollout_batch_size=10, chunk_size=10, synthetic_capacity=25)
    data, _ = train(rollout, epochs=4)
    assert len(data.synthetic) == 25


@pytest.mark.parametrize("real_ratio", [1.0, 0.6, 0.0, None])
def test_a_minibatch_knows_the_action_that_its_dataset_takes_next(train, real_ratio):
    """In ``next_obs``, that is the action of the row whose state it is; an episode's last state has none."""
    data, stacks = train(SyntheticRollout(Marked(), Hardmax(), real_ratio, 200))
    taken = {tuple(obs.tolist()): act for obs, act in zip(data.real.obs, data.real.act, strict=True)}
    known = 0
    for _, batch in stacks:
        rows = (part.flatten(0, 1) for part in (batch.next_obs, batch.real, batch.next_act))
        for next_obs, is_real, next_act in zip(*rows, strict=True):
            expected = taken.get(tuple(next_obs.tolist())) if is_real else None
            assert next_act.isnan().all() if expected is None else torch.equal(next_act, expected)
            known += expected is not None
    assert (known > 0) == (real_ratio != 0.0)

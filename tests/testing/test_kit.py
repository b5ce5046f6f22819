"""The kit passes what keeps the contracts, and says of what breaks them how."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dydiff.agents import Agent
from dydiff.data.episodes import Trajectories
from dydiff.data.local import LocalSource
from dydiff.rollout import Filter, Hardmax, Softmax, Synthesizer
from dydiff.testing import check_agent, check_filter, check_source, check_synthesizer


class Cloning(Agent):
    """A correct agent of somebody else's: no critics, no targets, nothing drawn."""

    def __init__(self, obs_dim, act_dim):
        super().__init__(obs_dim, act_dim)
        self.save_hyperparameters()
        self.actor = nn.Linear(obs_dim, act_dim)

    def configure_optimizers(self):
        return torch.optim.Adam(self.actor.parameters(), 1e-2)

    def act(self, obs, sample=False, generator=None):
        return self.actor(self.normalizer(obs)).tanh()

    def update(self, batch):
        loss = F.mse_loss(self.act(batch.obs), batch.act)
        self.minimizers[0](loss)
        return {"loss": loss.detach()}


class AdvantageWeighted(Agent):
    """A correct IQL in a few lines, with a policy that is sampled."""

    def __init__(self, obs_dim, act_dim):
        super().__init__(obs_dim, act_dim)
        self.save_hyperparameters()
        self.actor, self.value, self.critic = (
            nn.Linear(obs_dim, act_dim), nn.Linear(obs_dim, 1), nn.Linear(obs_dim + act_dim, 1))  # fmt: skip

    def configure_optimizers(self):
        return [torch.optim.Adam(each.parameters(), 1e-3) for each in (self.value, self.critic, self.actor)]

    def act(self, obs, sample=False, generator=None):
        mean = self.actor(self.normalizer(obs)).tanh()
        noise = torch.randn(mean.shape, generator=generator) if sample else 0
        return (mean + 0.1 * noise).clamp(-1, 1)

    def update(self, batch):
        minimize_value, minimize_critic, minimize_actor = self.minimizers
        obs, next_obs = self.normalizer(batch.obs), self.normalizer(batch.next_obs)
        with torch.no_grad():
            q = self.critic(torch.cat([obs, batch.act], -1))[:, 0]
            target = batch.reward + 0.99 * ~batch.terminal * self.value(next_obs)[:, 0]
        error = q - self.value(obs)[:, 0]
        value_loss = (torch.where(error > 0, 0.7, 0.3) * error.square()).mean()
        minimize_value(value_loss)
        critic_loss = F.mse_loss(self.critic(torch.cat([obs, batch.act], -1))[:, 0], target)
        minimize_critic(critic_loss)
        weight = (3 * error.detach()).exp().clamp(max=100)
        actor_loss = (weight * (self.actor(obs).tanh() - batch.act).square().mean(-1)).mean()
        minimize_actor(actor_loss)
        return {"value_loss": value_loss.detach(), "critic_loss": critic_loss.detach()}


@pytest.mark.parametrize("agent", [Cloning, AdvantageWeighted])
def test_correct_agents_of_somebody_else_pass(agent):
    check_agent(agent)


class Attached(Cloning):
    def update(self, batch):
        super().update(batch)
        return {"loss": F.mse_loss(self.act(batch.obs), batch.act)}


class Unbounded(Cloning):
    def act(self, obs, sample=False, generator=None):
        return self.actor(obs)


class Forgetful(Cloning):
    def __init__(self, obs_dim, act_dim):
        super().__init__(obs_dim, act_dim)
        self.shift = torch.rand(act_dim) / 2

    def act(self, obs, sample=False, generator=None):
        return (super().act(obs) + self.shift).clamp(-1, 1)


class Idle(Cloning):
    def update(self, batch):
        return {"loss": F.mse_loss(self.act(batch.obs), batch.act).detach()}


class Nervous(Cloning):
    def act(self, obs, sample=False, generator=None):
        return (super().act(obs) + 0.01 * torch.randn(len(obs), self.act_dim)).clamp(-1, 1)


class Overwriting(Cloning):
    def update(self, batch):
        batch.reward.zero_()
        return super().update(batch)


class Counting(Cloning):
    """Its second update of a training step is another one than the second of two steps."""

    def training_step(self, batch, batch_idx):
        self.first = True
        return super().training_step(batch, batch_idx)

    def update(self, batch):
        loss = (1.0 if self.first else 5.0) * F.mse_loss(self.act(batch.obs), batch.act) + self.actor.bias.sum()
        self.first = False
        self.minimizers[0](loss)
        return {"loss": loss.detach()}


class Smoothing(Cloning):
    """Draws for its own share of the batch."""

    def update(self, batch):
        return super().update(batch._replace(act=batch.act + 0.01 * torch.randn(batch.act.shape)))


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        (Smoothing, "draws other random numbers on two devices than on one"),
        (Attached, "must return detached scalar tensors"),
        (Unbounded, r"Unbounded.act must .*in \[-1, 1\]"),
        (Forgetful, "acts differently once it is saved and loaded"),
        (Idle, "changes no weight"),
        (Nervous, "must be a function of the state"),
        (Overwriting, "must not change the minibatch"),
        (Counting, "one update a training step and six give other weights"),
    ],
)
def test_an_agents_mistake_is_named(agent, message):
    with pytest.raises(AssertionError, match=message):
        check_agent(agent)


class Standing(Synthesizer):
    """Correct: nothing moves."""

    rollout_length = 3

    def synthesize(self, policy, start_obs, generator=None):
        obs = start_obs[:, None].expand(-1, 4, -1).clone()
        act = torch.stack([policy(start_obs)] * 3, 1)
        zeros = torch.zeros(len(obs), 3)
        return Trajectories.cut(obs, act, zeros, zeros.bool()), {"height": obs[:, 0, 0]}


class Falling(Standing):
    """Hopper has fallen in its last state, and nothing says so."""

    def synthesize(self, policy, start_obs, generator=None):
        made, metrics = super().synthesize(policy, start_obs, generator)
        made.next_obs[:, -1, 0] = 0.1
        return made, metrics


class Drifting(Standing):
    def synthesize(self, policy, start_obs, generator=None):
        made, metrics = super().synthesize(policy, start_obs, generator)
        return made._replace(reward=torch.randn(len(start_obs), 3)), metrics


class Summing(Standing):
    def synthesize(self, policy, start_obs, generator=None):
        made, _ = super().synthesize(policy, start_obs, generator)
        return made, {"height": made.obs.sum()}


def test_synthesizers(write_dataset):
    source = LocalSource(path=str(write_dataset()))
    check_synthesizer(Standing(), source)
    for wrong, message in (
        (Falling(), "terminals are not those of the task's termination rule"),
        (Drifting(), "must give the same for the same generator"),
        (Summing(), "the metric 'height' must have a number for each trajectory"),
    ):
        with pytest.raises(AssertionError, match=message):
            check_synthesizer(wrong, source)


class Lopsided(Filter):
    def keys(self, trajectories, generator=None):
        return trajectories.returns[1:]


class Restless(Filter):
    def keys(self, trajectories, generator=None):
        return torch.rand(len(trajectories.returns))


class Improving(Filter):
    def keys(self, trajectories, generator=None):
        return trajectories.reward.add_(1.0).sum(1)


class Surest(Filter):
    def keys(self, trajectories, generator=None, metrics=None):
        return -metrics["disagreement"]


def test_filters():
    check_filter(Hardmax())
    check_filter(Surest(), metrics=["disagreement"])
    with pytest.raises(AssertionError, match="needs the metric 'disagreement', which the synthesizer lacks"):
        check_filter(Surest())
    check_filter(Softmax())
    for wrong, message in (
        (Lopsided(), "must give one key for each"),
        (Restless(), "must choose the same for the same generator"),
        (Improving(), "must not change the trajectories"),
    ):
        with pytest.raises(AssertionError, match=message):
            check_filter(wrong)


class Wide(LocalSource):
    def read(self):
        episodes = super().read()
        return replace(episodes, transitions=episodes.transitions._replace(obs=episodes.transitions.obs.double()))


class Shuffled(LocalSource):
    def read(self):
        episodes = super().read()
        return episodes.select(torch.randperm(3))


def test_sources(write_dataset):
    path = str(write_dataset())
    check_source(LocalSource(path=path))
    with pytest.raises(AssertionError, match=r"Wide.read gives a dataset with an error: 'obs' must be a tensor of"):
        check_source(Wide(path=path))
    with pytest.raises(AssertionError, match="must give the same data each time"):
        for _ in range(9):  # a permutation of three may be the one before
            check_source(Shuffled(path=path))
    with pytest.raises(AssertionError, match="No dataset at"):
        check_source(LocalSource(path="nothing.hdf5"))

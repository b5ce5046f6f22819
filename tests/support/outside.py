"""What a package of someone else's may have, sound or with a mistake."""

from dataclasses import replace

import lightning as L
import torch
from lightning.pytorch.loggers.logger import DummyLogger
from torch import nn

from dydiff.agents.base import Agent
from dydiff.data.episodes import Trajectories
from dydiff.data.local import LocalSource
from dydiff.data.source import EpisodeSource
from dydiff.rollout.base import Synthesizer
from dydiff.rollout.filters import Filter


class Cloning(Agent):
    """Behaviour cloning."""

    def __init__(self, obs_dim: int, act_dim: int, mistake: str = "") -> None:
        super().__init__(obs_dim, act_dim)
        if mistake != "forgets its settings":
            self.save_hyperparameters()
        self.mistake = mistake
        self.actor = nn.Linear(obs_dim, act_dim)

    def configure_optimizers(self):
        return torch.optim.Adam(self.actor.parameters())

    def act(self, obs, sample=False, generator=None):
        act = self.actor(self.normalizer(obs))
        if self.mistake == "acts beyond the bounds":
            return act + 3
        return act.tanh()[:, self.mistake == "acts too narrowly" :]

    def update(self, batch):
        loss = (self.act(batch.obs) - batch.act).square().mean()
        self.minimizers[0](loss)
        return {"": {"loss": loss.detach()}, "returns nothing": None, "returns a float": {"loss": 1.0}}.get(
            self.mistake, {"loss": batch.reward}
        )


class Copies(LocalSource):
    """A dataset with a mistake."""

    def __init__(self, path: str, mistake: str = "") -> None:
        super().__init__(path=path)
        self.mistake = mistake

    def read(self):
        episodes = super().read()
        data, lengths = episodes.transitions, episodes.lengths
        nan = data.reward.clone()
        nan[7] = torch.nan
        return {
            "": episodes,
            "nan": replace(episodes, transitions=data._replace(reward=nan)),
            "column": replace(episodes, transitions=data._replace(reward=data.reward[:, None])),
            "double": replace(episodes, transitions=data._replace(obs=data.obs.double())),
            "numpy": replace(episodes, transitions=data._replace(act=data.act.numpy())),
            "wide": replace(episodes, transitions=data._replace(act=data.act * 2)),
            "lost": replace(episodes, lengths=lengths[:-1]),
            "empty": replace(episodes, transitions=data.at(slice(0, 0)), timeout=nan[:0] > 0, lengths=lengths[:0]),
            "continues": replace(episodes, lengths=torch.tensor([len(nan)])),
        }[self.mistake]


class Missing(EpisodeSource):
    """A dataset whose file is not there."""

    name = "missing"

    @property
    def task(self):
        return LocalSource(path="hopper.hdf5").task

    def read(self):
        return open("no.csv").read()


class Standing(Synthesizer):
    """Trajectories of a robot that stands where it is."""

    rollout_length = 4

    def __init__(self, mistake: str = "") -> None:
        super().__init__()
        self.mistake = mistake

    def synthesize(self, policy, start_obs, generator=None):
        count, steps = len(start_obs), self.rollout_length
        obs = start_obs[:, None].expand(-1, steps + 1, -1).clone()
        act = policy(start_obs)[:, None].expand(-1, steps, -1).clone()
        made = Trajectories.cut(obs, act, torch.ones(count, steps), torch.zeros(count, steps, dtype=torch.bool))
        height = {"height": start_obs[:, 0]}
        return {
            "": (made, height),
            "bare": made,
            "short": (made._replace(obs=made.obs[:, 1:]), height),
            "wide": (made._replace(act=made.act + 3), height),
            "double": (made._replace(reward=made.reward.double()), height),
            "scalar": (made, {"height": start_obs[0, 0]}),
        }[self.mistake]


class Newest(Filter):
    """The last ones."""

    def keys(self, trajectories, generator=None):
        return torch.arange(len(trajectories.reward)).float()


class Nicest(Filter):
    """The first ones."""

    def keys(self, trajectories, generator=None):
        return -torch.arange(len(trajectories.reward)).float()


class Clueless(Filter):
    """Knows nothing."""

    def keys(self, trajectories, generator=None):
        return torch.full_like(trajectories.returns, torch.nan)


class Tallest(Filter):
    """Those with the largest of a synthesizer's metrics."""

    def __init__(self, metric: str = "height") -> None:
        super().__init__()
        self.metric = metric

    def keys(self, trajectories, generator=None, metrics=None):
        assert torch.equal(metrics[self.metric], trajectories.obs[:, 0, 0])
        return metrics[self.metric]


class Remote(DummyLogger):
    """A logger that writes no files here."""


def fell(obs, act, next_obs):
    return next_obs[:, 0] < 0.75


def fell_as_documented(obs, act, next_obs) -> torch.Tensor:
    return fell(obs, act, next_obs)


def fell_said_otherwise(obs, act, next_obs) -> bool:
    return fell(obs, act, next_obs)


def fell_of_two(obs, next_obs):
    return next_obs[..., 0] > 0.9


def fell_of_each_number(obs, act, next_obs):
    return next_obs > 0.9


class Broken(L.Callback):
    """Fails before the first update."""

    def on_train_start(self, trainer, agent):
        raise ZeroDivisionError


def tallest(source: EpisodeSource, scale: float = 1.0) -> None:
    """Measure the tallest state."""
    print(f"{scale * float(source.load().transitions.obs[:, 0].max()):.4f}")


def count(source: EpisodeSource) -> None:
    print(len(source.load()))

"""A world whose dynamics are known: ``s' = 0.9 s + B a`` with bounded actions, and exact parts for it."""

import torch
from torch import Tensor, nn

from dydiff.data.episodes import Episodes, Transitions
from dydiff.models.normalizer import Normalizer

OBS_DIM, ACT_DIM = 3, 2
INPUT = torch.tensor([[0.3, 0.0, -0.2], [0.0, 0.4, 0.1]])


def true_step(obs: Tensor, act: Tensor) -> Tensor:
    return 0.9 * obs + act @ INPUT


def true_reward(obs: Tensor, act: Tensor) -> Tensor:
    return obs.sum(-1) - act.square().sum(-1)


def policy(obs: Tensor) -> Tensor:
    return torch.tanh(obs[:, :2] - 0.5)


def true_rollout(start: Tensor, act: Tensor) -> Tensor:
    states = [start]
    for step in range(act.shape[1]):
        states.append(true_step(states[-1], act[:, step]))
    return torch.stack(states, 1)


def episodes(num_episodes: int = 40, length: int = 25, seed: int = 0) -> Episodes:
    generator = torch.Generator().manual_seed(seed)
    act = torch.rand(num_episodes, length, ACT_DIM, generator=generator) * 2 - 1
    states = true_rollout(torch.randn(num_episodes, OBS_DIM, generator=generator), act)
    obs, next_obs, flat = states[:, :-1].flatten(0, 1), states[:, 1:].flatten(0, 1), act.flatten(0, 1)
    flags = torch.zeros(num_episodes, length).bool()
    timeout = flags.clone()
    timeout[:, -1] = True
    transitions = Transitions(obs, flat, true_reward(obs, flat), next_obs, flags.flatten())
    return Episodes(transitions, timeout.flatten(), torch.full((num_episodes,), length))


class ExactDynamics(nn.Module):
    """Stands in for :class:`DynamicsEnsemble`; ``bias`` makes it wrong by a constant."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        self.bias = bias

    def step(self, obs, act, generator=None, sample=True):
        return true_step(obs, act) + self.bias


class ExactReward(nn.Module):
    def forward(self, obs, act):
        return true_reward(obs, act)


class ExactDenoiser(nn.Module):
    """Stands in for :class:`Denoiser`: the posterior mean of deterministic dynamics is the rollout itself."""

    horizon = 10

    def __init__(self) -> None:
        super().__init__()
        self.normalizer = Normalizer(OBS_DIM)

    def sample_states(self, obs, act, sampler, generator=None):
        return true_rollout(obs[:, 0], act[:, :-1])

"""Soft actor-critic (Haarnoja et al. 2018): what the agents that regularise it share."""

import math
from collections.abc import Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dydiff.agents.base import Agent
from dydiff.agents.critic import Critics
from dydiff.data.episodes import Batch
from dydiff.models.networks import mlp
from dydiff.utils import distributed
from dydiff.utils.errors import above_zero, at_least, below_one


class TanhGaussianPolicy(nn.Module):
    """A Gaussian squashed into (-1, 1) by tanh; its states are normalised.

    Args:
        obs_dim: Size of a state.
        act_dim: Size of an action.
        hidden_sizes: Hidden layers.
        min_log_std: Lower bound of the Gaussian's log standard deviation; the upper one is 2.
    """

    def __init__(self, obs_dim: int, act_dim: int, hidden_sizes: Sequence[int], min_log_std: float = -20.0) -> None:
        super().__init__()
        self.min_log_std = min_log_std
        self.network = mlp((obs_dim, *hidden_sizes, 2 * act_dim))

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation ``[N, A]`` before the squashing."""
        mean, log_std = self.network(obs).chunk(2, dim=-1)
        return mean, log_std.clamp(self.min_log_std, 2)

    def sample(self, obs: Tensor, num_actions: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Actions ``[N, n, A]`` and their log-densities ``[N, n]``, differentiable."""
        mean, log_std = (value[:, None].expand(-1, num_actions, -1) for value in self(obs))
        noise = distributed.draw(torch.randn, mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        unsquashed = mean + log_std.exp() * noise
        return unsquashed.tanh(), _log_density(unsquashed, noise, log_std)

    def log_prob(self, obs: Tensor, act: Tensor) -> Tensor:
        """Log-densities ``[N]`` of actions ``[N, A]``; those on the bounds count as just within."""
        mean, log_std = self(obs)
        bound = 1 - torch.finfo(act.dtype).eps
        unsquashed = act.clamp(-bound, bound).atanh()
        return _log_density(unsquashed, (unsquashed - mean) / log_std.exp(), log_std)


def _log_density(unsquashed: Tensor, noise: Tensor, log_std: Tensor) -> Tensor:
    gaussian = -(noise.square() + math.log(2 * math.pi)) / 2 - log_std
    # log(1 - tanh(u)^2), which stays exact for large |u|
    squashing = 2 * (math.log(2) - unsquashed - F.softplus(-2 * unsquashed))
    return (gaussian - squashing).sum(-1)


class SoftActorCritic(Agent):
    """Gaussian policy with a tuned temperature, and critics whose minimum it climbs.

    A subclass has ``update``, which begins with :meth:`update_policy`.

    Args:
        obs_dim: Size of a state.
        act_dim: Size of an action.
        hidden_sizes: Hidden layers of actor and critics.
        num_critics: Critics.
        gamma: Discount factor.
        tau: Share of the new weights in a target update.
        policy_lr: Adam's learning rate of the policy and the temperature.
        critic_lr: Adam's learning rate of the critics.
        sample_eval_actions: Evaluate with sampled actions instead of the policy's mean.
        max_temperature: Largest temperature; given one, the smallest is ``exp(-10)``. ``None`` has neither bound.
        min_log_std: See :class:`TanhGaussianPolicy`.

    Raises:
        UserError: A setting out of its range.
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        hidden_sizes: Sequence[int],
        num_critics: int,
        gamma: float,
        tau: float,
        policy_lr: float,
        critic_lr: float,
        sample_eval_actions: bool,
        max_temperature: float | None = None,
        min_log_std: float = -20.0,
    ) -> None:
        super().__init__(obs_dim, act_dim, sample_eval_actions)
        at_least(1, num_critics=num_critics)
        above_zero(max_temperature=max_temperature, policy_lr=policy_lr, critic_lr=critic_lr)
        below_one(gamma=gamma)
        self.gamma = gamma
        self.tau = tau
        self.policy_lr = policy_lr
        self.critic_lr = critic_lr
        self.max_temperature = max_temperature
        self.target_entropy = -float(act_dim)
        self.actor = TanhGaussianPolicy(obs_dim, act_dim, hidden_sizes, min_log_std)
        self.critics = Critics(obs_dim, act_dim, hidden_sizes, num_critics=num_critics)
        self.target_critics = deepcopy(self.critics).requires_grad_(False)
        self.log_temperature = nn.Parameter(torch.zeros(()))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        learning_rates = (
            (self.actor.parameters(), self.policy_lr),
            (self.critics.parameters(), self.critic_lr),
            ([self.log_temperature], self.policy_lr),
        )
        return [torch.optim.Adam(parameters, lr, fused=True) for parameters, lr in learning_rates]

    def act(self, obs: Tensor, sample: bool = False, generator: torch.Generator | None = None) -> Tensor:
        obs = self.normalizer(obs)
        return self.actor.sample(obs, 1, generator)[0][:, 0] if sample else self.actor(obs)[0].tanh()

    def log_prob(self, obs: Tensor, act: Tensor) -> Tensor:
        return self.actor.log_prob(self.normalizer(obs), act)

    def update_policy(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the temperature and one of the policy; states are normalised."""
        minimize_actor, _, minimize_temperature = self.minimizers[:3]
        act, log_prob = (value[:, 0] for value in self.actor.sample(batch.obs, 1))
        minimize_temperature(self.temperature_loss(log_prob))
        if self.max_temperature is not None:
            with torch.no_grad():
                self.log_temperature.clamp_(-10.0, math.log(self.max_temperature))
        loss, metrics = self.actor_loss(batch.obs, act, log_prob)
        minimize_actor(loss)
        return metrics

    def temperature_loss(self, log_prob: Tensor) -> Tensor:
        """Raises the temperature while the policy's entropy is below ``-act_dim``."""
        return -(self.log_temperature * (log_prob + self.target_entropy).detach()).mean()

    def actor_loss(self, obs: Tensor, act: Tensor, log_prob: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Soft actor-critic's: ``mean(temperature * log pi - min Q)``; states are normalised."""
        temperature = self.log_temperature.exp().detach()
        loss = (temperature * log_prob - self.critics.q_values(obs, act).min(0).values).mean()
        return loss, {"actor_loss": loss.detach(), "entropy": -log_prob.detach().mean(), "temperature": temperature}

"""IQL (Kostrikov et al. 2021): values by expectiles of the data's Q values, a policy by weighted cloning."""

import math
from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from dydiff.agents.base import Agent
from dydiff.agents.critic import Critics, polyak_update
from dydiff.data.episodes import Batch
from dydiff.models.networks import mlp
from dydiff.utils import distributed
from dydiff.utils.errors import above_zero, below_one

MIN_LOG_STD, MAX_LOG_STD = -5.0, 2.0
MAX_WEIGHT = 100.0
"""Largest weight of a cloned action (the authors' code)."""
RETURN_RANGE = 1000.0
"""Returns of the dataset's episodes are scaled to this range (the authors' code, for locomotion)."""


class IQL(Agent):
    """Twin critics, a value function, and a Gaussian policy with one standard deviation for all states.

    No network is evaluated in actions that its minibatches do not show. The policy's learning rate falls to 0 by half
    a cosine over the training. Defaults are the authors' for locomotion.

    Args:
        obs_dim: Size of a state.
        act_dim: Size of an action.
        hidden_sizes: Hidden layers of all networks.
        gamma: Discount factor.
        tau: Share of the new weights in a target update.
        expectile: Expectile of the Q values that the value function is (tau in the paper), in (0, 1).
        beta: Inverse temperature of the cloning weights ``exp(beta * advantage)``; 0 clones all actions alike.
        reward_scale: Factor of the rewards in all losses; ``null`` takes 1,000 over the range of the returns of the
            dataset's episodes, or 1 where they are all the same. Values that the agent gives and logs are in the
            environment's units.
        lr: Adam's learning rate.
        sample_eval_actions: Evaluate with sampled actions instead of the policy's mean.

    Raises:
        UserError: A setting out of its range.
    """

    reward_unit: Tensor

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        hidden_sizes: Sequence[int] = (256, 256),
        gamma: float = 0.99,
        tau: float = 0.005,
        expectile: float = 0.7,
        beta: float = 3.0,
        reward_scale: float | None = None,
        lr: float = 3e-4,
        sample_eval_actions: bool = False,
    ) -> None:
        super().__init__(obs_dim, act_dim, sample_eval_actions)
        self.save_hyperparameters()
        above_zero(lr=lr, expectile=expectile, reward_scale=reward_scale)
        below_one(gamma=gamma, expectile=expectile)
        self.gamma = gamma
        self.tau = tau
        self.expectile = expectile
        self.beta = beta
        self.reward_scale = reward_scale
        self.lr = lr
        self.actor = nn.Sequential(*mlp((obs_dim, *hidden_sizes, act_dim)), nn.Tanh())
        self.log_std = nn.Parameter(torch.zeros(act_dim))
        self.critics = Critics(obs_dim, act_dim, hidden_sizes)
        self.value = mlp((obs_dim, *hidden_sizes, 1))
        self.target_critics = deepcopy(self.critics).requires_grad_(False)
        self.register_buffer("reward_unit", torch.ones(()))  # 1 / reward_scale: what one of the networks' units is

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage == "fit":
            low, high = self.data.return_range
            scale = self.reward_scale or (RETURN_RANGE / (high - low) if high > low else 1.0)
            self.reward_unit.fill_(1 / scale)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        parts = ([*self.actor.parameters(), self.log_std], self.critics.parameters(), self.value.parameters())
        return [torch.optim.Adam(parameters, self.lr, fused=True) for parameters in parts]

    def learning_rates(self, count: int, total: int) -> list[float]:
        return [self.lr * (1 + math.cos(math.pi * (count - 1) / total)) / 2, self.lr, self.lr]

    def act(self, obs: Tensor, sample: bool = False, generator: torch.Generator | None = None) -> Tensor:
        mean = self.actor(self.normalizer(obs))
        if not sample:
            return mean
        noise = distributed.draw(torch.randn, mean.shape, generator=generator, device=mean.device)
        return (mean + self._std() * noise).clamp(-1, 1)

    def log_prob(self, obs: Tensor, act: Tensor) -> Tensor:
        return self._log_density(self.normalizer(obs), act)

    def q_value(self, obs: Tensor, act: Tensor) -> Tensor:
        return super().q_value(obs, act) * self.reward_unit

    def update(self, batch: Batch) -> dict[str, Tensor]:  # type: ignore[override]
        minimize_actor, minimize_critic, minimize_value = self.minimizers
        batch = batch._replace(obs=self.normalizer(batch.obs), next_obs=self.normalizer(batch.next_obs))
        data_q = self.target_critics.q_values(batch.obs, batch.act).min(0).values

        loss, metrics = self.value_loss(batch.obs, data_q)
        minimize_value(loss)
        loss, actor_metrics = self.actor_loss(batch, data_q)
        minimize_actor(loss)
        loss, critic_metrics = self.critic_loss(batch)
        minimize_critic(loss)
        polyak_update(self.target_critics, self.critics, self.tau)
        return metrics | actor_metrics | critic_metrics

    def value_loss(self, obs: Tensor, data_q: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Expectile regression (L_V) of values in normalised states ``[B, O]`` to the data's Q values ``[B]``."""
        error = data_q - self.value(obs).squeeze(-1)
        weight = torch.where(error > 0, self.expectile, 1 - self.expectile)
        loss = (weight * error.square()).mean()
        return loss, {"value_loss": loss.detach()}

    def actor_loss(self, batch: Batch, data_q: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted cloning (L_pi): ``-mean min(exp(beta (Q - V)), 100) log pi(a|s)``; states are normalised."""
        with torch.no_grad():
            advantage = data_q - self.value(batch.obs).squeeze(-1)
            weight = (self.beta * advantage).exp().clamp(max=MAX_WEIGHT)
        loss = -(weight * self._log_density(batch.obs, batch.act)).mean()
        figures = {"cloning_weight": weight.mean(), "policy_std": self._std().detach().mean()}
        return loss, {"actor_loss": loss.detach()} | figures

    def critic_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of both critics' mean squared errors to ``r + gamma V(s')`` (L_Q); states are normalised."""
        with torch.no_grad():
            next_value = self.value(batch.next_obs).squeeze(-1)
            target = batch.reward / self.reward_unit + self.gamma * ~batch.terminal * next_value
        q = self.critics.q_values(batch.obs, batch.act)
        loss = (q - target).square().mean(1).sum()
        metrics = {"q_mean": q.detach().mean(), "target_q_max": target.abs().max()}
        return loss, {"critic_loss": loss.detach()} | {name: x * self.reward_unit for name, x in metrics.items()}

    def _std(self) -> Tensor:
        return self.log_std.clamp(MIN_LOG_STD, MAX_LOG_STD).exp()

    def _log_density(self, obs: Tensor, act: Tensor) -> Tensor:
        """Log-densities ``[N]`` of actions in normalised states."""
        std = self._std()
        errors = (act - self.actor(obs)) / std
        return -((errors.square() + math.log(2 * math.pi)) / 2 + std.log()).sum(-1)

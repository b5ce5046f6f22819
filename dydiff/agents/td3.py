"""TD3 (Fujimoto et al. 2018): what the agents that regularise it share."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dydiff.agents.base import Agent
from dydiff.agents.critic import Critics, polyak_update
from dydiff.data.episodes import Batch
from dydiff.models.networks import mlp
from dydiff.utils import distributed
from dydiff.utils.errors import above_zero, at_least, below_one


class TD3(Agent):
    """Deterministic actor, twin critics, smoothed target actions, delayed actor and target updates.

    A subclass has ``critic_loss`` and ``actor_loss``.

    Args:
        obs_dim: Size of a state.
        act_dim: Size of an action.
        hidden_sizes: Hidden layers of actor and critics.
        gamma: Discount factor.
        tau: Share of the new weights in a target update.
        policy_noise: Standard deviation of the target policy's noise.
        noise_clip: Bound of that noise.
        policy_delay: Critic updates for one update of actor and targets.
        lr: Adam's learning rate.
        clone_synthetic: Whether :meth:`cloning_loss` is of all transitions, or of the real ones only.
        critic_activation: Between the critics' layers.

    Raises:
        UserError: ``policy_delay`` below 1, ``lr`` not above 0, or ``gamma`` outside of [0, 1).
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        hidden_sizes: Sequence[int],
        gamma: float,
        tau: float,
        policy_noise: float,
        noise_clip: float,
        policy_delay: int,
        lr: float,
        clone_synthetic: bool,
        critic_activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__(obs_dim, act_dim)
        at_least(1, policy_delay=policy_delay)
        above_zero(lr=lr)
        below_one(gamma=gamma)
        self.gamma = gamma
        self.tau = tau
        self.policy_noise = policy_noise
        self.noise_clip = noise_clip
        self.policy_delay = policy_delay
        self.lr = lr
        self.clone_synthetic = clone_synthetic
        self.needs_real_transitions = not clone_synthetic
        self.actor = nn.Sequential(*mlp((obs_dim, *hidden_sizes, act_dim)), nn.Tanh())
        self.critics = Critics(obs_dim, act_dim, hidden_sizes, critic_activation)
        self.target_actor = deepcopy(self.actor).requires_grad_(False)
        self.target_critics = deepcopy(self.critics).requires_grad_(False)

    @abstractmethod
    def critic_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The critics' loss, and metrics; states are normalised."""

    @abstractmethod
    def actor_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The actor's loss, and metrics; states are normalised."""

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [
            torch.optim.Adam(self.actor.parameters(), self.lr, fused=True),
            torch.optim.Adam(self.critics.parameters(), self.lr, fused=True),
        ]

    def act(self, obs: Tensor, sample: bool = False, generator: torch.Generator | None = None) -> Tensor:
        return self.actor(self.normalizer(obs))

    def schedule(self, count: int) -> dict[str, bool]:
        return {"with_actor": count % self.policy_delay == 0}

    def update(self, batch: Batch, *, with_actor: bool) -> dict[str, Tensor]:  # type: ignore[override]
        minimize_actor, minimize_critic = self.minimizers
        batch = batch._replace(obs=self.normalizer(batch.obs), next_obs=self.normalizer(batch.next_obs))

        loss, metrics = self.critic_loss(batch)
        minimize_critic(loss)

        if with_actor:
            loss, actor_metrics = self.actor_loss(batch)
            metrics |= actor_metrics
            minimize_actor(loss)
            polyak_update(self.target_actor, self.actor, self.tau)
            polyak_update(self.target_critics, self.critics, self.tau)
        return metrics

    def target_action(self, next_obs: Tensor) -> Tensor:
        """The target actor's actions ``[B, A]`` in normalised states, with clipped noise."""
        act = self.target_actor(next_obs)
        noise = distributed.draw(torch.randn, act.shape, device=act.device) * self.policy_noise
        return (act + noise.clamp(-self.noise_clip, self.noise_clip)).clamp(-1, 1)

    def cloning_loss(self, act: Tensor, batch: Batch) -> Tensor:
        """Mean squared error to the data's actions, of all transitions or of the real ones."""
        if self.clone_synthetic:
            return F.mse_loss(act, batch.act)
        error = (act - batch.act).square().mean(-1)
        (count,) = distributed.mean([batch.real.float().sum()])
        return (error * batch.real).sum() / count.clamp(min=1e-6)  # 0 where no transition is real

"""TD3+BC (Fujimoto and Gu 2021): TD3 with a behaviour cloning term in the actor's loss."""

from collections.abc import Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dydiff.agents.base import Agent
from dydiff.agents.critic import TwinCritic, polyak_update
from dydiff.data.episodes import Batch
from dydiff.models.networks import mlp
from dydiff.utils import distributed
from dydiff.utils.errors import above_zero, at_least, below_one


class TD3BC(Agent):
    """TD3+BC (Fujimoto and Gu 2021): deterministic actor, twin critics, behaviour cloning.

    Args:
        obs_dim: Size of a state.
        act_dim: Size of an action.
        hidden_sizes: Hidden layers of actor and critics.
        gamma: Discount factor.
        tau: Share of the new weights in a target update.
        alpha: Weight of the Q term against behaviour cloning.
        policy_noise: Standard deviation of the target policy's noise.
        noise_clip: Bound of that noise.
        policy_delay: Critic updates for one update of actor and targets.
        lr: Adam's learning rate.
        clone_synthetic: Clone the actions of synthetic transitions, too (the paper). They are the policy's own of some
            updates ago and hold it back; without, only real transitions' actions are cloned, of which a minibatch
            should have some.
    """

    first_critic: Tensor

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        hidden_sizes: Sequence[int] = (256, 256),
        gamma: float = 0.99,
        tau: float = 0.005,
        alpha: float = 2.5,
        policy_noise: float = 0.2,
        noise_clip: float = 0.5,
        policy_delay: int = 2,
        lr: float = 3e-4,
        clone_synthetic: bool = True,
    ) -> None:
        super().__init__(obs_dim, act_dim)
        self.save_hyperparameters()
        self.gamma = gamma
        self.tau = tau
        self.alpha = alpha
        self.policy_noise = policy_noise
        self.noise_clip = noise_clip
        at_least(1, policy_delay=policy_delay)
        above_zero(lr=lr)
        below_one(gamma=gamma)
        self.policy_delay = policy_delay
        self.lr = lr
        self.clone_synthetic = clone_synthetic
        self.needs_real_transitions = not clone_synthetic
        self.actor = nn.Sequential(*mlp((obs_dim, *hidden_sizes, act_dim)), nn.Tanh())
        self.critics = TwinCritic(obs_dim, act_dim, hidden_sizes)
        self.target_actor = deepcopy(self.actor).requires_grad_(False)
        self.target_critics = deepcopy(self.critics).requires_grad_(False)
        self.register_buffer("first_critic", torch.zeros(1, dtype=torch.int64), persistent=False)

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

    def critic_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of both critics' mean squared errors to the clipped double-Q target; states are normalised."""
        with torch.no_grad():
            noise = distributed.draw(torch.randn, batch.act.shape, device=batch.act.device) * self.policy_noise
            noise = noise.clamp(-self.noise_clip, self.noise_clip)
            next_act = (self.target_actor(batch.next_obs) + noise).clamp(-1, 1)
            next_q = self.target_critics.q_values(batch.next_obs, next_act).min(0).values
            target = batch.reward + self.gamma * ~batch.terminal * next_q
        q = self.critics.q_values(batch.obs, batch.act)
        loss = (q - target).square().mean(1).sum()
        return loss, {"critic_loss": loss.detach(), "q_mean": q.detach().mean(), "target_q_max": target.abs().max()}

    def actor_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """``-alpha / mean |Q| * mean Q + mean squared error to the data's actions``; states are normalised."""
        act = self.actor(batch.obs)
        q = self.critics.q_values(batch.obs, act, self.first_critic)[0]
        cloning = self.cloning_loss(act, batch)
        (scale,) = distributed.mean([q.detach().abs().mean()])
        loss = -self.alpha / scale * q.mean() + cloning
        return loss, {"actor_loss": loss.detach(), "cloning_loss": cloning.detach()}

    def cloning_loss(self, act: Tensor, batch: Batch) -> Tensor:
        """Mean squared error to the data's actions, of all transitions or of the real ones."""
        if self.clone_synthetic:
            return F.mse_loss(act, batch.act)
        error = (act - batch.act).square().mean(-1)
        (count,) = distributed.mean([batch.real.float().sum()])
        return (error * batch.real).sum() / count.clamp(min=1e-6)  # 0 where no transition is real

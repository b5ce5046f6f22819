"""TD3+BC (Fujimoto and Gu 2021): TD3 with a behaviour cloning term in the actor's loss."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dydiff.agents.td3 import TD3
from dydiff.data.episodes import Batch
from dydiff.utils import distributed


class TD3BC(TD3):
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
        settings = (hidden_sizes, gamma, tau, policy_noise, noise_clip, policy_delay, lr, clone_synthetic)
        super().__init__(obs_dim, act_dim, *settings)
        self.save_hyperparameters()
        self.alpha = alpha
        self.register_buffer("first_critic", torch.zeros(1, dtype=torch.int64), persistent=False)

    def critic_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of both critics' mean squared errors to the clipped double-Q target; states are normalised."""
        with torch.no_grad():
            next_act = self.target_action(batch.next_obs)
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

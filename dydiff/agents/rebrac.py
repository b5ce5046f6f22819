"""ReBRAC (Tarasov et al. 2023): TD3 with normalised critics and separate cloning penalties of actor and critics."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dydiff.agents.td3 import TD3
from dydiff.data.episodes import Batch
from dydiff.models.networks import begin_near_zero
from dydiff.utils import distributed


class NormalizedReLU(nn.Module):
    """ReLU, then layer normalization. Its usual scale and shift are those of the next linear layer's weights."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.relu(), x.shape[-1:])


class ReBRAC(TD3):
    """TD3 whose targets lose the distance of the next action from the data's, and whose actor stays near the data.

    The critics' penalty needs the action that the dataset takes in the next state. Where there is none, after the last
    step of an episode and for synthetic transitions, the penalty is 0: a synthetic next action would be the policy's
    own, at no distance. Defaults are the authors' but for the two weights, which they choose for each dataset.

    Args:
        obs_dim: Size of a state.
        act_dim: Size of an action.
        hidden_sizes: Hidden layers of actor and critics.
        gamma: Discount factor.
        tau: Share of the new weights in a target update.
        actor_penalty: Weight of the squared distance to the data's action in the actor's loss (beta 1 in the paper).
        critic_penalty: Weight of the squared distance to the data's next action in the targets (beta 2).
        policy_noise: Standard deviation of the target policy's noise.
        noise_clip: Bound of that noise.
        policy_delay: Critic updates for one update of actor and targets.
        lr: Adam's learning rate.
        clone_synthetic: The actor's penalty is of synthetic actions, too, which are the policy's own of some updates
            ago; without, of the real ones only.
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        hidden_sizes: Sequence[int] = (256, 256, 256),
        gamma: float = 0.99,
        tau: float = 0.005,
        actor_penalty: float = 0.05,
        critic_penalty: float = 0.05,
        policy_noise: float = 0.2,
        noise_clip: float = 0.5,
        policy_delay: int = 2,
        lr: float = 1e-3,
        clone_synthetic: bool = True,
    ) -> None:
        settings = (hidden_sizes, gamma, tau, policy_noise, noise_clip, policy_delay, lr, clone_synthetic)
        super().__init__(obs_dim, act_dim, *settings, critic_activation=NormalizedReLU)
        self.save_hyperparameters()
        self.actor_penalty = actor_penalty
        self.critic_penalty = critic_penalty
        begin_near_zero(self.actor, 1e-3)
        begin_near_zero(self.critics, 3e-3)
        self.target_actor.load_state_dict(self.actor.state_dict())
        self.target_critics.load_state_dict(self.critics.state_dict())

    def critic_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of both critics' mean squared errors to the penalised target; states are normalised."""
        with torch.no_grad():
            next_act = self.target_action(batch.next_obs)
            next_q = self.target_critics.q_values(batch.next_obs, next_act).min(0).values
            distance = (next_act - batch.next_act).square().sum(-1)
            distance = distance.where(batch.next_act.isfinite().all(-1), 0.0)
            target = batch.reward + self.gamma * ~batch.terminal * (next_q - self.critic_penalty * distance)
        q = self.critics.q_values(batch.obs, batch.act)
        loss = (q - target).square().mean(1).sum()
        metrics = {"q_mean": q.detach().mean(), "target_q_max": target.abs().max(), "next_distance": distance.mean()}
        return loss, {"critic_loss": loss.detach()} | metrics

    def actor_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """``actor_penalty * mean |pi(s) - a|^2 - mean min Q / mean |min Q|``; states are normalised."""
        act = self.actor(batch.obs)
        q = self.critics.q_values(batch.obs, act).min(0).values
        distance = self.act_dim * self.cloning_loss(act, batch)
        (scale,) = distributed.mean([q.detach().abs().mean()])
        loss = self.actor_penalty * distance - q.mean() / scale
        return loss, {"actor_loss": loss.detach(), "distance": distance.detach()}

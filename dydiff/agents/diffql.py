"""DiffQL, or Diffusion-QL (Wang et al. 2023): a diffusion policy that clones the data and climbs the critics."""

from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dydiff.agents.base import Agent
from dydiff.agents.critic import Critics, polyak_update
from dydiff.agents.diffusion_policy import DiffusionPolicy
from dydiff.data.episodes import Batch
from dydiff.models.networks import Mish
from dydiff.utils import distributed
from dydiff.utils.errors import above_zero, at_least, below_one


class DiffQL(Agent):
    """Diffusion Q-learning (Wang et al. 2022): diffusion policy with a moving average of its weights, twin critics.

    Args:
        obs_dim: Size of a state.
        act_dim: Size of an action.
        policy_hidden_sizes: Hidden layers of the policy, with Mish between them.
        critic_hidden_sizes: Hidden layers of the critics.
        critic_activation: Between the critics' layers: ``relu`` (the DyDiff authors) or ``mish`` (Wang et al.).
        num_diffusion_steps: Steps of the policy's diffusion.
        gamma: Discount factor.
        tau: Share of the new weights in an update of the target critics.
        q_coef: Weight of the Q term against cloning (eta in its paper).
        recovered_action: Judge the action that one step recovers from the noised one (the DyDiff authors) instead of
            one sampled by all steps of the process (Wang et al.): a fifth of the policy's time.
        max_q_backup: Bootstrap from the best of 10 actions.
        ema_decay: Decay of the averaged policy, which bootstraps.
        ema_start: Updates before it begins to follow.
        ema_every: Updates from one step of it to the next.
        max_grad_norm: Gradients of policy and critics are clipped to this norm; ``null`` leaves them.
        num_candidates: Actions that an evaluated action is the best of, by the target critics.
        lr: Adam's learning rate.
        sample_eval_actions: Evaluate with single actions as the policy samples them.

    Raises:
        UserError: Fewer than one diffusion step or candidate.
    """

    candidate_noises: Tensor

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        policy_hidden_sizes: Sequence[int] = (256, 256, 256),
        critic_hidden_sizes: Sequence[int] = (256, 256),
        critic_activation: Literal["relu", "mish"] = "relu",
        num_diffusion_steps: int = 5,
        gamma: float = 0.99,
        tau: float = 0.005,
        q_coef: float = 1.0,
        recovered_action: bool = False,
        max_q_backup: bool = False,
        ema_decay: float = 0.995,
        ema_start: int = 1000,
        ema_every: int = 5,
        max_grad_norm: float | None = None,
        num_candidates: int = 50,
        lr: float = 3e-4,
        sample_eval_actions: bool = False,
    ) -> None:
        super().__init__(obs_dim, act_dim, sample_eval_actions)
        self.save_hyperparameters()
        above_zero(lr=lr, max_grad_norm=max_grad_norm)
        below_one(gamma=gamma)
        at_least(1, num_diffusion_steps=num_diffusion_steps, num_candidates=num_candidates)
        self.gamma = gamma
        self.tau = tau
        self.q_coef = q_coef
        self.recovered_action = recovered_action
        self.num_backup_actions = 10 if max_q_backup else 1
        self.ema_decay = ema_decay
        self.ema_start = ema_start
        self.ema_every = ema_every
        self.max_grad_norm = max_grad_norm
        self.lr = lr
        self.policy_network = DiffusionPolicy(obs_dim, act_dim, policy_hidden_sizes, num_diffusion_steps)
        self.ema_policy_network = deepcopy(self.policy_network).requires_grad_(False)
        activation = {"relu": nn.ReLU, "mish": Mish}[critic_activation]
        self.critics = Critics(obs_dim, act_dim, critic_hidden_sizes, activation)
        self.target_critics = deepcopy(self.critics).requires_grad_(False)
        # The same noise in every state makes the evaluated action a function of the state.
        noises = torch.randn(num_diffusion_steps, num_candidates, act_dim, generator=torch.Generator().manual_seed(0))
        self.register_buffer("candidate_noises", noises, persistent=False)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [
            torch.optim.Adam(self.policy_network.parameters(), self.lr, fused=True),
            torch.optim.Adam(self.critics.parameters(), self.lr, fused=True),
        ]

    def act(self, obs: Tensor, sample: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """See :meth:`Agent.act`; a deterministic action is the best of ``num_candidates`` by the target critics.

        Wang et al. and the DyDiff authors draw among the candidates by the softmax of their values. The best one is
        the limit of that draw; it makes evaluations slightly better and steadier.
        """
        obs = self.normalizer(obs)
        if sample:
            return self.policy_network.sample(obs, generator=generator)
        count = self.candidate_noises.shape[1]
        repeated = obs[:, None].expand(-1, count, -1).flatten(0, 1)
        candidates = self.policy_network.sample(repeated, self.candidate_noises.repeat(1, len(obs), 1))
        candidates = candidates.unflatten(0, (len(obs), count))
        best = self.target_critics.action_values(obs, candidates).min(0).values.argmax(1)
        return candidates[torch.arange(len(obs), device=obs.device), best]

    def schedule(self, count: int) -> dict[str, bool]:
        return {"with_average": count > self.ema_start and count % self.ema_every == 0}

    def update(self, batch: Batch, *, with_average: bool) -> dict[str, Tensor]:  # type: ignore[override]
        minimize_policy, minimize_critic = self.minimizers
        batch = batch._replace(obs=self.normalizer(batch.obs), next_obs=self.normalizer(batch.next_obs))

        loss, metrics = self.critic_loss(batch)
        minimize_critic(loss, self.max_grad_norm)
        loss, policy_metrics = self.policy_loss(batch)
        minimize_policy(loss, self.max_grad_norm)

        if with_average:
            polyak_update(self.ema_policy_network, self.policy_network, 1 - self.ema_decay)
        polyak_update(self.target_critics, self.critics, self.tau)
        return metrics | policy_metrics

    def critic_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of both critics' mean squared errors to the clipped double-Q target; states are normalised."""
        with torch.no_grad():
            count = self.num_backup_actions
            repeated = batch.next_obs[:, None].expand(-1, count, -1).flatten(0, 1)
            next_act = self.ema_policy_network.sample(repeated).unflatten(0, (-1, count))
            next_q = self.target_critics.action_values(batch.next_obs, next_act).max(2).values.min(0).values
            target = batch.reward + self.gamma * ~batch.terminal * next_q
        q = self.critics.q_values(batch.obs, batch.act)
        loss = (q - target).square().mean(1).sum()
        return loss, {"critic_loss": loss.detach(), "q_mean": q.detach().mean(), "target_q_max": target.abs().max()}

    def policy_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error of the predicted noise, less ``q_coef`` times one critic's scaled value; states are normalised.

        The critic is drawn by lot, and its value divided by the mean absolute value of the other.
        """
        noise = distributed.draw(torch.randn, batch.act.shape, device=batch.act.device)
        any_step = partial(torch.randint, self.policy_network.num_steps)
        step = distributed.draw(any_step, noise.shape[:1], device=noise.device)
        noised = self.policy_network.schedule.add_noise(batch.act, step, noise)
        predicted, recovered = self.policy_network.predict_x0(batch.obs, noised, step)
        cloning = F.mse_loss(predicted, noise)
        act = recovered if self.recovered_action else self.policy_network.sample(batch.obs)
        q = self.critics.q_values(batch.obs, act)
        q = torch.where(torch.rand((), device=q.device) < 0.5, q, q.flip(0))
        (scale,) = distributed.mean([q[1].detach().abs().mean()])
        q_term = q[0].mean() / scale
        loss = cloning - self.q_coef * q_term
        return loss, {"policy_loss": loss.detach(), "cloning_loss": cloning.detach()}

"""CQL (Kumar et al. 2020): soft actor-critic whose critics are kept low on actions that the data do not show."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dydiff.agents.critic import polyak_update
from dydiff.agents.soft import SoftActorCritic
from dydiff.data.episodes import Batch
from dydiff.utils import distributed
from dydiff.utils.errors import above_zero, at_least


class CQL(SoftActorCritic):
    """CQL(H) (Kumar et al. 2020): Gaussian policy, tuned temperature, twin critics with the conservative term.

    Args:
        obs_dim: Size of a state.
        act_dim: Size of an action.
        hidden_sizes: Hidden layers of actor and critics.
        gamma: Discount factor.
        tau: Share of the new weights in a target update.
        cql_weight: Weight of the conservative term.
        num_sampled_actions: Actions drawn for that term from each of: the uniform distribution, the policy, and the
            policy in the next states.
        importance_sampling: Divide by the densities that the actions are drawn from, which makes the term an estimate
            of ``log int exp(Q)``; without, the data's action is among them and none is weighted.
        cql_temperature: Of the term's soft maximum.
        target_action_gap: Given, a Lagrange multiplier on ``cql_weight`` keeps the term at this value; ``null`` keeps
            the weight as it is.
        max_backup: Bootstrap from the best of ``num_sampled_actions`` actions, for sparse rewards.
        policy_lr: Adam's learning rate of the policy and the temperature.
        critic_lr: Adam's learning rate of the critics and the multiplier.
        sample_eval_actions: Evaluate with sampled actions instead of the policy's mean.
        max_temperature: Largest temperature, ``exp(0.5)`` as the authors'; their smallest, ``exp(-10)``, applies, too.
            ``null`` has neither bound.

    Raises:
        UserError: Fewer than one sampled action, or a ``cql_temperature`` not above 0.
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        hidden_sizes: Sequence[int] = (256, 256),
        gamma: float = 0.99,
        tau: float = 0.005,
        cql_weight: float = 10.0,
        num_sampled_actions: int = 10,
        importance_sampling: bool = True,
        cql_temperature: float = 1.0,
        target_action_gap: float | None = None,
        max_backup: bool = False,
        policy_lr: float = 3e-5,
        critic_lr: float = 3e-4,
        sample_eval_actions: bool = False,
        max_temperature: float | None = 1.6487,
    ) -> None:
        networks = (obs_dim, act_dim, hidden_sizes, 2)
        super().__init__(*networks, gamma, tau, policy_lr, critic_lr, sample_eval_actions, max_temperature)
        self.save_hyperparameters()
        at_least(1, num_sampled_actions=num_sampled_actions)
        above_zero(cql_temperature=cql_temperature)
        self.cql_weight = cql_weight
        self.num_sampled_actions = num_sampled_actions
        self.importance_sampling = importance_sampling
        self.cql_temperature = cql_temperature
        self.target_action_gap = target_action_gap
        self.max_backup = max_backup
        self.log_multiplier = nn.Parameter(torch.zeros(()), requires_grad=target_action_gap is not None)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [*super().configure_optimizers(), torch.optim.Adam([self.log_multiplier], self.critic_lr, fused=True)]

    def update(self, batch: Batch) -> dict[str, Tensor]:  # type: ignore[override]
        _, minimize_critic, _, minimize_multiplier = self.minimizers
        batch = batch._replace(obs=self.normalizer(batch.obs), next_obs=self.normalizer(batch.next_obs))

        metrics = self.update_policy(batch)
        loss, gap, critic_metrics = self.critic_loss(batch)
        minimize_critic(loss)
        if self.target_action_gap is not None:
            minimize_multiplier(self.multiplier_loss(gap))
        polyak_update(self.target_critics, self.critics, self.tau)
        return metrics | critic_metrics

    def critic_loss(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Squared errors to the target plus the weighted conservative term, summed over both critics.

        Returns:
            The loss, the conservative term of each critic ``[2]``, and metrics.
        """
        with torch.no_grad():
            drawn, log_density = self.sampled_actions(batch)
            target = batch.reward + self.gamma * ~batch.terminal * self.next_value(batch.next_obs)
        values = self.critics.action_values(batch.obs, torch.cat([batch.act[:, None], drawn], dim=1))
        data_q = values[..., 0]
        error = (data_q - target).square().mean(1).sum()
        gap = self.conservative_term(data_q, values[..., 1:], log_density)
        weight: float | Tensor = self.cql_weight
        if self.target_action_gap is not None:
            weight = self.log_multiplier.exp().clamp(max=1e6).detach() * weight
        loss = error + weight * gap.sum()
        metrics = {
            "critic_loss": error.detach(),
            "conservative_term": gap.detach().mean(),
            "q_mean": data_q.detach().mean(),
            "target_q_max": target.abs().max(),
        }
        return loss, gap.detach(), metrics

    def sampled_actions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Actions ``[B, 3 n, A]`` of the conservative term, and the log-densities ``[B, 3 n]`` of drawing them."""
        count = self.num_sampled_actions
        uniform = (
            distributed.draw(torch.rand, (len(batch.reward), count, self.act_dim), device=batch.reward.device) * 2 - 1
        )
        uniform_density = torch.full(uniform.shape[:2], -self.act_dim * math.log(2), device=uniform.device)
        current, current_density = self.actor.sample(batch.obs, count)
        following, following_density = self.actor.sample(batch.next_obs, count)
        densities = torch.cat([uniform_density, current_density, following_density], dim=1)
        return torch.cat([uniform, current, following], dim=1), densities

    def next_value(self, next_obs: Tensor) -> Tensor:
        """Value ``[B]`` of the next states by the target critics, without an entropy bonus."""
        act = self.actor.sample(next_obs, self.num_sampled_actions if self.max_backup else 1)[0]
        return self.target_critics.action_values(next_obs, act).min(0).values.max(1).values

    def conservative_term(self, data_q: Tensor, drawn_q: Tensor, log_density: Tensor) -> Tensor:
        """A soft maximum of Q over actions, less the Q of the data's actions: one value a critic, ``[2]``.

        Args:
            data_q: Values of the data's actions, ``[2, B]``.
            drawn_q: Values of drawn actions, ``[2, B, n]``.
            log_density: Log-densities of drawing them, ``[B, n]``.
        """
        values = drawn_q - log_density if self.importance_sampling else torch.cat([drawn_q, data_q[..., None]], dim=-1)
        soft_maximum = self.cql_temperature * (values / self.cql_temperature).logsumexp(-1)
        return (soft_maximum - data_q).mean(1)

    def multiplier_loss(self, gap: Tensor) -> Tensor:
        """Raises the multiplier while the conservative term is above ``target_action_gap``."""
        assert self.target_action_gap is not None
        return -(self.log_multiplier.exp() * self.cql_weight * (gap - self.target_action_gap)).mean()

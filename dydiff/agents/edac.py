"""EDAC and SAC-N (An et al. 2021): soft actor-critic with many critics; EDAC keeps their slopes apart."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dydiff.agents.critic import polyak_update
from dydiff.agents.soft import SoftActorCritic
from dydiff.data.episodes import Batch
from dydiff.models.networks import begin_near_zero
from dydiff.utils.errors import at_least


class EDAC(SoftActorCritic):
    """Gaussian policy with a tuned temperature; the lowest of many critics is its pessimism.

    Args:
        obs_dim: Size of a state.
        act_dim: Size of an action.
        hidden_sizes: Hidden layers of actor and critics.
        num_critics: Critics (N), at least 2. Hopper needs more, 50; for SAC-N 200 to 500.
        diversity_weight: Weight of the similarity of the critics' slopes (eta); 0 is SAC-N.
        gamma: Discount factor.
        tau: Share of the new weights in a target update.
        lr: Adam's learning rate of policy, temperature and critics.
        sample_eval_actions: Evaluate with sampled actions instead of the policy's mean.

    Raises:
        UserError: A setting out of its range.
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        hidden_sizes: Sequence[int] = (256, 256, 256),
        num_critics: int = 10,
        diversity_weight: float = 1.0,
        gamma: float = 0.99,
        tau: float = 0.005,
        lr: float = 3e-4,
        sample_eval_actions: bool = False,
    ) -> None:
        at_least(2, num_critics=num_critics)
        at_least(0, diversity_weight=diversity_weight)
        networks = (obs_dim, act_dim, hidden_sizes, num_critics)
        super().__init__(*networks, gamma, tau, lr, lr, sample_eval_actions, min_log_std=-5.0)
        self.save_hyperparameters()
        self.diversity_weight = diversity_weight
        begin_near_zero(self.actor, 1e-3)
        begin_near_zero(self.critics, 3e-3)
        self.target_critics.load_state_dict(self.critics.state_dict())

    def update(self, batch: Batch) -> dict[str, Tensor]:  # type: ignore[override]
        minimize_critic = self.minimizers[1]
        batch = batch._replace(obs=self.normalizer(batch.obs), next_obs=self.normalizer(batch.next_obs))

        metrics = self.update_policy(batch)
        loss, critic_metrics = self.critic_loss(batch)
        minimize_critic(loss)
        polyak_update(self.target_critics, self.critics, self.tau)
        return metrics | critic_metrics

    def critic_loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """All critics' mean squared errors to one target, summed, plus the weighted similarity of their slopes.

        The target is the lowest next value of all critics with the policy's entropy; states are normalised.
        """
        with torch.no_grad():
            next_act, log_prob = (value[:, 0] for value in self.actor.sample(batch.next_obs, 1))
            lowest = self.target_critics.q_values(batch.next_obs, next_act).min(0).values
            soft_value = lowest - self.log_temperature.exp() * log_prob
            target = batch.reward + self.gamma * ~batch.terminal * soft_value
        similarity = None
        if self.diversity_weight:
            q, slopes = self.critics.values_and_slopes(batch.obs, batch.act)
            similarity = slope_similarity(slopes)
        else:
            q = self.critics.q_values(batch.obs, batch.act)
        error = (q - target).square().mean(1).sum()
        metrics = {
            "critic_loss": error.detach(),
            "q_mean": q.detach().mean(),
            "q_std": q.detach().std(0).mean(),
            "target_q_max": target.abs().max(),
        }
        if similarity is None:
            return error, metrics
        return error + self.diversity_weight * similarity, metrics | {"slope_similarity": similarity.detach()}


def slope_similarity(slopes: Tensor) -> Tensor:
    """Mean over states of the cosines between the slopes of two critics, summed over pairs and divided by ``C - 1``.

    Each pair counts twice, as in the paper's J_ES and the authors' code.

    Args:
        slopes: Gradients ``[C, N, A]`` of the critics in the actions.
    """
    units = slopes / (slopes.norm(dim=-1, keepdim=True) + 1e-10)
    # The sum of all pairs' products is the squared length of the sum, less each slope's own.
    pairs = units.sum(0).square().sum(-1) - units.square().sum((0, 2))
    return pairs.mean() / (len(slopes) - 1)

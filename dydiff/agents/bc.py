"""Behaviour cloning: the policy of the data, without a critic."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dydiff.agents.base import Agent
from dydiff.data.episodes import Batch
from dydiff.models.networks import mlp
from dydiff.utils.errors import above_zero


class BC(Agent):
    """Deterministic actor that minimises the mean squared error to the actions of its minibatches.

    10% BC (Chen et al. 2021) is this agent on a :class:`dydiff.data.BestEpisodes`. Synthetic actions are cloned like
    the dataset's; they are the policy's own of some updates ago and hold it back.

    Args:
        obs_dim: Size of a state.
        act_dim: Size of an action.
        hidden_sizes: Hidden layers of the actor.
        lr: Adam's learning rate.

    Raises:
        UserError: ``lr`` is not above 0.
    """

    def __init__(self, obs_dim: int, act_dim: int, hidden_sizes: Sequence[int] = (256, 256), lr: float = 3e-4) -> None:
        super().__init__(obs_dim, act_dim)
        self.save_hyperparameters()
        above_zero(lr=lr)
        self.lr = lr
        self.actor = nn.Sequential(*mlp((obs_dim, *hidden_sizes, act_dim)), nn.Tanh())

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(self.actor.parameters(), self.lr, fused=True)]

    def act(self, obs: Tensor, sample: bool = False, generator: torch.Generator | None = None) -> Tensor:
        return self.actor(self.normalizer(obs))

    def update(self, batch: Batch) -> dict[str, Tensor]:  # type: ignore[override]
        (minimize,) = self.minimizers
        loss = F.mse_loss(self.act(batch.obs), batch.act)
        minimize(loss)
        return {"cloning_loss": loss.detach()}

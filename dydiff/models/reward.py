"""The reward model (eq. 10)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dydiff.data.episodes import Episodes, Transitions
from dydiff.models.base import PretrainedModule
from dydiff.models.networks import mlp
from dydiff.models.normalizer import Normalizer


class RewardModel(PretrainedModule):
    """The reward model ``r(s, a)``, by mean squared error.

    Args:
        obs_dim: Size of a state.
        act_dim: Size of an action.
        hidden_sizes: Hidden layers.
        lr: Adam's learning rate.
    """

    def __init__(self, obs_dim: int, act_dim: int, hidden_sizes: Sequence[int] = (256, 256), lr: float = 1e-3) -> None:
        super().__init__(obs_dim, act_dim, lr)
        self.input_normalizer = Normalizer(obs_dim + act_dim)
        self.reward_normalizer = Normalizer(1)
        self.network = mlp((obs_dim + act_dim, *hidden_sizes, 1))

    def fit_statistics(self, episodes: Episodes) -> None:
        data = episodes.transitions
        self.input_normalizer.fit_standard(data.obs, data.act)
        self.reward_normalizer.fit_standard(data.reward[:, None], floor=1e-6)

    def forward(self, obs: Tensor, act: Tensor) -> Tensor:
        """Rewards ``[...]`` of raw states ``[..., O]`` and actions ``[..., A]``."""
        output = self.network(self.input_normalizer(torch.cat([obs, act], dim=-1)))
        return self.reward_normalizer.inverse(output).squeeze(-1)

    def loss(self, batch: Transitions) -> Tensor:
        """Mean squared error in standardised units."""
        error = (self(batch.obs, batch.act) - batch.reward) / self.reward_normalizer.scale
        return error.square().mean()

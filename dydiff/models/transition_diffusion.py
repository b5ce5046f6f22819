"""A diffusion model over single transitions: SynthER's (Lu et al. 2023)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dydiff.data.episodes import Episodes, Transitions
from dydiff.models.diffusion import DiffusionModel
from dydiff.models.edm import EDMSampler
from dydiff.models.networks import NoiseEmbedding
from dydiff.models.normalizer import Normalizer

EMBED_DIM = 128


class ResidualMLP(nn.Module):
    """``num_layers`` residual layers ``x + W relu(x)`` over the sum of projected input and noise embedding.

    Args:
        dim: Features in and out.
        width: Of the layers.
        num_layers: Residual layers.
    """

    def __init__(self, dim: int, width: int, num_layers: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, EMBED_DIM)
        self.embed = NoiseEmbedding(EMBED_DIM, scale=1000.0)
        self.widen = nn.Linear(EMBED_DIM, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(num_layers))
        self.out = nn.Linear(width, dim)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """``x [B, dim]`` and ``noise [B]`` to ``[B, dim]``."""
        h = self.widen(self.project(x) + self.embed(noise))
        for layer in self.layers:
            h = h + layer(F.relu(h))
        return self.out(F.relu(h))


class TransitionDiffusion(DiffusionModel):
    """SynthER's ``p(s, a, r, s', terminal)``; all but the terminal is standardised.

    Args:
        obs_dim: Size of a state.
        act_dim: Size of an action.
        width: Of the network's layers.
        num_layers: Residual layers.
        sigma_data: Standard deviation of the data that the preconditioning assumes.
        p_mean: Mean of ``ln sigma`` in training.
        p_std: Standard deviation of ``ln sigma`` in training.
        lr: Adam's learning rate.
        lr_schedule: ``constant``, or ``cosine``: the learning rate decays to 0 by half a cosine over the training.
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        width: int = 2048,
        num_layers: int = 6,
        sigma_data: float = 1.0,
        p_mean: float = -1.2,
        p_std: float = 1.2,
        lr: float = 3e-4,
        lr_schedule: Literal["constant", "cosine"] = "constant",
    ) -> None:
        self.sizes = (obs_dim, act_dim, 1, obs_dim, 1)
        network = ResidualMLP(sum(self.sizes), width, num_layers)
        super().__init__(obs_dim, act_dim, network, sigma_data, p_mean, p_std, lr, lr_schedule)
        self.normalizer = Normalizer(sum(self.sizes))

    def fit_statistics(self, episodes: Episodes) -> None:
        self.normalizer.fit_standard(*episodes.transitions.columns(), floor=1e-6)
        self.normalizer.shift[-1], self.normalizer.scale[-1] = 0.0, 1.0

    def clean_samples(self, batch: Transitions) -> tuple[Tensor, Tensor]:
        samples = self.normalizer(batch.table())
        return samples, torch.ones_like(samples, dtype=torch.bool)

    def sample(self, count: int, sampler: EDMSampler, generator: torch.Generator | None = None) -> Transitions:
        """``count`` transitions in raw units; a terminal is one above 0.5, an action is clipped to [-1, 1]."""
        empty = torch.zeros(count, sum(self.sizes), device=self.device)
        samples = self.normalizer.inverse(sampler(self.denoise, empty, self.mask, generator))
        obs, act, reward, next_obs, terminal = samples.split(self.sizes, dim=1)
        return Transitions(obs, act.clamp(-1, 1), reward[:, 0], next_obs, terminal[:, 0] > 0.5)

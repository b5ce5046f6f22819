"""The single-step dynamics model: an ensemble of Gaussian networks (eq. 5, as in MBPO)."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dydiff.data.episodes import Episodes, Transitions
from dydiff.models.base import PretrainedModule
from dydiff.models.networks import EnsembleMLP
from dydiff.models.normalizer import Normalizer
from dydiff.utils import distributed
from dydiff.utils.errors import UserError


class DynamicsEnsemble(PretrainedModule):
    """The single-step model: ``num_members`` Gaussians over the change of state ``s' - s``; the best are the elites.

    The networks see standardised inputs and predict the standardised change.

    Args:
        obs_dim: Size of a state.
        act_dim: Size of an action.
        num_members: Networks trained.
        num_elites: Networks used: those with the lowest holdout error.
        hidden_sizes: Hidden layers of each network.
        weight_decay: Of each layer, hidden ones first; one more than ``hidden_sizes``.
        lr: Adam's learning rate.
        lr_schedule: ``constant``, or ``cosine``: the learning rate decays to 0 by half a cosine over the training.

    Raises:
        UserError: More elites than members, or another number of decays than of layers.
    """

    holdout_names = ("holdout/loss", "holdout/worst_member")
    elites: Tensor
    _chosen: EnsembleMLP

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        num_members: int = 7,
        num_elites: int = 5,
        hidden_sizes: Sequence[int] = (200, 200, 200, 200),
        weight_decay: Sequence[float] = (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4),
        lr: float = 1e-3,
        lr_schedule: Literal["constant", "cosine"] = "constant",
    ) -> None:
        super().__init__(obs_dim, act_dim, lr, lr_schedule)
        if not 1 <= num_elites <= num_members:
            raise UserError(f"num_elites must be between 1 and num_members ({num_members}), not {num_elites}.")
        if len(weight_decay) != len(hidden_sizes) + 1:
            raise UserError(f"weight_decay needs {len(hidden_sizes) + 1} values, one for each layer.")
        self.num_members = num_members
        self.weight_decay = weight_decay
        self.input_normalizer = Normalizer(obs_dim + act_dim)
        self.change_normalizer = Normalizer(obs_dim)
        self.network = EnsembleMLP(num_members, (obs_dim + act_dim, *hidden_sizes, 2 * obs_dim), nn.SiLU)
        self.max_logvar = nn.Parameter(torch.full((obs_dim,), 0.5))
        self.min_logvar = nn.Parameter(torch.full((obs_dim,), -10.0))
        self.register_buffer("elites", torch.arange(num_elites))
        self._holdout_errors: list[Tensor] = []
        self._elites_of: tuple[tuple[int, int], ...] | None = None

    def fit_statistics(self, episodes: Episodes) -> None:
        data = episodes.transitions
        self.input_normalizer.fit_standard(data.obs, data.act)
        self.change_normalizer.fit_standard(data.next_obs - data.obs, floor=1e-6)

    def predict(self, obs: Tensor, act: Tensor, network: EnsembleMLP | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the standardised change, ``[M, B, O]``, of raw ``[M, B, O]`` and ``[M, B, A]``.

        By all members, or by those of ``network``.
        """
        output = (network or self.network)(self.input_normalizer(torch.cat([obs, act], dim=-1)))
        mean, logvar = output.chunk(2, dim=-1)
        logvar = self.max_logvar - F.softplus(self.max_logvar - logvar)
        logvar = self.min_logvar + F.softplus(logvar - self.min_logvar)
        return mean, logvar

    def loss(self, batch: Transitions) -> Tensor:
        """Gaussian negative log likelihood, summed over members; each sees its own bootstrap of the full batch."""
        batch, size = Transitions(*map(distributed.gather, batch)), len(batch.reward)
        sample = partial(torch.randint, len(batch.reward))
        rows = distributed.draw(sample, (self.num_members, size), dim=1, device=batch.reward.device)
        resampled = batch.at(rows)
        mean, logvar = self.predict(resampled.obs, resampled.act)
        change = self.change_normalizer(resampled.next_obs - resampled.obs)
        likelihood = ((mean - change).square() * (-logvar).exp() + logvar).mean((1, 2)).sum()
        return likelihood + 0.01 * (self.max_logvar - self.min_logvar).sum()

    def validation_step(self, batch: Transitions, batch_idx: int) -> None:
        """Note each member's squared error of the standardised change, ``[M, B]``."""
        everyone = batch.obs.expand(self.num_members, -1, -1), batch.act.expand(self.num_members, -1, -1)
        change = self.change_normalizer(batch.next_obs - batch.obs)
        self._holdout_errors.append((self.predict(*everyone)[0] - change).square().mean(-1))

    def on_validation_epoch_end(self) -> None:
        """Choose the members with the lowest error on the holdout as elites; the loss is their mean error."""
        errors = torch.cat(self._holdout_errors, dim=1).mean(1).sort()
        self._holdout_errors.clear()
        self.elites.copy_(errors.indices[: len(self.elites)])
        loss, worst = errors.values[: len(self.elites)].mean(), errors.values[-1]
        self.log_dict({"holdout/loss": loss, "holdout/worst_member": worst}, prog_bar=True)

    def parameter_groups(self) -> list[dict[str, Any]]:
        layers = zip(self.network.layers, self.weight_decay, strict=True)
        groups: list[dict[str, Any]] = [{"params": [layer.weight], "weight_decay": decay} for layer, decay in layers]
        groups.append({"params": [layer.bias for layer in self.network.layers]})
        groups.append({"params": [self.max_logvar, self.min_logvar]})
        return groups

    def step(self, obs: Tensor, act: Tensor, generator: torch.Generator | None = None, sample: bool = True) -> Tensor:
        """The next state of each row by one elite, drawn again for each row and call (eq. 6).

        The rows are shuffled and divided evenly among the elites, so only the chosen elite computes for a row.

        Args:
            obs: Raw states ``[N, O]``.
            act: Actions ``[N, A]``.
            generator: Source of elites and noise.
            sample: Sample the elite's Gaussian, or take its mean.

        Returns:
            Raw next states ``[N, O]``.
        """
        count, num_elites = len(obs), len(self.elites)
        each = -(-count // num_elites)
        shuffled = torch.randperm(num_elites * each, generator=generator, device=obs.device)
        rows = shuffled.clamp(max=count - 1)  # pad with the last row where the count is not divisible
        dealt_obs, dealt_act = (value[rows].unflatten(0, (num_elites, each)) for value in (obs, act))
        change, logvar = self.predict(dealt_obs, dealt_act, self._elite_network())
        if sample:
            noise = torch.randn(change.shape, generator=generator, device=change.device)
            change = change + (logvar / 2).exp() * noise
        next_obs = dealt_obs + self.change_normalizer.inverse(change)
        return next_obs.flatten(0, 1)[shuffled.argsort()[:count]]

    def elite_means(self, obs: Tensor, act: Tensor) -> Tensor:
        """The mean next state that each elite predicts, ``[num_elites, N, O]``, for raw ``obs`` and ``act``."""
        return obs + self.change_normalizer.inverse(self._elite_changes(obs, act))

    def disagreement(self, obs: Tensor, act: Tensor) -> Tensor:
        """Disagreement of the elites' mean predictions, ``[N]``, for raw ``obs [N, O]`` and ``act [N, A]``.

        The standard deviation over elites of the standardised change, averaged over dimensions; 0 with one elite.
        """
        return self._elite_changes(obs, act).std(0, correction=0).mean(-1)

    def _elite_changes(self, obs: Tensor, act: Tensor) -> Tensor:
        """Each elite's mean of the standardised change, ``[num_elites, N, O]``."""
        count = len(self.elites)
        return self.predict(obs.expand(count, -1, -1), act.expand(count, -1, -1), self._elite_network())[0]

    def _elite_network(self) -> EnsembleMLP:
        """An ensemble of only the elites; selecting them in every step would copy all their weights."""
        sources = (self.elites, *self.network.parameters())
        state = tuple((tensor.data_ptr(), tensor._version) for tensor in sources)
        if self._elites_of != state:
            object.__setattr__(self, "_chosen", self.network.select(self.elites))  # not among this module's weights
            self._elites_of = state
        return self._chosen

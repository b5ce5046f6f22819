"""The twin critics that the agents share."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dydiff.models.networks import EnsembleMLP


class TwinCritic(EnsembleMLP):
    """Two Q functions, evaluated together.

    Args:
        obs_dim: Size of a state.
        act_dim: Size of an action.
        hidden_sizes: Hidden layers of each.
        activation: Between layers.
    """

    def __init__(
        self, obs_dim: int, act_dim: int, hidden_sizes: Sequence[int], activation: Callable[[], nn.Module] = nn.ReLU
    ) -> None:
        super().__init__(2, (obs_dim + act_dim, *hidden_sizes, 1), activation)

    def q_values(self, obs: Tensor, act: Tensor, members: Tensor | None = None) -> Tensor:
        """Values ``[2, N]`` of ``obs [N, O]`` and ``act [N, A]``; ``[M, N]`` of those that ``members [M]`` names."""
        count = 2 if members is None else len(members)
        return self(torch.cat([obs, act], dim=-1).expand(count, -1, -1), members).squeeze(-1)

    def action_values(self, obs: Tensor, act: Tensor) -> Tensor:
        """Values ``[2, B, n]`` of ``n`` actions ``[B, n, A]`` in each state ``[B, O]``."""
        states = obs[:, None].expand(-1, act.shape[1], -1)
        return self.q_values(states.flatten(0, 1), act.flatten(0, 1)).unflatten(1, act.shape[:2])


@torch.no_grad()
def polyak_update(target: nn.Module, online: nn.Module, share: float) -> None:
    """Move the weights of ``target`` by ``share`` of the way to those of ``online``."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), share)

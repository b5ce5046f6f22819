"""The critics that the agents share."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dydiff.models.networks import EnsembleMLP


class Critics(EnsembleMLP):
    """Independent Q functions ``Q_1 ... Q_C``, evaluated together.

    Args:
        obs_dim: Size of a state.
        act_dim: Size of an action.
        hidden_sizes: Hidden layers of each.
        activation: Between layers.
        num_critics: How many (C).
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        hidden_sizes: Sequence[int],
        activation: Callable[[], nn.Module] = nn.ReLU,
        num_critics: int = 2,
    ) -> None:
        super().__init__(num_critics, (obs_dim + act_dim, *hidden_sizes, 1), activation)
        self.num_critics = num_critics

    def q_values(self, obs: Tensor, act: Tensor, members: Tensor | None = None) -> Tensor:
        """Values ``[C, N]`` of ``obs [N, O]`` and ``act [N, A]``; ``[M, N]`` of those that ``members [M]`` names."""
        count = self.num_critics if members is None else len(members)
        return self(torch.cat([obs, act], dim=-1).expand(count, -1, -1), members).squeeze(-1)

    def action_values(self, obs: Tensor, act: Tensor) -> Tensor:
        """Values ``[C, B, n]`` of ``n`` actions ``[B, n, A]`` in each state ``[B, O]``."""
        states = obs[:, None].expand(-1, act.shape[1], -1)
        return self.q_values(states.flatten(0, 1), act.flatten(0, 1)).unflatten(1, act.shape[:2])

    def values_and_slopes(self, obs: Tensor, act: Tensor) -> tuple[Tensor, Tensor]:
        """Values ``[C, N]`` and their gradients in the actions, ``[C, N, A]``, both differentiable."""
        inputs = torch.cat([obs, act], dim=-1).expand(self.num_critics, -1, -1).clone().requires_grad_()
        q = self(inputs).squeeze(-1)
        (slopes,) = torch.autograd.grad(q.sum(), inputs, create_graph=True)
        return q, slopes[..., obs.shape[-1] :]


@torch.no_grad()
def polyak_update(target: nn.Module, online: nn.Module, share: float) -> None:
    """Move the weights of ``target`` by ``share`` of the way to those of ``online``."""
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), share)

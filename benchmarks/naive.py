"""TD3+BC as a first draft in Lightning has it: one update a step, a DataLoader, a logged loss."""

from copy import deepcopy
from itertools import chain
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _network(size_in: int, size_out: int, *last: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(size_in, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, size_out), *last
    )


class NaiveTD3BC(L.LightningModule):
    """Two separate critics, stock Adam."""

    def __init__(self, obs_dim: int, act_dim: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.actor = _network(obs_dim, act_dim, nn.Tanh())
        self.critics = nn.ModuleList(_network(obs_dim + act_dim, 1) for _ in range(2))
        self.target_actor, self.target_critics = deepcopy(self.actor), deepcopy(self.critics)
        self.count = 0

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(part.parameters(), 3e-4) for part in (self.actor, self.critics)]

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        actor_optimizer, critic_optimizer = self.optimizers()  # type: ignore[attr-defined]
        obs, act, reward, next_obs, terminal = batch
        self.count += 1
        with torch.no_grad():
            noise = (torch.randn_like(act) * 0.2).clamp(-0.5, 0.5)
            next_act = (self.target_actor(next_obs) + noise).clamp(-1, 1)
            both = [critic(torch.cat([next_obs, next_act], 1)) for critic in self.target_critics]
            target = reward[:, None] + 0.99 * (1 - terminal[:, None]) * torch.min(*both)
        pairs = torch.cat([obs, act], 1)
        loss = F.mse_loss(self.critics[0](pairs), target) + F.mse_loss(self.critics[1](pairs), target)
        critic_optimizer.zero_grad()
        self.manual_backward(loss)
        critic_optimizer.step()
        self.log("critic_loss", loss)
        if self.count % 2:
            return
        chosen = self.actor(obs)
        q = self.critics[0](torch.cat([obs, chosen], 1))
        loss = -2.5 / q.abs().mean().detach() * q.mean() + F.mse_loss(chosen, act)
        actor_optimizer.zero_grad()
        self.manual_backward(loss)
        actor_optimizer.step()
        online = chain(self.actor.parameters(), self.critics.parameters())
        targets = chain(self.target_actor.parameters(), self.target_critics.parameters())
        for parameter, slow in zip(online, targets, strict=True):
            slow.data.copy_(0.005 * parameter.data + 0.995 * slow.data)

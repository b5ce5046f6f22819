"""Roll out, filter, and insert into the synthetic buffer."""

import time
from collections.abc import Iterable

import lightning as L
import numpy as np
import torch
from torch import Tensor

from callbacks.progress import track
from dydiff.agents.base import Agent
from dydiff.data.episodes import Trajectories
from dydiff.errors import UserError
from dydiff.rollout.base import Synthesizer
from dydiff.rollout.filters import Filter


class SyntheticRollout(L.Callback):
    """Every ``rollout_freq`` epochs: start states from the dataset, trajectories, filter, synthetic buffer.

    Args:
        synthesizer: Makes the trajectories.
        filter: Ranks them.
        rollout_batch_size: Trajectories of one rollout (B).
        rollout_freq: Epochs from one rollout to the next.
        keep_ratio: Share of the trajectories that is kept (kappa), in (0, 1].
        chunk_size: Trajectories made at once; bounds the memory. Each chunk has its own random numbers.

    Raises:
        UserError: A setting out of its range.
    """

    def __init__(
        self,
        synthesizer: Synthesizer,
        filter: Filter,
        rollout_batch_size: int = 2048,
        rollout_freq: int = 1,
        keep_ratio: float = 0.6,
        chunk_size: int = 512,
    ) -> None:
        if not 0 < keep_ratio <= 1:
            raise UserError(f"keep_ratio must lie in (0, 1], not {keep_ratio}.")
        for name, value in (
            ("rollout_batch_size", rollout_batch_size),
            ("rollout_freq", rollout_freq),
            ("chunk_size", chunk_size),
        ):
            if value < 1:
                raise UserError(f"{name} must be at least 1, not {value}.")
        self.synthesizer = synthesizer
        self.filter = filter
        self.rollout_batch_size = rollout_batch_size
        self.rollout_freq = rollout_freq
        self.num_kept = max(1, round(keep_ratio * rollout_batch_size))
        self.chunk_size = chunk_size
        self.seconds = 0.0

    def on_fit_start(self, trainer: L.Trainer, agent: L.LightningModule) -> None:
        assert isinstance(agent, Agent)
        self.synthesizer.terminated = agent.data.task.terminated
        self.synthesizer.to(agent.device)

    @torch.no_grad()
    def on_train_epoch_start(self, trainer: L.Trainer, agent: L.LightningModule) -> None:
        assert isinstance(agent, Agent)
        if trainer.current_epoch % self.rollout_freq:
            return
        begin = time.perf_counter()
        data = agent.data
        made, figures = self.roll_out(agent, track(trainer, self._chunks(), "Rollout"))
        trajectories = made.at(made.finite)  # one NaN in the buffer would end the training
        keys = self.filter.keys(trajectories, self._generator(agent, trainer.current_epoch, -1))
        kept = trajectories.at(keys.topk(min(self.num_kept, len(keys))).indices.sort().values)
        data.synthetic.insert(kept.transitions())
        self.seconds += time.perf_counter() - begin
        figures |= {
            "return": trajectories.returns,
            "return_kept": kept.returns,
            "length": trajectories.lengths.float(),
            "length_kept": kept.lengths.float(),
            "terminal_share": trajectories.terminal.any(1).float(),
        }
        agent.log_metrics(
            {
                **{f"rollout/{name}": value.mean() for name, value in figures.items()},
                "rollout/kept_share": len(kept.reward) / self.rollout_batch_size,
                "rollout/non_finite": float(self.rollout_batch_size - len(keys)),
                "rollout/buffer_size": float(len(data.synthetic)),
                "rollout/synthetic_share": data.synthetic_share,
                "seconds/rollout": self.seconds,
            }
        )

    def roll_out(self, agent: Agent, chunks: Iterable[tuple[int, int]]) -> tuple[Trajectories, dict[str, Tensor]]:
        """All chunks' trajectories and figures, in order."""
        made = []
        for chunk, size in chunks:
            generator = self._generator(agent, agent.current_epoch, chunk)
            states = agent.data.real.obs
            rows = torch.randint(len(states), (size,), generator=generator, device=states.device)
            made.append(self.synthesizer.synthesize(agent.act, states[rows], generator))
        figures = {name: torch.cat([chunk_figures[name] for _, chunk_figures in made]) for name in made[0][1]}
        return Trajectories.concatenate([trajectories for trajectories, _ in made]), figures

    def _chunks(self) -> list[tuple[int, int]]:
        starts = range(0, self.rollout_batch_size, self.chunk_size)
        return [(i, min(self.chunk_size, self.rollout_batch_size - start)) for i, start in enumerate(starts)]

    @staticmethod
    def _generator(agent: Agent, epoch: int, chunk: int) -> torch.Generator:
        """Random numbers that depend on the run's seed, the epoch and the chunk alone."""
        seed = np.random.SeedSequence([torch.initial_seed(), epoch, chunk + 1]).generate_state(1, np.uint64)[0]
        return torch.Generator(agent.device).manual_seed(int(seed >> 1))

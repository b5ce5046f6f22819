"""Make synthetic data, filter them, and mix them with the real ones."""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator

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
        filter: Ranks them and keeps the best; ``null`` keeps them all, each chunk as it comes.
        real_ratio: Share of real transitions in a minibatch (eta), in [0, 1]; ``null`` draws from all transitions,
            real and synthetic, alike.
        rollout_batch_size: Trajectories of one rollout (B).
        rollout_freq: Epochs from one rollout to the next; ``null`` rolls out once, before the first epoch: for data
            that do not depend on the agent.
        sample_actions: Roll out the policy's sampled actions, where it is a distribution, or its deterministic ones.
        chunk_size: Trajectories made at once; bounds the memory. Each chunk has its own random numbers.
        synthetic_capacity: Transitions that the synthetic buffer holds before the oldest give way.

    Raises:
        UserError: A setting out of its range.
    """

    def __init__(
        self,
        synthesizer: Synthesizer,
        filter: Filter | None = None,
        real_ratio: float | None = 0.6,
        rollout_batch_size: int = 2048,
        rollout_freq: int | None = 1,
        sample_actions: bool = True,
        chunk_size: int = 512,
        synthetic_capacity: int = 2_000_000,
    ) -> None:
        if real_ratio is not None and not 0 <= real_ratio <= 1:
            raise UserError(f"real_ratio must lie in [0, 1], not {real_ratio}.")
        for name, value in (
            ("rollout_batch_size", rollout_batch_size),
            ("rollout_freq", 1 if rollout_freq is None else rollout_freq),
            ("chunk_size", chunk_size),
            ("synthetic_capacity", synthetic_capacity),
        ):
            if value < 1:
                raise UserError(f"{name} must be at least 1, not {value}.")
        self.synthesizer = synthesizer
        self.filter = filter
        self.real_ratio = real_ratio
        self.rollout_batch_size = rollout_batch_size
        self.rollout_freq = rollout_freq
        self.sample_actions = sample_actions
        self.chunk_size = chunk_size
        self.synthetic_capacity = synthetic_capacity
        self.seconds = 0.0

    def setup(self, trainer: L.Trainer, agent: L.LightningModule, stage: str) -> None:
        assert isinstance(agent, Agent)
        if stage == "fit":
            # What is made once does not depend on the agent: a run that goes on makes it again.
            agent.data.mix(self.real_ratio, self.synthetic_capacity, keep_in_checkpoints=self.rollout_freq is not None)
            self.synthesizer.attach(agent.data.source)

    def on_fit_start(self, trainer: L.Trainer, agent: L.LightningModule) -> None:
        self.synthesizer.to(agent.device)

    @torch.no_grad()
    def on_train_epoch_start(self, trainer: L.Trainer, agent: L.LightningModule) -> None:
        assert isinstance(agent, Agent)
        epoch = trainer.current_epoch
        data, num_kept = agent.data, 0
        due = len(data.synthetic) == 0 if self.rollout_freq is None else epoch % self.rollout_freq == 0
        if not due:
            return
        begin = time.perf_counter()
        figures: dict[str, list[Tensor]] = defaultdict(list)
        waiting: list[Trajectories] = []
        for made, chunk_figures in self.roll_out(agent, track(trainer, self._chunks(), "Rollout")):
            sound = made.at(made.finite)  # one NaN in the buffer would end the training
            _collect(figures, chunk_figures | _describe(sound))
            if self.filter is not None:
                waiting.append(sound)
                continue
            data.synthetic.insert(sound.transitions())
            num_kept += len(sound.reward)
        if self.filter is not None:
            kept = self.keep(self.filter, Trajectories.concatenate(waiting), self._generator(agent, -1))
            data.synthetic.insert(kept.transitions())
            num_kept = len(kept.reward)
            _collect(figures, {"return_kept": kept.returns, "length_kept": kept.lengths.float()})
        self.seconds += time.perf_counter() - begin
        agent.log_metrics(
            {
                **{f"rollout/{name}": torch.cat(values).mean() for name, values in figures.items()},
                "rollout/kept_share": num_kept / self.rollout_batch_size,
                "rollout/non_finite": float(self.rollout_batch_size - sum(len(values) for values in figures["return"])),
                "rollout/buffer_size": float(len(data.synthetic)),
                "rollout/synthetic_share": data.synthetic_share,
                "seconds/rollout": self.seconds,
            }
        )

    def roll_out(
        self, agent: Agent, chunks: Iterable[tuple[int, int]]
    ) -> Iterator[tuple[Trajectories, dict[str, Tensor]]]:
        """Each chunk's trajectories and figures, in order."""
        for chunk, size in chunks:
            generator = self._generator(agent, chunk)
            states = agent.data.real.obs
            rows = torch.randint(len(states), (size,), generator=generator, device=states.device)
            policy = agent.policy(self.sample_actions, generator)
            yield self.synthesizer.synthesize(policy, states[rows], generator)

    def keep(self, filter: Filter, trajectories: Trajectories, generator: torch.Generator) -> Trajectories:
        """The ``keep_ratio`` of a rollout with the largest keys, in order."""
        keys = filter.keys(trajectories, generator)
        num_kept = max(1, round(filter.keep_ratio * self.rollout_batch_size))
        return trajectories.at(keys.topk(min(num_kept, len(keys))).indices.sort().values)

    def _chunks(self) -> list[tuple[int, int]]:
        starts = range(0, self.rollout_batch_size, self.chunk_size)
        return [(i, min(self.chunk_size, self.rollout_batch_size - start)) for i, start in enumerate(starts)]

    def _generator(self, agent: Agent, chunk: int) -> torch.Generator:
        """Random numbers that depend on the run's seed, the rollout's epoch and the chunk alone."""
        epoch = 0 if self.rollout_freq is None else agent.current_epoch
        seed = np.random.SeedSequence([torch.initial_seed(), epoch, chunk + 1]).generate_state(1, np.uint64)[0]
        return torch.Generator(agent.device).manual_seed(int(seed >> 1))


def _describe(trajectories: Trajectories) -> dict[str, Tensor]:
    return {
        "return": trajectories.returns,
        "length": trajectories.lengths.float(),
        "terminal_share": trajectories.terminal.any(1).float(),
    }


def _collect(figures: dict[str, list[Tensor]], more: dict[str, Tensor]) -> None:
    for name, values in more.items():
        figures[name].append(values)

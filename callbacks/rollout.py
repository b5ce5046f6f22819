"""Make synthetic data, filter them, and mix them with the real ones."""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import move_data_to_device
from torch import Tensor

from callbacks.progress import track
from dydiff.agents.base import Agent
from dydiff.data.buffer import TransitionBuffer
from dydiff.data.checks import trajectories_flaw
from dydiff.data.episodes import Trajectories
from dydiff.data.mixed import MixedDataModule
from dydiff.rollout.base import Synthesizer
from dydiff.rollout.filters import Filter
from dydiff.utils import distributed
from dydiff.utils.errors import UserError, at_least
from dydiff.utils.seeding import seed_of


class SyntheticRollout(L.Callback):
    """Every ``rollout_freq`` epochs: start states from the dataset, trajectories, filter, synthetic buffer.

    Args:
        synthesizer: Makes the trajectories.
        filter: Ranks them and keeps the best; ``null`` keeps all, chunk by chunk.
        real_ratio: Share of real transitions in a minibatch (eta), in [0, 1]; ``null`` draws from all transitions,
            real and synthetic, alike.
        rollout_batch_size: Trajectories of one rollout (B), of all ranks together.
        rollout_freq: Epochs from one rollout to the next; ``null`` rolls out once, before the first epoch: for data
            that do not depend on the agent.
        sample_actions: Roll out the policy's sampled actions, where it is a distribution, or its deterministic ones.
        chunk_size: Trajectories made at once; bounds the memory. Each chunk has its own random numbers, so it does not
            matter which rank makes it.
        synthetic_capacity: Capacity of the synthetic buffer in transitions; then the oldest are overwritten.
        max_range_excess: Trajectories with a state farther outside of the data's range, in a dimension, than so many
            times that range are dropped; ``null`` keeps them. Those that are not finite are dropped always.

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
        max_range_excess: float | None = None,
    ) -> None:
        if real_ratio is not None and not 0 <= real_ratio <= 1:
            raise UserError(f"real_ratio must be in [0, 1], not {real_ratio}.")
        at_least(1, rollout_batch_size=rollout_batch_size, rollout_freq=rollout_freq, chunk_size=chunk_size)
        at_least(1, synthetic_capacity=synthetic_capacity)
        at_least(0, max_range_excess=max_range_excess)
        self.synthesizer = synthesizer
        self.filter = filter
        self.real_ratio = real_ratio
        self.rollout_batch_size = rollout_batch_size
        self.rollout_freq = rollout_freq
        self.sample_actions = sample_actions
        self.chunk_size = chunk_size
        self.synthetic_capacity = synthetic_capacity
        self.max_range_excess = max_range_excess
        self.seconds = 0.0

    def check(self, agent: Agent) -> None:
        """Refuse an agent that cannot learn from the mix or be rolled out, before models are trained.

        Raises:
            UserError: It needs real transitions and gets none; or see :meth:`Synthesizer.check`.
        """
        if agent.needs_real_transitions and self.real_ratio == 0:
            raise UserError(
                f"{type(agent).__name__} needs real transitions with these settings (it clones their actions), and "
                "real_ratio 0 gives none: set a real_ratio above 0."
            )
        self.synthesizer.check(agent.policy(sample=False))

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["rollout_seconds"] = self.seconds

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.seconds = checkpoint.get("rollout_seconds", 0.0)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            data = _data_of(trainer)
            # Data generated once (`rollout_freq: null`) is regenerated on resume, so it is not checkpointed.
            data.mix(self.real_ratio, self.synthetic_capacity, keep_in_checkpoints=self.rollout_freq is not None)
            self.synthesizer.attach(data.source)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.synthesizer.to(pl_module.device)
        self._low, self._high = _data_of(trainer).real.state_range()

    @torch.no_grad()
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Agent)
        data, freq = _data_of(trainer), self.rollout_freq
        due = len(data.synthetic) == 0 if freq is None else trainer.current_epoch % freq == 0
        if not due:
            return
        begin, tally = time.perf_counter(), Tally()
        usable = (self.screen(made, metrics, tally) for made, metrics in self.roll_out(trainer, pl_module))
        self.keep(usable, trainer, tally)
        self.seconds += time.perf_counter() - begin
        self.report(pl_module, data, tally)

    def roll_out(self, trainer: L.Trainer, agent: Agent) -> Iterator[tuple[Trajectories, dict[str, Tensor]]]:
        """Step 1: each chunk's trajectories and metrics, in order; the ranks take turns at the chunks."""
        starts = range(0, self.rollout_batch_size, self.chunk_size)
        sizes = [min(self.chunk_size, self.rollout_batch_size - start) for start in starts]
        rank, count = distributed.rank_and_count()
        for first in track(trainer, range(0, len(sizes), count), "Rollout"):
            chunk = first + rank
            made = self._synthesize(trainer, agent, chunk, sizes[chunk]) if chunk < len(sizes) else None
            if count == 1:
                assert made is not None
                yield made
                continue
            for each in distributed.gather_objects(move_data_to_device(made, torch.device("cpu"))):
                if each is not None:
                    yield move_data_to_device(each, agent.device)

    def screen(self, made: Trajectories, metrics: dict[str, Tensor], tally: "Tally") -> Trajectories:
        """Step 2: the trajectories that are finite and near enough to the data."""
        finite = made.at(made.finite)  # one NaN in the buffer would end the training
        excess = self.range_excess(finite)
        within = excess <= (torch.inf if self.max_range_excess is None else self.max_range_excess)
        usable = finite.at(within)
        tally.made += len(made.reward)
        tally.finite += len(finite.reward)
        tally.usable += len(usable.reward)
        for name, values in metrics.items():
            tally.synthesizer[name].append(values[made.finite][within])
        tally.collect(
            {
                "return": usable.returns,
                "length": usable.lengths.float(),
                "terminal_share": usable.terminal.any(1).float(),
                "range_excess": excess,
            }
        )
        return usable

    def keep(self, usable: Iterable[Trajectories], trainer: L.Trainer, tally: "Tally") -> None:
        """Step 3: each chunk as it comes, or what the filter chooses of all of them, into the synthetic buffer.

        Raises:
            UserError: There is nothing to keep.
        """
        if self.filter is not None:
            together = Trajectories.concatenate(list(usable))
            if tally.usable:
                generator = self._generator(trainer, together.reward.device, -1)
                metrics = {name: torch.cat(values) for name, values in tally.synthesizer.items()}
                together = together.at(self.filter.choose(together, generator, self.rollout_batch_size, metrics))
            tally.collect({"return_kept": together.returns, "length_kept": together.lengths.float()})
            usable = [together]
        buffer = _data_of(trainer).synthetic
        for each in usable:
            buffer.insert(each.transitions())
            tally.kept += len(each.reward)
        if tally.usable == 0:
            raise UserError(
                f"No synthetic trajectory can be used: {tally.made - tally.finite} of {tally.made} are not finite, "
                f"{tally.finite} leave the data's range too far (max_range_excess). Look at the curves of the models "
                "that make them; deleting a model's folder trains it again."
            )
        if len(buffer) == 0:
            raise UserError(
                "No synthetic trajectory has a step that can be used: all are cut at their start states. Raise the "
                "synthesizer's max_disagreement."
            )

    def report(self, agent: Agent, data: MixedDataModule, tally: "Tally") -> None:
        """Step 4: log what was made and kept."""
        agent.log_at_once(
            {
                **{
                    f"rollout/{name}": float(torch.cat(values).mean())
                    for name, values in (tally.synthesizer | tally.metrics).items()
                },
                "rollout/range_excess_max": float(torch.cat(tally.metrics["range_excess"]).max()),
                "rollout/kept_share": tally.kept / self.rollout_batch_size,
                "rollout/non_finite": float(tally.made - tally.finite),
                "rollout/out_of_range": float(tally.finite - tally.usable),
                "rollout/buffer_size": float(len(data.synthetic)),
                "rollout/synthetic_share": data.synthetic_share,
                "rollout/policy_distance": policy_distance(agent, data.synthetic),
                "seconds/rollout": self.seconds,
            }
        )

    def _synthesize(
        self, trainer: L.Trainer, agent: Agent, chunk: int, size: int
    ) -> tuple[Trajectories, dict[str, Tensor]]:
        generator = self._generator(trainer, agent.device, chunk)
        states = _data_of(trainer).real.obs
        rows = torch.randint(len(states), (size,), generator=generator, device=states.device)
        policy = agent.policy(self.sample_actions, generator)
        made = self.synthesizer.synthesize(policy, states[rows], generator)
        self._check_made(made, size, agent)
        return made

    def _check_made(self, made: Any, size: int, agent: Agent) -> None:
        """Raise if a custom synthesizer breaks its contract."""
        name = f"{type(self.synthesizer).__name__}.synthesize"
        if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], Trajectories)):
            raise UserError(f"{name} must return (Trajectories, metrics), not {type(made).__name__}.")
        if flaw := trajectories_flaw(made[0], size, agent.obs_dim, agent.act_dim):
            raise UserError(f"{name} must return valid trajectories: {flaw}.")
        for metric, values in made[1].items():
            if not isinstance(values, Tensor) or values.shape != (size,):
                raise UserError(f"{name}: the metric '{metric}' must have a number for each of {size} trajectories.")

    def range_excess(self, trajectories: Trajectories) -> Tensor:
        """How far each trajectory leaves the data's range, ``[N]``; 0 within.

        In the worst of its states and dimensions, in units of the dimension's range.
        """
        states = torch.stack([trajectories.obs[:, 1:], trajectories.next_obs], dim=2)
        outside = torch.maximum(self._low - states, states - self._high) / (self._high - self._low).clamp(min=1e-6)
        return outside.amax((2, 3)).where(trajectories.valid, 0).amax(1).clamp(min=0)

    def _generator(self, trainer: L.Trainer, device: torch.device, chunk: int) -> torch.Generator:
        """Random numbers that depend on the run's seed, the rollout's epoch and the chunk only."""
        epoch = 0 if self.rollout_freq is None else trainer.current_epoch
        return torch.Generator(device).manual_seed(seed_of(_data_of(trainer).run_seed, epoch, 1, chunk + 1))


@dataclass
class Tally:
    """Counts and metrics of one rollout.

    Attributes:
        made: Trajectories made.
        finite: Those of them that are finite.
        usable: Those of them that are near enough to the data.
        kept: Those of them that were kept.
        metrics: Values by name, a tensor for each chunk.
        synthesizer: The synthesizer's own metrics of the usable trajectories, likewise.
    """

    made: int = 0
    finite: int = 0
    usable: int = 0
    kept: int = 0
    metrics: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    synthesizer: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))

    def collect(self, metrics: dict[str, Tensor]) -> None:
        """Add a chunk's metrics."""
        for name, values in metrics.items():
            self.metrics[name].append(values)


def policy_distance(agent: Agent, synthetic: TransitionBuffer, count: int = 256) -> float:
    """How far off-policy the synthetic data are: root mean square distance of their actions from the agent's own there.

    Args:
        agent: Its policy acts without sampling.
        synthetic: The data.
        count: Transitions, spread evenly over the buffer from the oldest to the newest.
    """
    count = min(count, len(synthetic))
    obs, act, *_ = synthetic.at(torch.arange(count, device=agent.device) * len(synthetic) // count)
    policy = agent.policy(sample=False, generator=torch.Generator(agent.device).manual_seed(0))
    return float((policy(obs) - act).square().mean().sqrt())


def _data_of(trainer: L.Trainer) -> MixedDataModule:
    return trainer.datamodule  # type: ignore[attr-defined]

"""A watch over values that no reward can explain."""

from typing import Any

import lightning as L

from dydiff.agents.base import Agent
from dydiff.utils.errors import UserError, above_zero


class QValueWatch(L.Callback):
    """Stops a training whose Q targets have grown far beyond what the rewards allow, ``max |r| / (1 - gamma)``.

    Logs their ratio as ``train/q_bound_ratio``; above 1 the critics err, which they may recover from. Agents without
    ``gamma`` or a logged ``target_q_max`` are not watched.

    Args:
        max_ratio: Ratio at which to stop; ``null`` only logs.
    """

    def __init__(self, max_ratio: float | None = 10.0) -> None:
        above_zero(max_ratio=max_ratio)
        self.max_ratio = max_ratio
        self._bound = 0.0

    def on_train_batch_end(
        self, trainer: L.Trainer, agent: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(agent, Agent)
        largest, gamma = trainer.callback_metrics.get("train/target_q_max"), getattr(agent, "gamma", None)
        if largest is None or gamma is None:
            return
        if batch_idx == 0:  # synthetic rewards come between epochs
            self._bound = trainer.datamodule.max_abs_reward / (1 - gamma)  # type: ignore[attr-defined]
        ratio = float(largest) / max(self._bound, 1e-9)
        agent.log_metrics({"train/q_bound_ratio": ratio})
        if self.max_ratio is not None and ratio > self.max_ratio:
            raise UserError(
                f"After {int(agent.num_updates):,} updates a Q target is {float(largest):.3g}, {ratio:.1f} times what "
                f"rewards of at most {self._bound * (1 - gamma):.3g} allow: the critics have run away. What was saved "
                "before still stands; lower the learning rate, or raise the max_ratio of QValueWatch."
            )

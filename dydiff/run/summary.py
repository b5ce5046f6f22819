"""What a run prints: the plan at its beginning, the result at its end."""

from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from rich.table import Column, Table

from dydiff.data.source import EpisodeSource
from dydiff.data.tasks import TASKS
from dydiff.run.pretraining import Parts
from dydiff.utils.console import show_line, show_table


def show_plan(parts: Parts, name: str, source: EpisodeSource, folder: Path) -> None:
    """Which parts are reused and which are trained, where they lie, and on what data."""
    table = Table("stage", "", Column("where", overflow="fold"), title="Plan", title_justify="left")
    for part in parts:
        table.add_row(part.name, "reuse" if part.trained else "train", str(part.directory))
    table.add_row(name, "train", str(folder))
    show_table(table)
    episodes, task = source.load(), source.task
    concerned = task.env_id in {known.env_id for known in TASKS.values()}
    contacts = f", MuJoCo 2 contacts {'restored' if task.mujoco2_contacts else 'not restored'}" if concerned else ""
    show_line(
        f"Dataset {source.name}: {len(episodes):,} transitions in {len(episodes.lengths):,} episodes. Evaluation in "
        f"{task.env_id}{contacts}."
    )


def _logs(trainer: L.Trainer, log_dir: str) -> str:
    """How to see what each logger wrote."""
    ways = {TensorBoardLogger: f"tensorboard --logdir {log_dir}", CSVLogger: str(Path(log_dir, "metrics.csv"))}
    kinds = [type(logger) for logger in trainer.loggers]
    return ", ".join(
        next((way for base, way in ways.items() if issubclass(kind, base)), kind.__name__) for kind in kinds
    )


def show_result(trainer: L.Trainer, log_dir: str, part_seconds: dict[str, float], fit_seconds: float) -> None:
    """Score, where checkpoint and logs are, and the time of each stage.

    Args:
        trainer: After the agent's fit.
        log_dir: Where its logs are.
        part_seconds: Seconds of each part trained before it.
        fit_seconds: Seconds of the fit.
    """
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    table = Table(title="Result", title_justify="left", show_header=False)
    if "eval/score" in metrics:
        for label, key in (("normalised score", "eval/score"), ("return", "eval/return")):
            table.add_row(label, f"{metrics[key]:.1f} ± {metrics[f'{key}_std']:.1f} over episodes")
    checkpoint = Path(log_dir, "checkpoints", "last.ckpt")
    size = f"{checkpoint}, {checkpoint.stat().st_size / 1e6:.1f} MB" if checkpoint.is_file() else "none"
    table.add_row("checkpoint", size)
    table.add_row("logs", _logs(trainer, log_dir))
    shares = {name: metrics.get(f"seconds/{name}", 0.0) for name in ("rollout", "evaluation")}
    shares["checkpoints"] = sum(getattr(callback, "seconds", 0.0) for callback in trainer.checkpoint_callbacks)
    stages = part_seconds | shares | {"updates": fit_seconds - sum(shares.values())}
    table.add_row("time", ", ".join(f"{name} {seconds:.0f} s" for name, seconds in stages.items()))
    show_table(table)

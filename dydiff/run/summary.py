"""What a run prints: the plan at its beginning, the result at its end."""

from pathlib import Path

import lightning as L
from rich.table import Column, Table

from dydiff.data.source import EpisodeSource
from dydiff.data.tasks import TASKS
from dydiff.run.pretraining import PretrainedModels
from dydiff.utils.console import show_line, show_table


def show_plan(models: PretrainedModels, name: str, source: EpisodeSource, folder: Path) -> None:
    """Print which models are reused and which are trained, their folders, and the dataset."""
    table = Table("stage", "", Column("where", overflow="fold"), title="Plan", title_justify="left")
    for model in models:
        table.add_row(model.name, "reuse" if model.trained else "train", str(model.directory))
    table.add_row(name, "train", str(folder))
    show_table(table)
    episodes, task = source.load(), source.task
    concerned = task.env_id in {known.env_id for known in TASKS.values()}
    contacts = f", MuJoCo 2 contacts {'restored' if task.mujoco2_contacts else 'not restored'}" if concerned else ""
    show_line(
        f"Dataset {source.name}: {len(episodes):,} transitions in {len(episodes.lengths):,} episodes. Evaluation in "
        f"{task.env_id}{contacts}."
    )


def show_result(trainer: L.Trainer, log_dir: str, model_seconds: dict[str, float], fit_seconds: float) -> None:
    """Score, where checkpoint and logs are, and the time of each stage.

    Args:
        trainer: After the agent's fit.
        log_dir: Where its logs are.
        model_seconds: Seconds of each model trained before it.
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
    table.add_row("logs", f"tensorboard --logdir {log_dir}")
    shares = {name: metrics.get(f"seconds/{name}", 0.0) for name in ("rollout", "evaluation")}
    shares["checkpoints"] = sum(getattr(callback, "seconds", 0.0) for callback in trainer.checkpoint_callbacks)
    stages = model_seconds | shares | {"updates": fit_seconds - sum(shares.values())}
    table.add_row("time", ", ".join(f"{name} {seconds:.0f} s" for name, seconds in stages.items()))
    show_table(table)

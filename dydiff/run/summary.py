"""What a run prints: the plan at its beginning, the result at its end."""

import json
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from rich.table import Column, Table

from dydiff.data.source import EpisodeSource
from dydiff.data.tasks import TASKS, Task
from dydiff.data.termination import unknown
from dydiff.run.pretraining import PretrainedModels
from dydiff.utils.console import show_line, show_table
from dydiff.utils.files import replacing


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
    if any(models) and task.terminated is unknown:
        show_line(
            f"No termination rule is known for {task.env_id}, and its data have no terminals: synthetic trajectories "
            "do not end early. If a state can end an episode, name a rule: --data.source.terminated my_package.my_rule."
        )
    show_line(f"Threads of torch: {torch.get_num_threads()}.")


def scores(trainer: L.Trainer) -> dict[str, float]:
    """What the last evaluation logged; a normalised score only where the task has a range of scores."""
    task: Task = trainer.datamodule.task  # type: ignore[attr-defined]
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("eval/")}
    return {name: value for name, value in metrics.items() if task.has_score_range or "score" not in name}


def write_scores(trainer: L.Trainer, command: str, checkpoint: Path, out: Path | None) -> None:
    """Write the result of ``validate`` or ``test`` as JSON, and print where.

    Args:
        trainer: After the command.
        command: Its name.
        checkpoint: What was scored.
        out: The file; ``None`` stands for ``<command>.json`` in the folder of the checkpoint's run, if it is of one.
    """
    run = checkpoint.absolute().parent.parent
    if out is None and (run / "config.yaml").is_file():
        out = run / f"{command}.json"
    if out is None:
        return
    data, agent = trainer.datamodule, trainer.lightning_module  # type: ignore[attr-defined]
    result = {
        "command": command,
        "checkpoint": str(checkpoint),
        "dataset": data.source.name,
        "env_id": data.task.env_id,
        "agent": type(agent).__name__,
        "num_updates": int(agent.num_updates),  # type: ignore[arg-type]
        "num_episodes": data.num_eval_episodes,
        **scores(trainer),
    }
    with replacing(out) as part:
        part.write_text(json.dumps(result, indent=2) + "\n")
    show_line(f"Written to {out}")


def _logs(trainer: L.Trainer, log_dir: str) -> str:
    """How to see what each logger wrote."""
    ways = {TensorBoardLogger: f"tensorboard --logdir {log_dir}", CSVLogger: str(Path(log_dir, "metrics.csv"))}
    kinds = [type(logger) for logger in trainer.loggers]
    return ", ".join(
        next((way for base, way in ways.items() if issubclass(kind, base)), kind.__name__) for kind in kinds
    )


def show_result(trainer: L.Trainer, log_dir: str, model_seconds: dict[str, float], fit_seconds: float) -> None:
    """Score, where checkpoint and logs are, and the time of each stage.

    Args:
        trainer: After the agent's fit.
        log_dir: Where its logs are.
        model_seconds: Seconds of each model trained before it.
        fit_seconds: Seconds of the fit, of a resumed one since then.
    """
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    table = Table(title="Result", title_justify="left", show_header=False)
    labels = {"eval/score": "normalised score", "eval/return": "return"}
    for key, value in scores(trainer).items():
        if key in labels:
            table.add_row(labels[key], f"{value:.1f} ± {metrics[f'{key}_std']:.1f} over episodes")
    checkpoint = Path(log_dir, "checkpoints", "last.ckpt")
    size = f"{checkpoint}, {checkpoint.stat().st_size / 1e6:.1f} MB" if checkpoint.is_file() else "none"
    table.add_row("checkpoint", size)
    table.add_row("logs", _logs(trainer, log_dir))
    shares = {name: metrics.get(f"seconds/{name}", 0.0) for name in ("rollout", "evaluation")}
    shares["checkpoints"] = sum(getattr(callback, "seconds", 0.0) for callback in trainer.checkpoint_callbacks)
    whole = fit_seconds + sum(getattr(callback, "earlier_seconds", 0.0) for callback in trainer.checkpoint_callbacks)
    stages = model_seconds | shares | {"updates": max(0.0, whole - sum(shares.values()))}
    table.add_row("time", ", ".join(f"{name} {seconds:.0f} s" for name, seconds in stages.items()))
    show_table(table)

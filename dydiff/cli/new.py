"""``new``: a folder of configs that fit a dataset."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from dydiff.data.episodes import Episodes
from dydiff.data.source import EpisodeSource
from dydiff.data.termination import unknown
from dydiff.run.pretraining import make_source
from dydiff.run.settings import plain
from dydiff.utils.console import show_line
from dydiff.utils.errors import UserError

_SHIPPED = Path(__file__).parents[2] / "configs"
_MODELS = ("denoiser", "dynamics", "reward")
_MIN_BATCHES = 100  # minibatches of an epoch, where the dataset has fewer: else few transitions mean few gradient steps


def new(folder: Path, source_config: Namespace, agent: str = "TD3BC") -> None:
    """Write the configs of a run on a dataset, with models whose windows and epochs fit it.

    They are copies of the small configs, for a machine without a GPU: a config of the run, of its rollout, and of each
    pretrained model. They refer to nothing outside of the folder but the dataset.

    Args:
        folder: A new folder.
        source_config: The parsed config of the dataset's source.
        agent: Class of the agent, by its name or import path.

    Raises:
        UserError: The folder exists, or the dataset cannot be used.
    """
    if folder.exists():
        raise UserError(f"{folder} exists: name a new folder, or delete it.")
    if not _SHIPPED.is_dir():
        raise UserError(f"The shipped configs are not in {_SHIPPED}: install with `pip install -e` from a clone.")
    source = make_source(source_config)
    episodes = source.load()
    horizon = _horizon(episodes)
    run, rollout = _run(source_config, agent, folder.name), _load("rollout/dydiff_small.yaml")
    synthesizer = rollout["init_args"]["synthesizer"]["init_args"]
    synthesizer |= {name: f"{name}.yaml" for name in _MODELS} | {"rollout_length": horizon}
    content = {folder.name: run, "rollout": rollout, **{name: _model(name, episodes, horizon) for name in _MODELS}}
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.absolute().parent))
    try:
        for name, config in content.items():
            text = f"# {_title(name, folder.name, source, episodes)}\n{yaml.safe_dump(config, sort_keys=False)}"
            (place / f"{name}.yaml").write_text(text)
        place.chmod(0o755)
        os.rename(place, folder)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    _show(folder, source, episodes, horizon)


def _horizon(episodes: Episodes) -> int:
    """Steps of the denoiser's windows: 32, or fewer so that half of the episodes have as many."""
    median = int(episodes.lengths.median())
    return min(32, median // 4 * 4 if median >= 4 else median)


def _run(source_config: Namespace, agent: str, name: str) -> dict[str, Any]:
    overlay = _load("small.yaml")
    source = plain(source_config)
    source["init_args"] = {key: value for key, value in source["init_args"].items() if value is not None}
    if (path := source["init_args"].get("path")) is not None:
        source["init_args"]["path"] = str(Path(path).absolute())
    data = {
        "class_path": "dydiff.data.MixedDataModule",
        "init_args": {"source": source, **overlay["data"]["init_args"]},
    }
    return {
        "name": name,
        "model": {"class_path": agent if "." in agent else f"dydiff.agents.{agent}"},
        "data": data,
        "rollout": "rollout.yaml",
        "trainer": _load("trainer/agent_small.yaml"),
    }


def _model(name: str, episodes: Episodes, horizon: int) -> dict[str, Any]:
    config = _load(f"model/{name}.yaml" if name == "reward" else f"model/{name}_small.yaml")
    if name == "denoiser":
        config["model"]["init_args"]["horizon"] = horizon
    else:
        data = config["data"]["init_args"]
        if len(episodes) < _MIN_BATCHES * data["batch_size"]:
            data["batches_per_epoch"] = _MIN_BATCHES
    return config


def _load(path: str) -> dict[str, Any]:
    return yaml.safe_load((_SHIPPED / path).read_text())


def _title(name: str, run: str, source: EpisodeSource, episodes: Episodes) -> str:
    titles = {
        run: f"A run on {source.name}: {len(episodes):,} transitions in {len(episodes.lengths):,} episodes.",
        "rollout": "Synthetic data: DyDiff. Options: python -m dydiff fit --rollout.help SyntheticRollout",
    }
    return titles.get(name, f"The {name} of {run}: trained once, used by all its runs.")


def _show(folder: Path, source: EpisodeSource, episodes: Episodes, horizon: int) -> None:
    task, lengths = source.task, episodes.lengths
    show_line(
        f"{source.name}: {len(episodes):,} transitions in {len(lengths):,} episodes of {int(lengths.min()):,} to "
        f"{int(lengths.max()):,} steps. States have {task.obs_dim} numbers, actions {task.act_dim}. Evaluation in "
        f"{task.env_id}."
    )
    if task.terminated is unknown:
        show_line("No termination rule is known: synthetic trajectories do not end early (docs/data.md, Termination).")
    show_line(f"Written to {folder}, with rollouts and windows of {horizon} steps. Next:")
    config = folder / f"{folder.name}.yaml"
    show_line(f"  python -m dydiff fit --config {config}")
    show_line(
        f"  python -m dydiff fit --config {config} --rollout null --name {folder.name}_base   # without synthetic data"
    )

"""``generate``: a run's synthetic data as a dataset, for any other library."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml
from rich.progress import track

from dydiff.cli.load import PIECE, Run, load_run
from dydiff.data.episodes import Trajectories
from dydiff.data.gym_tasks import from_unit_actions
from dydiff.run.settings import plain
from dydiff.utils.console import show_line
from dydiff.utils.environment import computed_with
from dydiff.utils.errors import UserError, at_least
from dydiff.utils.files import replacing

Arrays = dict[str, np.ndarray]


def generate(
    run: Path,
    out: Path,
    num_trajectories: int = 10_000,
    as_transitions: bool = False,
    checkpoint: Path | None = None,
    seed: int = 0,
) -> None:
    """Write synthetic data of a run's agent as a dataset in D4RL's layout.

    Start states are drawn from the run's dataset. All trajectories are written, without the run's filter, but for those
    with numbers that are not finite. A card, ``<out>.yaml``, says how they were made.

    Args:
        run: The run's folder, ``runs/<name>/version_<N>``.
        out: The file: ``.hdf5`` is written piece by piece, ``.npz`` is held in memory.
        num_trajectories: How many trajectories.
        as_transitions: Make each transition an episode of its own, for readers that take the next row's state for a
            transition's next state, which it is not where next states come from the single-step model.
        checkpoint: The agent's weights; null takes the run's last checkpoint.
        seed: Seed of start states and trajectories; the same seed gives the same numbers.

    Raises:
        UserError: The run has no synthesizer or cannot be loaded, or the file's ending is another.
    """
    if out.suffix not in (".hdf5", ".npz"):
        raise UserError(f"{out} must end in .hdf5 or .npz.")
    at_least(1, num_trajectories=num_trajectories)
    at_least(0, seed=seed)
    loaded = load_run(run, checkpoint)
    tally = Tally()
    pieces = loaded.rollouts(num_trajectories=num_trajectories, seed=seed)
    shown = track(pieces, "Rollout", total=-(-num_trajectories // PIECE), transient=True)
    arrays = (_arrays(loaded, made.at(made.finite & (made.lengths > 0)), as_transitions, tally) for made in shown)
    with replacing(out) as part:
        if out.suffix == ".hdf5":
            _write_hdf5(part, arrays, loaded)
        else:
            _write_npz(part, list(arrays))
    _write_card(loaded, out, tally, num_trajectories, as_transitions, seed)
    show_line(
        f"{tally.transitions:,} transitions of {tally.trajectories:,} trajectories are in {out}; use them with "
        f"--data.source LocalSource --data.source.path {out} --data.source.env_id {loaded.source.task.env_id}"
    )


@dataclass
class Tally:
    """What has been written.

    Attributes:
        trajectories: Number of trajectories.
        transitions: Number of their valid steps.
        terminals: How many of these are terminal.
        total_return: Sum of the predicted returns.
    """

    trajectories: int = 0
    transitions: int = 0
    terminals: int = 0
    total_return: float = 0.0


def _arrays(run: Run, made: Trajectories, as_transitions: bool, tally: Tally) -> Arrays:
    """The valid steps in D4RL's layout, actions in the environment's own bounds."""
    steps, lengths = made.transitions(), made.lengths.numpy()
    terminal = steps.terminal.numpy()
    ends = np.ones(len(terminal), bool)
    if not as_transitions:
        ends[:] = False
        ends[lengths.cumsum() - 1] = True
    tally.trajectories += len(lengths)
    tally.transitions += len(terminal)
    tally.terminals += int(terminal.sum())
    tally.total_return += float(made.returns.sum())
    return {
        "observations": steps.obs.numpy(),
        "actions": from_unit_actions(steps.act.numpy(), run.source.task.act_bounds).astype(np.float32),
        "rewards": steps.reward.numpy(),
        "next_observations": steps.next_obs.numpy(),
        "terminals": terminal,
        "timeouts": ends & ~terminal,
    }


def _write_hdf5(path: Path, pieces: Iterator[Arrays], run: Run) -> None:
    with h5py.File(path, "w") as file:
        for arrays in pieces:
            for name, array in arrays.items():
                if name not in file:
                    shape = (0, *array.shape[1:])
                    file.create_dataset(name, shape, array.dtype, maxshape=(None, *array.shape[1:]), chunks=True)
                before = len(file[name])
                file[name].resize(before + len(array), axis=0)
                file[name][before:] = array
        file.attrs["env_id"] = run.source.task.env_id
        file.attrs["mujoco2_contacts"] = run.source.task.mujoco2_contacts
        file.attrs["recipe"] = json.dumps(_recipe(run), default=str)


def _write_npz(path: Path, pieces: Sequence[Arrays]) -> None:
    with path.open("wb") as file:
        arrays: dict[str, Any] = {name: np.concatenate([each[name] for each in pieces]) for name in pieces[0]}
        np.savez_compressed(file, **arrays)


def _recipe(run: Run) -> dict[str, object]:
    agent = run.config.model.class_path
    return {
        "run": str(run.folder),
        "agent": agent,
        "num_updates": int(run.agent.num_updates),
        "dataset": run.source.name,
        "dataset_fingerprint": run.episodes.fingerprint,
        "synthesizer": plain(run.config.rollout.init_args.synthesizer),
    }


def _write_card(run: Run, out: Path, tally: Tally, num_trajectories: int, as_transitions: bool, seed: int) -> None:
    card = {
        "file": out.name,
        "env_id": run.source.task.env_id,
        **_recipe(run),
        "seed": seed,
        "num_trajectories": num_trajectories,
        "written": {
            "trajectories": tally.trajectories,
            "transitions": tally.transitions,
            "terminals": tally.terminals,
            "mean_predicted_return": tally.total_return / max(1, tally.trajectories),
            "episodes": "transitions" if as_transitions else "trajectories",
        },
        "computed_with": computed_with(),
    }
    text = json.loads(json.dumps(card, default=str))  # paths as text
    with replacing(out.with_name(f"{out.name}.yaml")) as part:
        part.write_text(yaml.safe_dump(text, sort_keys=False))

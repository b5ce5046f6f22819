"""Runs that are killed, and whether they end as one that was left alone.

As a program, ``python tests/support/faults.py``, it kills ``FAULT_KILLS`` runs (default 50) at random moments.
"""

import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import QUIET, write_run

import callbacks
import dydiff.agents.base
import dydiff.agents.evaluation
import dydiff.agents.td3bc
import dydiff.cli.fits
import dydiff.models.base
import dydiff.rollout.dydiff
import dydiff.utils.checkpoints
from dydiff.cli import main

HERE = Path(__file__).parent
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parents[1])])  # where the fork server finds its modules

RUN = ("fit", "--config", "run.yaml", *QUIET, "--ckpt_path=last")

# A name for each moment: whose function, and whether death comes before or after it.
MOMENTS = {
    "pretraining step": (dydiff.models.PretrainedModule, "training_step", "before"),
    "holdout evaluation": (dydiff.models.PretrainedModule, "validation_step", "after"),
    "publishing a model": (dydiff.cli.fits, "publish", "before"),
    "between two stages": (dydiff.cli.fits, "publish", "after"),
    "rollout": (dydiff.rollout.DyDiff, "correct", "after"),
    "update chunk": (dydiff.agents.Agent, "training_step", "before"),
    "evaluation": (dydiff.agents.evaluation, "play_episodes", "after"),
    "checkpoint half written": (dydiff.utils.checkpoints.torch, "save", "half"),
    "checkpoint written": (callbacks.LastCheckpoint, "on_train_epoch_end", "after"),
}


def run(folder, moment=None, count=1, args=(), environment=()):
    """``dydiff`` in ``folder``, in this process; it kills itself at the ``count``-th ``moment``."""
    os.chdir(folder)
    os.environ.update(environment)
    rank_zero_only.rank = int(os.environ.get("LOCAL_RANK", "0"))  # Lightning has read it when it was imported
    torch.set_num_threads(1)
    if moment is not None:
        _die_at(*MOMENTS[moment], count)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        sys.exit(main([*RUN, *args]))


def _die_at(owner, name, when, count):
    function, calls = getattr(owner, name), [0]

    def dying(*args, **kwargs):
        calls[0] += 1
        if calls[0] < count:
            return function(*args, **kwargs)
        if when != "before":
            function(*args, **kwargs)
        if when == "half":
            file = args[1]
            file.flush()
            file.truncate(file.tell() // 2)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, dying)


def fork(function, *args, **kwargs):
    """``function`` in a separate process, forked from one that has imported everything and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["faults"])
    process = context.Process(target=function, args=args, kwargs=kwargs)
    process.start()
    return process


def start(folder, *args, **kwargs):
    """:func:`run` in a separate process."""
    return fork(run, folder, *args, **kwargs)


def finish(folder, **kwargs):
    """Run, or resume, to the end."""
    process = start(folder, **kwargs)
    process.join(120)
    assert process.exitcode == 0, f"the run ended with {process.exitcode}"


def outcome(folder):
    """What a run leaves: the published models, the last checkpoint's state, and all metrics but times."""
    models = {
        path.parent.name: _load(path)["state_dict"] for path in sorted(folder.glob("runs/pretrained/*/weights.pt"))
    }
    logs = {path.name: scalars(path) for path in sorted(folder.glob("runs/pretrained/[!.]*"))}
    (last,) = folder.glob("runs/run/version_*/checkpoints/last.ckpt")
    state = {key: _load(last)[key] for key in ("state_dict", "optimizer_states", "MixedDataModule", "global_step")}
    return {"models": models, "model metrics": logs, **state, "metrics": scalars(last.parent.parent)}


def _load(path):
    return torch.load(path, weights_only=True)


def scalars(folder):
    """Each metric's values by step; what a dead run logged after its last checkpoint has given way."""
    events = EventAccumulator(str(folder)).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("seconds/")]
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in tags}


def differences(one, other, path=""):
    """Where two outcomes are not equal to the bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            if key not in one or key not in other:
                yield f"{path}/{key} is on one side only"
            else:
                yield from differences(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{path}/{index}")
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if not torch.equal(one, other):
            yield path
    elif one != other:
        yield f"{path}: {one} and {other}"


def kill_at_random(kills, seed=0):
    """Kill ``kills`` runs, each at a random moment of its life, let them resume, and count those that match."""
    chance, matched = random.Random(seed), 0
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place, "whole")
        write_run(whole)
        start(whole).join()
        shutil.rmtree(whole / "runs")  # what was imported late is imported now
        begin = time.perf_counter()
        finish(whole)
        seconds = time.perf_counter() - begin
        expected = outcome(whole)
        print(f"A run takes {seconds:.1f} s.")
        for kill in range(1, kills + 1):
            folder = Path(place, f"killed{kill}")
            write_run(folder)
            process, moment = start(folder), chance.uniform(0, seconds)
            process.join(moment)
            process.kill()
            process.join()
            written = len([path for path in folder.glob("runs/**/*") if path.is_file()])
            try:
                finish(folder)
                wrong = list(differences(expected, outcome(folder)))
            except (AssertionError, ValueError) as error:
                wrong = [str(error)]
            matched += not wrong
            print(
                f"{kill:3} killed after {moment:5.2f} s, {written:2} files: {wrong[0] if wrong else 'matches'}",
                flush=True,
            )
            shutil.rmtree(folder)
    print(f"matched {matched} of {kills}")
    return matched == kills


if __name__ == "__main__":
    sys.exit(not kill_at_random(int(os.environ.get("FAULT_KILLS", "50")), int(os.environ.get("FAULT_SEED", "0"))))

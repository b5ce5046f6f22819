"""Where a job runs: a separate process under a Ray worker, which reports its progress to Ray Tune.

Little is imported here: a worker starts for every job.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from dydiff.sweep.jobs import Job

USER_ERROR = 2  # the exit code of what no second attempt fixes
_SECONDS = 5.0  # between two looks at a job's progress


def run_job(job: Job, report: Callable[[dict[str, Any]], None]) -> None:
    """Run a job to its end, or resume it where an earlier worker was stopped.

    Args:
        job: The job; where another sweep runs the same one, this waits for its end.
        report: Takes its ``state`` and its progress every few seconds.

    Raises:
        RuntimeError: The command died; another attempt may end better.
    """
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(job.log.with_name(f".{job.log.stem}.lock")):
        if job.is_finished:
            report({"state": "finished"})
        else:
            _run(job, report)


def _run(job: Job, report: Callable[[dict[str, Any]], None]) -> None:
    _remove_torn(job.folder)
    progress = Progress(job.folder)
    with job.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dydiff", *job.args],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_worker if sys.platform == "linux" else None,
        )
        try:
            while True:
                try:
                    process.wait(_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    report({"state": "running", **progress.read()})
        finally:
            process.kill()
    if process.returncode == 0 and not job.makes_finished:
        job.finished.touch()
    if not job.is_finished and process.returncode != USER_ERROR:
        raise RuntimeError(f"{job.name} ended with code {process.returncode}: {job.last_words()}")
    report({"state": "finished" if job.is_finished else "failed", **progress.read()})


def _die_with_worker() -> None:
    """Let the kernel kill this process when its parent dies: a job that resumes elsewhere must not run twice."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() == 1:  # the parent was faster
        os._exit(1)


def _remove_torn(folder: Path) -> None:
    """Remove runs that were stopped before their first checkpoint: nothing can resume from them."""
    for version in folder.glob("version_*"):
        if not (version / "checkpoints" / "last.ckpt").is_file():
            shutil.rmtree(version)


class Progress:
    """Reads what a job has logged for TensorBoard so far.

    Args:
        folder: The job's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._begin = time.time()
        self._readers: dict[Path, Any] = {}

    def read(self) -> dict[str, float]:
        """``step``, ``score`` or ``loss``: the last ones, as far as there are any; ``minutes`` since the start."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = {"minutes": (time.time() - self._begin) / 60}
        for events in sorted(self.folder.glob("**/events.out.tfevents.*")):
            reader = self._readers.setdefault(events, EventAccumulator(str(events), {"scalars": 1}))
            for tag in reader.Reload().Tags()["scalars"]:
                last = reader.Scalars(tag)[-1]
                found["step"] = max(found.get("step", 0), last.step)
                if tag in ("eval/score", "holdout/loss"):
                    found[tag.partition("/")[2]] = last.value
        return found

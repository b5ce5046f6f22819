"""Jobs on Ray Tune: as many at once as there are cores or GPUs, on this machine or on a cluster."""

import logging
import os
import shutil
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from dydiff.sweep.jobs import Job
from dydiff.sweep.worker import run_job
from dydiff.utils.console import pip_install, show_line, show_table
from dydiff.utils.errors import UserError

_STORE_BYTES = 100_000_000  # of Ray's shared memory; nothing is passed through it


def run_jobs(
    jobs: Sequence[Job], storage: Path, cpus_per_run: float, gpus_per_run: float, max_restarts: int, title: str
) -> None:
    """Run jobs, and start again those whose process or worker dies; returns when each has finished or failed.

    Args:
        jobs: The jobs.
        storage: Folder of Ray Tune's records.
        cpus_per_run: Cores of one job.
        gpus_per_run: GPUs of one job.
        max_restarts: How often a job is started again.
        title: Title of the table of progress.

    Raises:
        UserError: Ray is not installed, or has too little for a single job.
    """
    if not jobs:
        return
    tune = start_ray(cpus_per_run, gpus_per_run)
    by_name, directory = {job.name: job for job in jobs}, os.getcwd()

    def run(config: dict[str, str]) -> None:
        os.chdir(directory)  # Ray Tune has changed it
        run_job(by_name[config["job"]], tune.report)

    name = f"{title.replace(' ', '_')}-{uuid.uuid4().hex[:8]}"  # another sweep of this name may run at the same time
    tune.Tuner(
        tune.with_resources(run, {"cpu": cpus_per_run, "gpu": gpus_per_run}),
        param_space={"job": tune.grid_search(list(by_name))},
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(storage.absolute()),
            failure_config=tune.FailureConfig(max_failures=max_restarts),
            progress_reporter=ProgressTable(title),
            verbose=1,
        ),
    ).fit()
    shutil.rmtree(storage / name, ignore_errors=True)  # the folders of the jobs have all results


def start_ray(cpus_per_run: float, gpus_per_run: float) -> Any:
    """Ray Tune, once Ray runs here or the cluster of ``RAY_ADDRESS`` is joined.

    Raises:
        UserError: Ray is not installed, or has too little for a single job.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # otherwise Ray prints tables, too
    try:
        import ray
        from ray import tune
    except ModuleNotFoundError:
        raise UserError(f"Sweeps need Ray Tune: {pip_install('sweep')}.") from None
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures are reported in the table and at the end
    if not ray.is_initialized():
        here: dict[str, Any] = {}
        if "RAY_ADDRESS" not in os.environ:  # it serves this sweep alone, even if another runs in parallel
            here = {"address": "local", "object_store_memory": _STORE_BYTES, "include_dashboard": False}
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **here)
        except ConnectionError as error:
            raise UserError(f"No Ray cluster at RAY_ADDRESS={os.environ.get('RAY_ADDRESS')}: {error}.") from None
    there = ray.cluster_resources()
    for kind, asked in (("CPU", cpus_per_run), ("GPU", gpus_per_run)):
        if asked > there.get(kind, 0):
            raise UserError(
                f"A run asks for {asked:g} {kind}s and Ray has {there.get(kind, 0):g}: set {kind.lower()}s_per_run."
            )
    return tune


class ProgressTable:
    """A reporter for Ray Tune: a line for each job that runs, and how many wait, have finished and have failed.

    Args:
        title: Its title.
        seconds: From one table to the next.
    """

    def __init__(self, title: str, seconds: float = 30.0) -> None:
        self.title = title
        self.seconds = seconds
        self._last = -seconds

    def setup(self, **_: Any) -> None:
        """Nothing to set up."""

    def should_report(self, trials: Sequence[Any], done: bool = False) -> bool:
        return done or time.monotonic() - self._last >= self.seconds

    def report(self, trials: Sequence[Any], done: bool, *_: str) -> None:
        self._last = time.monotonic()
        states: dict[str, list[Any]] = {"running": [], "waiting": [], "finished": [], "failed": []}
        for trial in trials:
            ended = "failed" if trial.last_result.get("state") == "failed" else "finished"
            known = {"RUNNING": "running", "ERROR": "failed", "TERMINATED": ended}
            states[known.get(trial.status, "waiting")].append(trial)
        counts = ", ".join(f"{len(those)} {state}" for state, those in states.items())
        show_line(f"{self.title}: {counts}")
        table = Table("run", "minutes", "step", "score", "loss")
        for trial in (*states["running"], *states["failed"]):
            result = trial.last_result
            forms = {"minutes": ".1f", "step": ",.0f", "score": ".1f", "loss": ".4f"}
            shown = [format(result[key], form) if key in result else "" for key, form in forms.items()]
            table.add_row(trial.config["job"] + (" failed" if trial in states["failed"] else ""), *shown)
        if table.rows:
            show_table(table)

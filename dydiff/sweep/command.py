"""The command ``sweep``: a grid of runs, first the pretrained models, then the runs, then a list of failures."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from dydiff.run.pretraining import PretrainedModels
from dydiff.run.settings import comparable, plain
from dydiff.sweep.jobs import Job, claim_folder
from dydiff.sweep.trials import Trial, expand
from dydiff.sweep.tune import run_jobs, start_ray
from dydiff.utils.console import show_line, show_table
from dydiff.utils.errors import UserError
from dydiff.utils.output import write_csv

Check = Callable[[Sequence[str]], tuple[Any, PretrainedModels]]
"""``check(args)`` of a command: its settings and the pretrained models that it needs, without running it."""

_PLACE = {"fit": ("--name", "{sweep}/{trial}"), "analyze": ("--out", "{runs_dir}/{sweep}/{trial}")}


def sweep(
    name: str,
    axes: dict[str, list[Any] | dict[str, dict[str, Any]]],
    options: dict[str, Any],
    command: list[str] | None = None,
    runs_dir: str = "runs",
    cpus_per_run: float = 1,
    gpus_per_run: float = 0,
    max_restarts: int = 3,
    dry_run: bool = False,
    *,
    check: Check,
    extra: Sequence[str] = (),
) -> None:
    """Run a grid of commands on Ray Tune: here, or on the cluster that RAY_ADDRESS names.

    Pretrained models are trained once, before the runs that need them. Finished runs are skipped, interrupted ones
    resume. A failed run is reported at the end and stops no other; the same command again runs what is left. The
    arguments after `--` on the command line are passed to every run.

    Args:
        name: Its folder in ``runs_dir``.
        axes: What the grid is over: for each axis its values, or labels with the options that each stands for.
        options: Options of every run, in order, as on the command line; ``{axis}`` is replaced by the axis's value.
        command: What is run: ``[fit]``, or ``[analyze, WHAT]``.
        runs_dir: Folder of all runs and of their pretrained models; on a cluster, one that all its machines see.
        cpus_per_run: Cores of one run.
        gpus_per_run: GPUs of one run.
        max_restarts: How often a run is started again after its process has died.
        dry_run: Print the commands instead of running them.
        check: Gives a command's settings and the pretrained models that it needs, without running it.
        extra: Further arguments of every run.

    Raises:
        UserError: A run's settings are wrong, before anything is started; or some runs have failed, after the others.
    """
    command = command or ["fit"]
    if command[0] not in _PLACE:
        raise UserError(f"A sweep is over {' or '.join(_PLACE)}, not '{command[0]}'.")
    jobs: dict[str, Job] = {}
    runs = [_plan(trial, name, command, runs_dir, check, jobs) for trial in expand(axes, options, extra)]
    waiting = [job for job, _ in runs if not job.is_finished]
    needed = {model for job in waiting for model in job.needs}
    models = [model for model in jobs.values() if model.name in needed and not model.is_finished]
    if dry_run:
        for job in (*models, *waiting):
            print(job.command)
        return
    if models or waiting:
        start_ray(cpus_per_run, gpus_per_run)  # before a folder is claimed for what Ray cannot run
    for job, settings in runs:
        claim_folder(job, settings)
    done = len(runs) - len(waiting)
    show_line(f"{name}: {len(runs)} runs, {done} of them finished, {len(models)} pretrained models to train.")
    machine = Path(runs_dir, name, "tune"), cpus_per_run, gpus_per_run, max_restarts
    run_jobs(models, *machine, title=f"{name} pretrained models")
    ready = [job for job in waiting if all(jobs[model].is_finished for model in job.needs)]
    run_jobs(ready, *machine, title=name)
    _report_results([job for job, _ in runs], Path(runs_dir, name, "results.csv"))
    _report_failures(models, waiting, jobs)


def _plan(
    trial: Trial, sweep: str, command: Sequence[str], runs_dir: str, check: Check, jobs: dict[str, Job]
) -> tuple[Job, dict[str, Any]]:
    """The job of a trial, and what shapes its result; the pretrained models that it needs are added to ``jobs``."""
    option, place = _PLACE[command[0]]
    where = option, place.format(sweep=sweep, trial=trial.name, runs_dir=runs_dir)
    args = (*command, *trial.args, "--runs_dir", runs_dir, *where)
    try:
        settings, models = check(args)
    except UserError as error:
        raise UserError(f"{trial.name}: {error}") from None
    if settings.get("seed_everything") is True:
        raise UserError(f"{trial.name}: seed_everything must be a number in a sweep, whose runs may be started again.")
    folder = Path(runs_dir, sweep, trial.name)
    needs = tuple(model.directory.name for model in models)
    for model in models:
        log = Path(runs_dir, sweep, "pretrained", f"{model.directory.name}.txt")
        known = Job(model.directory.name, model.command, model.directory, log, model.weights, makes_finished=True)
        jobs.setdefault(known.name, known)
    resuming = ("--ckpt_path", "last") if command[0] == "fit" else ()
    job = Job(trial.name, (*args, *resuming), folder, folder / "log.txt", folder / "finished", needs)
    # Records of earlier sweeps have the pretrained models as "parts".
    made_of = {"dataset": models.source.load().fingerprint, "parts": ", ".join(sorted(needs))}
    return job, comparable(plain(settings)) | made_of


def _report_results(runs: Sequence[Job], path: Path) -> None:
    """The metrics of analyses, smallest first, in a table and a CSV file."""
    results = {job.name: metrics for job in runs if (metrics := job.result())}
    if not results:
        return
    names = list(next(iter(results.values())))
    ranked = sorted(results, key=lambda run: (math.isnan(results[run][names[0]]), results[run][names[0]]))
    write_csv(path, ["run", *names], ([run, *results[run].values()] for run in ranked))
    table = Table("run", *names)
    for run in ranked[:10]:
        table.add_row(run, *(f"{results[run][name]:.5g}" for name in names))
    show_table(table)
    show_line(f"All {len(ranked)} in {path}")


def _report_failures(models: Sequence[Job], runs: Sequence[Job], jobs: dict[str, Job]) -> None:
    failed = [job for job in (*models, *runs) if not job.is_finished]
    if not failed:
        show_line("All runs are finished.")
        return
    for job in failed:
        missing = [model for model in job.needs if not jobs[model].is_finished]
        reason = f"needs {', '.join(missing)}" if missing else f"{job.last_words()} ({job.log})"
        show_line(f"{job.name} failed: {reason}")
    raise UserError(f"{len(failed)} of {len(models) + len(runs)} have failed; the same command tries them again.")

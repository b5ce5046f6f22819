"""What a sweep runs: a command, the folder that it fills, and how to see that it is done."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dydiff.run.settings import difference
from dydiff.utils.errors import UserError
from dydiff.utils.files import replacing


@dataclass(frozen=True)
class Job:
    """A command to run.

    Attributes:
        name: Its name in the table of progress.
        args: Arguments of ``python -m dydiff``.
        folder: Where it writes.
        log: File of what it prints.
        finished: File that is there when there is nothing left to do.
        needs: Names of the jobs that have to be finished before.
        makes_finished: True if the command writes ``finished`` itself; otherwise the worker creates it on
            success.
    """

    name: str
    args: tuple[str, ...]
    folder: Path
    log: Path
    finished: Path
    needs: tuple[str, ...] = ()
    makes_finished: bool = False

    @property
    def command(self) -> str:
        """The command line that does the same by hand."""
        return f"python -m dydiff {shlex.join(self.args)}"

    @property
    def is_finished(self) -> bool:
        return self.finished.is_file()

    def result(self) -> dict[str, float]:
        """The metrics that an analysis wrote to ``result.yaml``; of other commands, none."""
        path = self.folder / "result.yaml"
        return yaml.safe_load(path.read_text()) if path.is_file() else {}

    def last_words(self) -> str:
        """The last line that it printed."""
        lines = self.log.read_text(errors="replace").split("\n") if self.log.is_file() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")


def claim_folder(job: Job, settings: Mapping[str, Any]) -> None:
    """Write to ``<folder>/trial.yaml`` what is made there.

    Args:
        job: The job.
        settings: What shapes its result, by key: its settings, its dataset, its pretrained models.

    Raises:
        UserError: The folder is that of a command with other settings.
    """
    record = job.folder / "trial.yaml"
    if not record.is_file():
        values = {key: str(value) for key, value in settings.items()}
        with replacing(record) as part:
            part.write_text(yaml.safe_dump({"command": job.command, "settings": values}, width=10_000))
        return
    try:
        changed = difference(yaml.safe_load(record.read_text())["settings"], settings)
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError):
        raise UserError(f"{record} is not what a sweep writes: delete {job.folder} to make it again.") from None
    if changed:
        raise UserError(
            f"{job.folder} was made with {changed}. Give the sweep another name, or delete the folder to make it again."
        )

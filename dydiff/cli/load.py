"""Runs and pretrained models from Python: ``dydiff.load_run``, ``dydiff.load_model``."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch.utilities.seed import isolate_rng

from dydiff.agents.base import Agent, check_task
from dydiff.cli.fits import models_of
from dydiff.cli.lightning_cli import DyDiffCLI, parse
from dydiff.data.episodes import Episodes, Trajectories
from dydiff.data.source import EpisodeSource
from dydiff.envs.play import Policy
from dydiff.models.base import PretrainedModule, load_weights
from dydiff.rollout.base import PlainPolicy, Synthesizer
from dydiff.run.checkpoint import Checkpoint
from dydiff.run.pretraining import make_source, read_card
from dydiff.utils.errors import UserError, first_line
from dydiff.utils.seeding import seed_of

PIECE = 512
"""Trajectories that are made at once: each piece has its own random numbers."""


@dataclass(frozen=True)
class Run:
    """A trained agent, its dataset, and what makes its synthetic data.

    Attributes:
        folder: ``runs/<name>/version_<N>``.
        config: Its parsed config.
        source: The dataset's source; ``source.task`` is the task.
        episodes: The dataset.
        agent: The agent with the weights of its last checkpoint, for use: ``agent.policy(sample=False)(obs)``.
        synthesizer: Makes trajectories, with its trained models; ``None`` for a run without synthetic data.
    """

    folder: Path
    config: Namespace
    source: EpisodeSource
    episodes: Episodes
    agent: Agent
    synthesizer: Synthesizer | None

    def rollout(
        self,
        policy: Policy | None = None,
        start_obs: torch.Tensor | None = None,
        num_trajectories: int = 512,
        seed: int = 0,
    ) -> Trajectories:
        """Synthetic trajectories in raw units; the rows that count are those of ``valid``.

        Args:
            policy: Actions ``[N, A]`` in [-1, 1] for raw states ``[N, O]``; ``None`` is the agent's policy.
            start_obs: First states ``[N, O]``; ``None`` draws them from the dataset.
            num_trajectories: How many, where the first states are drawn.
            seed: Of all that is drawn.

        Returns:
            ``N`` trajectories.

        Raises:
            UserError: The run has no synthesizer, or it needs an agent's policy.
        """
        if start_obs is not None:
            return self._roll_out(policy, start_obs, torch.Generator().manual_seed(seed))
        return Trajectories.concatenate(list(self.rollouts(policy, num_trajectories, seed)))

    def rollouts(
        self, policy: Policy | None = None, num_trajectories: int = 512, seed: int = 0
    ) -> Iterator[Trajectories]:
        """:meth:`rollout` in pieces of at most 512 trajectories, so that any number fits in memory."""
        states = self.episodes.transitions.obs
        for first in range(0, num_trajectories, PIECE):
            generator = torch.Generator().manual_seed(seed_of(seed, first // PIECE))
            rows = torch.randint(len(states), (min(PIECE, num_trajectories - first),), generator=generator)
            yield self._roll_out(policy, states[rows], generator)

    @torch.no_grad()
    def _roll_out(self, policy: Policy | None, start_obs: torch.Tensor, generator: torch.Generator) -> Trajectories:
        if self.synthesizer is None:
            raise UserError(f"{self.folder} was trained without synthetic data: it has nothing to roll out with.")
        if policy is None:
            sample = self.config.rollout.init_args.get("sample_actions", True)
            return self.synthesizer.synthesize(self.agent.policy(sample, generator), start_obs, generator)[0]
        return self.synthesizer.synthesize(PlainPolicy(policy), start_obs, generator)[0]


def load_run(folder: str | Path, checkpoint: str | Path | None = None) -> Run:
    """Load a run of ``fit``: dataset, agent, synthesizer with its trained models, all on the CPU.

    Paths in the run's config count from the working directory, as on the command line.

    Args:
        folder: ``runs/<name>/version_<N>``, or ``runs/<name>`` for its newest version.
        checkpoint: The agent's weights; ``None`` is the run's last checkpoint.

    Raises:
        UserError: It is not the folder of an agent's run, or its dataset, weights or pretrained models cannot be used.
    """
    folder = _version(Path(folder))
    path = Path(checkpoint) if checkpoint is not None else folder / "checkpoints" / "last.ckpt"
    saved = Checkpoint.read(path)
    options = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.strategy=auto", "--trainer.logger=false"]
    config = parse(["fit", "--config", str(folder / "config.yaml"), *options])
    source = make_source(config.data.init_args.source)
    check_task(saved.content, source.task)
    models = models_of(config, source)
    with isolate_rng():
        made = DyDiffCLI("fit", config, models)
    missing = [model for model in models if not model.trained]
    if missing:
        names = ", ".join(str(model.directory) for model in missing)
        raise UserError(f"Pretrained models of {folder} are missing: {names}. Put them there, or train them by fit.")
    models.load()
    saved.check_weights(made.model)
    made.model.load_state_dict(saved.content["state_dict"])
    episodes = source.load()
    rollout = made.config_init.rollout
    synthesizer = getattr(rollout, "synthesizer", None)
    if synthesizer is not None:
        synthesizer.attach(source)
    return Run(folder, config, source, episodes, made.model.eval(), synthesizer)


def load_model(folder: str | Path) -> PretrainedModule:
    """Load a pretrained model, ready for use on the CPU.

    The folder is all that it takes, and can be copied. In the ``runs/pretrained`` of another machine ``fit`` finds it
    for the same dataset and settings.

    Args:
        folder: ``runs/pretrained/<config>-<dataset>-<key>``.

    Raises:
        UserError: It is not the folder of a trained model.
    """
    folder = Path(folder)
    if not (folder / "weights.pt").is_file():
        raise UserError(f"{folder} has no weights.pt: it is not the folder of a trained model.")
    module_class, init_args = read_card(folder)
    with isolate_rng():
        module = module_class(**init_args)
    load_weights(module, folder / "weights.pt")
    return module


def _version(folder: Path) -> Path:
    versions = [path for path in folder.glob("version_*") if path.name.removeprefix("version_").isdigit()]
    if versions:
        folder = max(versions, key=lambda path: int(path.name.removeprefix("version_")))
    try:
        content: Any = yaml.safe_load((folder / "config.yaml").read_text())
        is_run = "updates_per_epoch" in content["data"]["init_args"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is not the folder of an agent's run ({first_line(error)}).") from None
    if not is_run:
        raise UserError(f"{folder} is not the folder of an agent's run: its config trains another model.")
    return folder

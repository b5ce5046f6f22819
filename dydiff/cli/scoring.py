"""The commands ``validate`` and ``test``, from their options to the result."""

from collections.abc import Sequence

import torch

from dydiff.agents.base import Agent, check_task
from dydiff.cli.lightning_cli import DyDiffCLI, parse
from dydiff.cli.threads import torch_threads
from dydiff.envs.video import check_video, save_video
from dydiff.run.checkpoint import checkpoint_to_score
from dydiff.run.loggers import without_files
from dydiff.run.pretraining import make_source
from dydiff.run.settings import class_of
from dydiff.run.summary import write_scores
from dydiff.utils.console import show_line


def score(command: str, args: Sequence[str]) -> None:
    """``validate`` or ``test`` a saved agent."""
    config = parse([command, *args])
    checkpoint = checkpoint_to_score(config)
    source = make_source(config.data.init_args.source)
    if issubclass(class_of(config.model), Agent):
        check_task(checkpoint.content, source.task)
    config.rollout = None
    config.trainer.logger = without_files(config.trainer.logger)
    made = DyDiffCLI(command, config)
    checkpoint.check_weights(made.model)
    video = config.get("video")
    if video is not None:
        check_video(video, source.task)
    options = {"ckpt_path": checkpoint.path, "verbose": config.verbose, "weights_only": config.weights_only}
    with torch_threads(config.threads, made.trainer):
        getattr(made.trainer, command)(made.model, datamodule=made.datamodule, **options)
    if made.trainer.is_global_zero and not config.trainer.fast_dev_run:
        write_scores(made.trainer, command, checkpoint.path, config.out)
    if video is not None and made.trainer.is_global_zero:
        seed, agent = made.datamodule.test_seed, made.model
        policy = agent.policy(agent.sample_eval_actions, torch.Generator(agent.device).manual_seed(seed))
        total = save_video(policy, source.task, seed, video, device=agent.device)
        show_line(f"An episode of return {total:.1f} is in {video}")

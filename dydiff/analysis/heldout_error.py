"""Error on held-out trajectories in one number: what a search over a sampler's settings minimises."""

from pathlib import Path

import torch
import yaml

from dydiff.data.source import EpisodeSource
from dydiff.envs.real_rollout import RecordedActions
from dydiff.rollout.base import PlainPolicy, Synthesizer
from dydiff.utils.errors import UserError
from dydiff.utils.files import replacing


@torch.no_grad()
def heldout_error(
    source: EpisodeSource,
    synthesizer: Synthesizer,
    num_windows: int = 1000,
    holdout_fraction: float = 0.1,
    seed: int = 0,
    out: str = "runs/heldout_error",
) -> None:
    """Measure the error of made states on held-out trajectories, given their first state and their actions.

    Needs no simulator. Writes ``<out>/result.yaml`` with the mean and the median over windows, averaged over steps, of
    the squared error of the standardised states. A sweep over the sampler's settings that takes the smallest is the
    grid search of EDM's appendix E.2, by which the paper has found its own.

    Args:
        source: The dataset.
        synthesizer: Makes the states.
        num_windows: Windows, spread over the held-out episodes.
        holdout_fraction: That of the pretrained models, so that the windows are held out for them.
        seed: Seed of windows and samples.
        out: Folder of the result.

    Raises:
        UserError: No held-out episode is long enough.
    """
    episodes = source.load()
    held_out = episodes.select(episodes.split(holdout_fraction)[1])
    horizon = synthesizer.rollout_length
    starts = held_out.window_starts(horizon)
    complete = starts[held_out.windows(starts, horizon).valid.all(1)]
    if len(complete) == 0:
        raise UserError(f"No held-out episode has {horizon} steps: shorten the rollouts or hold out more.")
    generator = torch.Generator().manual_seed(seed)
    windows = held_out.windows(complete[torch.randperm(len(complete), generator=generator)[:num_windows]], horizon)
    synthesizer.attach(source)
    made = synthesizer.synthesize(PlainPolicy(RecordedActions(windows.act)), windows.obs[:, 0], generator)[0]
    scale = held_out.transitions.obs.std(0, correction=0) + 1e-6
    errors = ((made.obs[:, 1:horizon] - windows.obs[:, 1:]) / scale).square().mean(-1)
    result = {"mean": float(errors.mean()), "median": float(errors.median(0).values.mean())}
    with replacing(Path(out, "result.yaml")) as part:
        part.write_text(yaml.safe_dump(result, sort_keys=False))
    print(f"mean {result['mean']:.5f} median {result['median']:.5f}, written to {out}/result.yaml")

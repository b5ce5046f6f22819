"""How synthetic transitions compare with the dataset's, and with the real environment."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor

from dydiff.agents.base import Agent, load_agent
from dydiff.data.episodes import Transitions
from dydiff.data.source import EpisodeSource
from dydiff.data.tasks import Task
from dydiff.data.termination import ended
from dydiff.envs.real_rollout import RecordedActions, real_rollout, restorable
from dydiff.models.normalizer import Normalizer
from dydiff.rollout.base import PlainPolicy, Synthesizer
from dydiff.utils.errors import UserError
from dydiff.utils.files import replacing
from dydiff.utils.output import new_figure, save_figure, write_csv


class Quality(NamedTuple):
    """Figures about transitions, against a reference set.

    Attributes:
        distances: Kolmogorov distance of each dimension's marginal, ``[D]``.
        correlations: Pairwise correlations, ``[D, D]``.
        correlation_error: Mean absolute difference of them from the reference's.
        dynamics_error: Squared error of ``s'`` against the real environment's step from ``s`` under ``a``, in standard
            deviations of the reference's states, mean over dimensions; of transitions whose state can be restored.
        terminal_agreement: Share whose terminal agrees with the termination rule on ``s'``.
    """

    distances: Tensor
    correlations: Tensor
    correlation_error: float
    dynamics_error: Tensor
    terminal_agreement: float


def kolmogorov_distance(a: Tensor, b: Tensor) -> Tensor:
    """Largest difference of the empirical distribution functions of ``a [N]`` and ``b [M]``, in [0, 1]."""
    a, b = a.sort().values, b.sort().values
    points = torch.cat([a, b])
    shares = [torch.searchsorted(values, points, right=True) / len(values) for values in (a, b)]
    return (shares[0] - shares[1]).abs().max()


def measure_quality(transitions: Transitions, reference: Transitions, task: Task, max_played: int = 2000) -> Quality:
    """Compare ``[N]`` transitions with ``[M]`` of the dataset, and up to ``max_played`` with the environment."""
    table, expected = transitions.table(), reference.table()
    distances = torch.stack([kolmogorov_distance(*pair) for pair in zip(table.T, expected.T, strict=True)])
    correlations = _correlations(table)
    played = transitions.at(restorable(task, transitions.obs)).at(slice(0, max_played))
    truth = real_rollout(task, played.obs, RecordedActions(played.act[:, None]), 1)[0][:, 1]
    scale = Normalizer(task.obs_dim)
    scale.fit_standard(reference.obs, floor=1e-6)
    by_rule = ended(task.terminated, transitions.obs, transitions.act, transitions.next_obs)
    return Quality(
        distances,
        correlations,
        (correlations - _correlations(expected)).abs().mean().item(),
        ((played.next_obs - truth) / scale.scale).square().mean(1),
        (by_rule == transitions.terminal).float().mean().item(),
    )


def _correlations(table: Tensor) -> Tensor:
    return torch.corrcoef(table.T).nan_to_num(0.0)  # a constant dimension correlates with nothing


@torch.no_grad()
def transition_quality(
    source: EpisodeSource,
    synthesizer: Synthesizer,
    agent: Agent | None = None,
    checkpoint: str | None = None,
    num_transitions: int = 20_000,
    seed: int = 0,
    out: str = "runs/transition_quality",
) -> None:
    """Compare synthetic transitions with the dataset's and with the real environment.

    Two disjoint halves of the dataset are compared likewise: what no model can beat. Writes ``<out>/<dataset>.csv``,
    ``<out>/<dataset>.png`` and, for the table of a sweep, ``<out>/result.yaml``; prints a summary.

    Args:
        source: The dataset; it gives the start states.
        synthesizer: Makes the transitions.
        agent: The agent whose policy is rolled out, for a synthesizer that needs one; SynthER does not.
        checkpoint: Its checkpoint.
        num_transitions: Transitions of each kind.
        seed: Seed of the synthesizer and of the halves.
        out: Folder of the results.

    Raises:
        UserError: An agent without a checkpoint, or none where the synthesizer needs actions.
    """

    def policy(obs: Tensor) -> Tensor:
        raise UserError("This synthesizer rolls a policy out: name an 'agent' and its 'checkpoint'.")

    if agent is not None:
        load_agent(agent, checkpoint, source.task)
    shown = PlainPolicy(policy) if agent is None else agent.policy(sample=False)
    generator = torch.Generator().manual_seed(seed)
    real = source.load().transitions
    order = torch.randperm(len(real.reward), generator=generator)
    count = min(num_transitions, len(order) // 2)
    first, second = real.at(order[:count]), real.at(order[count : 2 * count])
    synthesizer.attach(source)
    num_starts = -(-count // getattr(synthesizer, "rollout_length", 1))
    trajectories = synthesizer.synthesize(shown, first.obs[:num_starts], generator)[0]
    made = trajectories.at(trajectories.finite).transitions()
    made = made.at(torch.randperm(len(made.reward), generator=generator))
    results = {
        "synthetic": measure_quality(made, first, source.task),
        "real": measure_quality(second, first, source.task),
    }
    names = _dimension_names(source.task)
    folder = Path(out)
    _write_csv(results, names, folder / f"{source.name}.csv")
    _plot(made, first, results, names, folder / f"{source.name}.png", source.name)
    error = results["synthetic"].dynamics_error
    metrics = {"dynamics_error": float(error.mean()), "median": float(error.median())}
    with replacing(folder / "result.yaml") as part:
        part.write_text(yaml.safe_dump(metrics, sort_keys=False))
    for kind, quality in results.items():
        error = quality.dynamics_error
        worst = int(quality.distances.argmax())
        print(
            f"{kind:9} Kolmogorov distance mean {quality.distances.mean():.4f} worst {quality.distances[worst]:.4f} "
            f"({names[worst]}), correlation error {quality.correlation_error:.4f}, dynamics error mean "
            f"{error.mean():.2e} median {error.median():.2e}, terminal agreement {quality.terminal_agreement:.4f}"
        )
    print(f"Written to {folder / source.name}.csv and .png")


def _dimension_names(task: Task) -> list[str]:
    states, actions = range(task.obs_dim), range(task.act_dim)
    return [*(f"s{i}" for i in states), *(f"a{i}" for i in actions), "r", *(f"s'{i}" for i in states), "terminal"]


def _write_csv(results: dict[str, Quality], names: list[str], path: Path) -> None:
    rows = (
        (kind, name, float(distance))
        for kind, quality in results.items()
        for name, distance in zip(names, quality.distances, strict=True)
    )
    write_csv(path, ["data", "dimension", "kolmogorov_distance"], rows)


def _plot(
    made: Transitions, real: Transitions, results: dict[str, Quality], names: list[str], path: Path, title: str
) -> None:
    """Histograms of every dimension, real and synthetic, above both correlation matrices."""
    columns = 8
    rows = -(-len(names) // columns)
    figure = new_figure(14, 1.4 * rows + 5)
    panels: Any = figure.subfigures(2, 1, height_ratios=[1.4 * rows, 5])
    top, bottom = panels
    tables = real.table(), made.table()
    for index, axes in enumerate(top.subplots(rows, columns).flat):
        axes.set_axis_off()
        if index < len(names):
            both = [table[:, index].numpy() for table in tables]
            axes.hist(both, bins=40, density=True, histtype="step", label=["real", "synthetic"])
            axes.set_title(f"{names[index]}: {results['synthetic'].distances[index]:.3f}", fontsize=8)
    top.legend(*top.axes[0].get_legend_handles_labels(), loc="lower right")
    top.suptitle(f"{title}: marginals, Kolmogorov distance")
    matrices = {"real": results["real"].correlations, "synthetic": results["synthetic"].correlations}
    matrices["difference"] = matrices["synthetic"] - matrices["real"]
    for axes, (name, matrix) in zip(bottom.subplots(1, 3), matrices.items(), strict=True):
        picture = axes.imshow(matrix.numpy(), vmin=-1, vmax=1, cmap="RdBu")
        axes.set_title(f"correlations: {name}")
    bottom.colorbar(picture, ax=bottom.axes)
    save_figure(figure, path)

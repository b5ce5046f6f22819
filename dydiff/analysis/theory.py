"""The paper's theory (section 4.3) next to measured errors: the constants, the bounds, and whether they are satisfied.

Distances are root mean squares over dimensions, of standardised states or of actions, averaged over trajectories;
between sequences, the largest over steps. The proofs of Lemma 1 and Theorem 1 are about total variation, which is 1
between a deterministic environment and any model with a density: with it they say nothing. With distances they are not
proven; they are reported as what a reader of the paper would compute.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dydiff.agents.base import Agent, load_agent
from dydiff.data.source import EpisodeSource
from dydiff.data.tasks import Task
from dydiff.envs.play import Policy
from dydiff.envs.real_rollout import RecordedActions, held_out_starts, real_rollout
from dydiff.rollout.dydiff import DyDiff
from dydiff.utils.files import replacing
from dydiff.utils.output import markdown_table, new_figure, save_figure, write_csv

NOISES = (0.05, 0.1, 0.2, 0.4)
"""Standard deviations of the noise on actions and standardised states by which C_d and C_pi are measured."""


def lemma_1(max_reward: float, gamma: float, eps_m: float) -> float:
    """Largest gap of returns between the environment and a single-step model (eq. 12)."""
    return 2 * max_reward * gamma * eps_m / (1 - gamma) ** 2


def theorem_1(max_reward: float, gamma: float, eps_d: float) -> float:
    """Largest gap of returns between the environment and a non-autoregressive model (eq. 13)."""
    return 2 * max_reward * eps_d / (1 - gamma)


def error_bound(c: float, num_corrections: int, rollout_length: int, eps_m: float, eps_d: float) -> float:
    """Largest error of the states after ``num_corrections`` corrections (eq. 17).

    Args:
        c: ``C = C_d C_pi``.
        num_corrections: M.
        rollout_length: L.
        eps_m: Error of one step of the single-step model.
        eps_d: Error of the denoiser's states under the right actions.
    """
    return c**num_corrections * rollout_length * eps_m + eps_d * sum(c**k for k in range(num_corrections))


@dataclass(frozen=True)
class Constants:
    """Measured values of what the theory assumes.

    Attributes:
        eps_m: Error of one step of the single-step model, from real states under real actions.
        eps_d: Error of the denoiser's states under the real actions.
        c_d: Growth of the denoiser's error with the distance of the actions (Assumption 1).
        c_pi: Distance of the policy's actions by that of its states (Assumption 2).
    """

    eps_m: float
    eps_d: float
    c_d: float
    c_pi: float

    @property
    def c(self) -> float:
        return self.c_d * self.c_pi


@dataclass(frozen=True)
class Iteration:
    """The rollout after some corrections.

    Attributes:
        errors: Distance of its states to the real ones, ``[L - 1]``.
        inconsistency: Distance between the actions that the states were made for and the policy's.
        coverage: Mean distance of its states to the nearest real one.
        return_gap: Between its mean discounted return over L steps and the real rollout's, by the reward model.
    """

    errors: Tensor
    inconsistency: float
    coverage: float
    return_gap: float


def measure(
    synthesizer: DyDiff,
    task: Task,
    policy: Policy,
    data: Tensor,
    start: Tensor,
    gamma: float,
    max_corrections: int,
    seed: int,
) -> tuple[Constants, list[Iteration]]:
    """The constants, and the rollout after each correction.

    The constants are measured on sequences of their own, disturbed by noise, not on the corrections that they are to
    bound.

    Args:
        synthesizer: Attached to its dataset.
        task: Its task; the environment is the truth.
        policy: The policy.
        data: States of the dataset ``[D, O]``.
        start: Start states ``[N, O]``.
        gamma: Discount of the returns.
        max_corrections: Corrections made.
        seed: Seed of all noise.
    """
    generator = torch.Generator().manual_seed(seed)
    length = synthesizer.rollout_length
    scale = data.std(0, correction=0) + 1e-6
    real_obs, real_act, valid = real_rollout(task, start, policy, length)
    obs = real_obs[:, :length]

    def distance(one: Tensor, other: Tensor) -> Tensor:
        """``[L]``: over trajectories that are still alive."""
        apart = (one - other).square().mean(-1).sqrt()
        return (apart * valid).sum(0) / valid.sum(0).clamp(min=1)

    def mean_return(states: Tensor, act: Tensor) -> float:
        rewards = synthesizer.reward(states, act) * valid
        return float((rewards * gamma ** torch.arange(length)).sum(1).mean())

    def states_for(act: Tensor) -> Tensor:
        """The denoiser's states for given actions, from a draft for the same actions."""
        draft = synthesizer.draft.roll_out(RecordedActions(act), start, generator)[0][:, :length]
        return synthesizer.denoiser.sample_states(draft, act, synthesizer.sampler, generator)

    stepped = synthesizer.draft.step(obs.flatten(0, 1), real_act.flatten(0, 1), generator).unflatten(0, obs.shape[:2])
    eps_m = float(distance(stepped / scale, real_obs[:, 1:] / scale).max())
    eps_d = float(distance(states_for(real_act) / scale, obs / scale).max())
    c_d, c_pi = 0.0, 0.0
    for noise in NOISES:
        act = (real_act + noise * torch.randn(real_act.shape, generator=generator)).clamp(-1, 1)
        error = float(distance(states_for(act) / scale, obs / scale).max())
        c_d = max(c_d, (error - eps_d) / float(distance(act, real_act).max()))
        moved = obs + noise * scale * torch.randn(obs.shape, generator=generator)
        answers = policy(moved.flatten(0, 1)).unflatten(0, obs.shape[:2])
        c_pi = max(c_pi, float(distance(answers, real_act).max() / distance(moved / scale, obs / scale).max()))
    made, act = synthesizer.draft.roll_out(policy, start, generator)
    iterations, before = [], act
    for correction in range(max_corrections + 1):
        if correction:
            before = act
            made, act = synthesizer.correct(policy, made, act, generator)
        errors = distance(made[:, :length] / scale, obs / scale)[1:]
        nearest = _nearest((made[:, 1:length] / scale)[valid[:, 1:]], data / scale, generator)
        gap = abs(mean_return(made[:, :length], act) - mean_return(obs, real_act))
        iterations.append(Iteration(errors, float(distance(before, act).max()), nearest, gap))
    return Constants(eps_m, eps_d, c_d, c_pi), iterations


def _nearest(states: Tensor, data: Tensor, generator: torch.Generator, most: int = 2000) -> float:
    """Mean distance of some states to the nearest of the data, in root mean squares over dimensions."""
    chosen = states[torch.randperm(len(states), generator=generator)[:most]]
    nearest = torch.cat([torch.cdist(part, data).amin(1) for part in chosen.split(100)])
    return float(nearest.mean()) / states.shape[-1] ** 0.5


@torch.no_grad()
def theory(
    source: EpisodeSource,
    synthesizer: DyDiff,
    agent: Agent,
    checkpoint: str,
    gamma: float = 0.99,
    max_corrections: int = 4,
    num_trajectories: int = 500,
    holdout_fraction: float = 0.1,
    seed: int = 0,
    out: str = "runs/theory",
) -> None:
    """Measure what the paper's bounds are made of, and say whether the measured errors respect them.

    Writes `<out>/<dataset>.md`, `.csv` and `.png`: eps_m, eps_d, C_d, C_pi; Lemma 1, Theorem 1 and eq. 17 next to the
    measured return gaps and errors; policy consistency and distance to the nearest real state after each correction.

    Args:
        source: The dataset; its held-out episodes give the start states.
        synthesizer: DyDiff, with the sampler to look at.
        agent: The agent whose policy is rolled out.
        checkpoint: Its checkpoint.
        gamma: Discount of the bounds on returns.
        max_corrections: Largest M.
        num_trajectories: Rollouts, from held-out states.
        holdout_fraction: That of the pretrained models, so that the start states are held out for them.
        seed: Seed of start states and noise.
        out: Folder of the results.

    Raises:
        UserError: No held-out state that the simulator can be set to.
    """
    task, episodes = source.task, source.load()
    load_agent(agent, checkpoint, task)
    starts = held_out_starts(source, holdout_fraction, num_trajectories, seed)
    synthesizer.attach(source)
    data, policy = episodes.transitions, agent.policy(sample=False)
    constants, iterations = measure(synthesizer, task, policy, data.obs, starts, gamma, max_corrections, seed)
    length = synthesizer.rollout_length
    bounds = [error_bound(constants.c, m, length, constants.eps_m, constants.eps_d) for m in range(len(iterations))]
    max_reward = float(data.reward.abs().max())
    lines = [*_verdict(constants, iterations, bounds, max_reward, gamma), "", *_table(iterations, bounds)]
    folder = Path(out)
    with replacing(folder / f"{source.name}.md") as part:
        part.write_text("\n".join(lines) + "\n")
    rows = (
        (m, step, float(error), bound)
        for m, (iteration, bound) in enumerate(zip(iterations, bounds, strict=True))
        for step, error in enumerate(iteration.errors, start=1)
    )
    write_csv(folder / f"{source.name}.csv", ["corrections", "step", "error", "bound"], rows)
    _plot(iterations, bounds, folder / f"{source.name}.png", source.name)
    print("\n".join(lines))
    print(f"Written to {folder / source.name}.md, .csv and .png")


def _verdict(
    constants: Constants, iterations: list[Iteration], bounds: list[float], max_reward: float, gamma: float
) -> list[str]:
    """The constants and the answers, in sentences."""
    broken = [str(m) for m, each in enumerate(iterations) if float(each.errors.max()) > bounds[m]]
    shrinks = "corrections shrink the bound" if constants.c < 1 else "each correction widens the bound"
    first, second = (lemma_1(max_reward, gamma, constants.eps_m), theorem_1(max_reward, gamma, constants.eps_d))
    ratio = gamma / (1 - gamma) * constants.eps_m / constants.eps_d
    return [
        f"eps_m = {constants.eps_m:.3f}, eps_d = {constants.eps_d:.3f}, C_d = {constants.c_d:.2f}, "
        f"C_pi = {constants.c_pi:.2f}, so C = {constants.c:.2f}.",
        "",
        f"* **C < 1: {'yes' if constants.c < 1 else 'no'}**, {shrinks}.",
        f"* **Measured errors within eq. 17: {'yes' if not broken else 'not for M = ' + ', '.join(broken)}**.",
        f"* With distances for total variation, max |r| = {max_reward:.2f} and gamma = {gamma:g}, Lemma 1 bounds the "
        f"gap of returns by {first:,.0f} and Theorem 1 by {second:,.0f} (their ratio is {ratio:.1f}); returns cannot "
        f"differ by more than {2 * max_reward / (1 - gamma):,.0f} at all.",
    ]


def _table(iterations: list[Iteration], bounds: list[float]) -> list[str]:
    columns = ["M", "largest error over steps", "eq. 17", "mean error", "actions against the policy's"]
    columns += ["nearest real state", "gap of returns"]
    rows = []
    for m, (each, bound) in enumerate(zip(iterations, bounds, strict=True)):
        metrics = (each.errors.max(), bound, each.errors.mean(), each.inconsistency, each.coverage, each.return_gap)
        rows.append([str(m), *(f"{float(metric):.3f}" for metric in metrics)])
    return markdown_table(columns, rows)


def _plot(iterations: list[Iteration], bounds: list[float], path: Path, title: str) -> None:
    """Errors over steps, and eq. 17's bound, by the number of corrections."""
    figure = new_figure(6, 4)
    axes = figure.subplots()
    for m, (each, bound) in enumerate(zip(iterations, bounds, strict=True)):
        axes.plot(range(1, len(each.errors) + 1), each.errors, color=f"C{m}", label=f"M = {m}")
        axes.axhline(bound, color=f"C{m}", linestyle=":", linewidth=1)
    axes.set(yscale="log", xlabel="step", title=title, ylabel="distance to the real rollout\n(dotted: eq. 17)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_figure(figure, path)

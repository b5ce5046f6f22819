"""What is fast, what it is held against, and by how much: ``make bench``, or ``python -m benchmarks CASE...``.

One core. Ratios within one run are what counts; they go to ``benchmarks/results.csv``.
"""

import argparse
import csv
import dataclasses
import logging
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import mujoco
import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.harness import MatrixProducts, Peer, Result, Slice, SteppedFit, measure, timed
from benchmarks.naive import NaiveTD3BC
from dydiff.agents import BC, CQL, EDAC, IQL, TD3BC, Agent, DiffQL, ReBRAC
from dydiff.agents.optimization import Minimizer, compiled
from dydiff.data.episodes import Batch, Episodes, Transitions
from dydiff.data.mixed import MixedDataModule
from dydiff.data.source import EpisodeSource
from dydiff.data.tasks import TASKS, Task
from dydiff.data.termination import never
from dydiff.envs import make_env
from dydiff.envs.play import play_episodes
from dydiff.models.denoiser import Denoiser
from dydiff.models.dynamics import DynamicsEnsemble
from dydiff.models.edm import EDMSampler
from dydiff.models.reward import RewardModel
from dydiff.rollout.dydiff import DyDiff

Variants = dict[str, tuple[Slice, int]]
HERE = Path(__file__).parent
BATCH = 256
ROUNDS = 15
QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False, "limit_val_batches": 0, "max_epochs": -1,
}  # fmt: skip


def updates(make: Callable[[Task], Agent], task: Task, peer: str | None, count: int = 50) -> Variants:
    """Agent updates: bare, in Lightning, and as others do them; slices of ``count``."""
    batch = Batch(
        torch.randn(BATCH, task.obs_dim), torch.rand(BATCH, task.act_dim) * 2 - 1, torch.randn(BATCH),
        torch.randn(BATCH, task.obs_dim), torch.rand(BATCH) < 0.01, torch.ones(BATCH).bool(),
        torch.rand(BATCH, task.act_dim) * 2 - 1,
    )  # fmt: skip

    def bare(backend: str | None, number: int = count) -> Callable[[], None]:
        agent = make(task)
        optimizers = agent.configure_optimizers()
        assert isinstance(optimizers, list)
        agent.minimizers = [Minimizer(optimizer) for optimizer in optimizers]
        update = agent.update if backend is None else compiled(agent.update, agent.minimizers, backend)

        def run() -> None:
            for index in range(1, number + 1):
                update(batch, **agent.schedule(index))

        return run

    once = bare(None, 2)
    once()
    with MatrixProducts() as products:
        once()

    def floor() -> None:
        for _ in range(count // 2):
            products.again()

    def fit(backend: str | None, callback: L.Callback) -> None:
        agent = make(task)
        agent.compile_updates = backend is not None
        data = MixedDataModule(_Random(task), updates_per_epoch=500 * count, updates_per_step=count)
        L.Trainer(**QUIET, callbacks=[callback]).fit(agent, datamodule=data)

    def naive(callback: L.Callback) -> None:
        size = 100_000
        stored = (torch.randn(size, task.obs_dim), torch.rand(size, task.act_dim), torch.randn(size),
                  torch.randn(size, task.obs_dim), torch.zeros(size))  # fmt: skip
        loader = DataLoader(TensorDataset(*stored), BATCH, shuffle=True, drop_last=True)
        L.Trainer(**QUIET, callbacks=[callback]).fit(NaiveTD3BC(task.obs_dim, task.act_dim), loader)

    variants: Variants = {
        "floor": (timed(floor), count),
        "compiled": (timed(bare("inductor")), count),
        "eager": (timed(bare(None)), count),
        f"lightning, K = {count}": (SteppedFit(partial(fit, "inductor"), 1), count),
    }
    if isinstance(make(task), TD3BC):
        variants["naive lightning"] = (SteppedFit(naive, count), count)
    python = HERE.parent / ".venv-d3rlpy/bin/python"
    if peer is not None and python.exists():
        command = [str(python), str(HERE / "peer_d3rlpy.py"), peer, str(task.obs_dim), str(task.act_dim), str(count)]
        variants["d3rlpy"] = (Peer(command), count)
    return variants


class _Random(EpisodeSource):
    """Random transitions of a task's shape."""

    def __init__(self, task: Task, count: int = 100_000) -> None:
        self._task = replace(task, terminated=never)  # random states would contradict the task's rule
        self.transitions = Transitions(
            torch.randn(count, task.obs_dim), torch.randn(count, task.act_dim).tanh(), torch.randn(count),
            torch.randn(count, task.obs_dim), torch.zeros(count, dtype=torch.bool),
        )  # fmt: skip

    @property
    def name(self) -> str:
        return "random"

    @property
    def task(self) -> Task:
        return self._task

    def read(self) -> Episodes:
        count = len(self.transitions.reward)
        return Episodes(self.transitions, torch.zeros(count, dtype=torch.bool), torch.tensor([count]))


def drafts(count: int = 512, length: int = 20) -> Variants:
    """Steps of the single-step model for ``count`` trajectories: the chosen elite alone, or all and then a choice."""
    dynamics = DynamicsEnsemble(11, 3).eval().requires_grad_(False)
    obs, act = torch.randn(count, 11), torch.rand(count, 3)

    @torch.no_grad()
    def elites() -> None:
        for _ in range(length):
            dynamics.step(obs, act)

    @torch.no_grad()
    def everyone() -> None:
        for _ in range(length):
            inputs = obs.expand(dynamics.num_members, -1, -1), act.expand(dynamics.num_members, -1, -1)
            mean, logvar = dynamics.predict(*inputs)
            chosen = dynamics.elites[torch.randint(len(dynamics.elites), (count,))]
            rows = torch.arange(count)
            mean, logvar = mean[chosen, rows], logvar[chosen, rows]
            obs + dynamics.change_normalizer.inverse(mean + (logvar / 2).exp() * torch.randn_like(mean))

    with MatrixProducts() as products:
        elites()
    return {
        "floor": (timed(products.again), count * length),
        "the chosen elite": (timed(elites), count * length),
        "all members": (timed(everyone), count * length),
    }


def evaluation(task: Task, episodes: int = 10, steps: int = 1000) -> Variants:
    """Environment steps of an evaluation; episodes last ``steps``."""
    task = replace(task, episode_limit=steps)
    agent = TD3BC(task.obs_dim, task.act_dim).eval()
    policy, make = agent.policy(sample=False), partial(make_env, task)
    played = int(play_episodes(policy, make, range(episodes))[1].sum())
    env: Any = make()
    env.reset(seed=0)
    simulator = env.unwrapped
    controls = np.random.default_rng(0).uniform(-1, 1, (steps, task.act_dim))

    def physics() -> None:
        for control in controls:
            simulator.data.ctrl[:] = control
            mujoco.mj_step(simulator.model, simulator.data, nstep=simulator.frame_skip)

    @torch.no_grad()
    def one_by_one() -> None:
        for seed in range(episodes):
            obs, over = env.reset(seed=seed)[0], False
            while not over:
                act = policy(torch.as_tensor(obs, dtype=torch.float32)[None])[0].numpy()
                obs, _, terminated, truncated, _ = env.step(act)
                over = terminated or truncated

    return {
        "floor": (timed(physics), steps),
        "together": (timed(lambda: play_episodes(policy, make, range(episodes))), played),
        "one environment's loop": (timed(one_by_one), played),
    }


def sizes(task: Task, count: int = 50) -> Variants:
    """Updates within Lightning, on more and more transitions: drawing from more must cost no more."""

    def fit(transitions: int, callback: L.Callback) -> None:
        data = MixedDataModule(_Random(task, transitions), updates_per_epoch=500 * count, updates_per_step=count)
        L.Trainer(**QUIET, callbacks=[callback]).fit(_made(TD3BC, task), datamodule=data)

    numbers = (10_000, 100_000, 2_000_000)
    return {f"{number:,} transitions": (SteppedFit(partial(fit, number), 1), count) for number in numbers}


def rollouts(length: int = 32) -> Variants:
    """Trajectories of the small models: for more of them (B), and for more corrections of one call each (M)."""
    task = TASKS["hopper"]
    denoiser = Denoiser(task.obs_dim, task.act_dim, length, 32, (1, 2, 4)).eval()
    dynamics, reward = (
        DynamicsEnsemble(task.obs_dim, task.act_dim).eval(),
        RewardModel(task.obs_dim, task.act_dim).eval(),
    )
    policy = _made(TD3BC, task).eval().policy(sample=False)

    def roll_out(count: int, corrections: int) -> tuple[Slice, int]:
        sampler = EDMSampler(num_steps=1, sigma_start=1.0, s_churn=0.0)
        synthesizer = DyDiff(denoiser, dynamics, reward, length, corrections, sampler=sampler)

        def chunks() -> None:
            for begin in range(0, count, 512):
                synthesizer.synthesize(policy, torch.randn(min(512, count - begin), task.obs_dim))

        return timed(chunks), count

    cases = [(128, 1), (512, 1), (2048, 1), (512, 0), (512, 2), (512, 4)]
    return {f"B = {count}, M = {corrections}": roll_out(count, corrections) for count, corrections in cases}


def _made(agent: type[Agent], task: Task) -> Agent:
    torch.manual_seed(0)
    return agent(task.obs_dim, task.act_dim)


CASES: dict[str, Callable[[], Variants]] = {
    "td3bc-hopper": lambda: updates(partial(_made, TD3BC), TASKS["hopper"], "td3bc"),
    "td3bc-halfcheetah": lambda: updates(partial(_made, TD3BC), TASKS["halfcheetah"], "td3bc"),
    "cql-hopper": lambda: updates(partial(_made, CQL), TASKS["hopper"], "cql", count=4),
    "diffql-hopper": lambda: updates(partial(_made, DiffQL), TASKS["hopper"], None, count=10),
    "bc-hopper": lambda: updates(partial(_made, BC), TASKS["hopper"], None),
    "iql-hopper": lambda: updates(partial(_made, IQL), TASKS["hopper"], None),
    "rebrac-hopper": lambda: updates(partial(_made, ReBRAC), TASKS["hopper"], None, count=20),
    "edac-hopper": lambda: updates(partial(_made, EDAC), TASKS["hopper"], None, count=4),
    "draft-hopper": drafts,
    "dataset-size": lambda: sizes(TASKS["hopper"]),
    "rollout-hopper": rollouts,
    "evaluation-halfcheetah": lambda: evaluation(TASKS["halfcheetah"]),
    "evaluation-maze2d-umaze": lambda: evaluation(TASKS["maze2d-umaze"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}; none runs all")
    chosen = parser.parse_args().cases or list(CASES)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    results: list[Result] = []
    for case in chosen:
        results += measure(case, CASES[case](), ROUNDS)
    if chosen == list(CASES):
        with (HERE / "results.csv").open("w", newline="") as file:
            fields = [field.name for field in dataclasses.fields(Result)]
            writer = csv.DictWriter(file, fields, lineterminator="\n")
            writer.writeheader()
            for result in results:
                row = dataclasses.asdict(result)
                writer.writerow(
                    {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()}
                )


if __name__ == "__main__":
    main()

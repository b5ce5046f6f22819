"""How many threads pay on the CPU: ``python -m benchmarks.threads``, on a quiet machine, then with all cores taken.

Each setting is a process of its own, as OMP_WAIT_POLICY is read when torch starts. Settings take turns, so that a noisy
machine is noisy for all of them. A line for each: updates per second, median of the rounds, and the quartiles.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

BATCH = 256
OBS_DIM, ACT_DIM = 11, 3


def work(threads: int, count: int) -> dict[str, float]:
    """Updates per second of a dynamics ensemble's and an agent's training, on numbers of Hopper's size."""
    import torch

    from dydiff.agents import TD3BC
    from dydiff.agents.optimization import Minimizer
    from dydiff.data.episodes import Transitions
    from dydiff.models import DynamicsEnsemble

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    batch = Transitions(
        torch.randn(BATCH, OBS_DIM), torch.rand(BATCH, ACT_DIM) * 2 - 1, torch.randn(BATCH),
        torch.randn(BATCH, OBS_DIM), torch.rand(BATCH) < 0.01,
    )  # fmt: skip
    dynamics, agent = DynamicsEnsemble(OBS_DIM, ACT_DIM), TD3BC(OBS_DIM, ACT_DIM)
    optimizer = dynamics.configure_optimizers()
    made: Any = agent.configure_optimizers()
    agent.minimizers = [Minimizer(each) for each in (made if isinstance(made, (list, tuple)) else [made])]
    for minimizer in agent.minimizers:
        minimizer.sync_lr()

    def update_dynamics(number: int) -> None:
        optimizer.zero_grad()  # type: ignore[union-attr]
        dynamics.loss(batch).backward()
        optimizer.step()  # type: ignore[union-attr]

    def update_agent(number: int) -> None:
        agent.update(batch, **agent.schedule(number))

    return {"dynamics": _speed(update_dynamics, count), "agent": _speed(update_agent, count)}


def _speed(update: Callable[[int], None], count: int) -> float:
    for number in range(1, 11):
        update(number)
    begin = time.perf_counter()
    for number in range(1, count + 1):
        update(number)
    return count / (time.perf_counter() - begin)


@contextmanager
def cores_taken(count: int) -> Iterator[None]:
    """As many processes that compute without a break."""
    command = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure(threads: int, policy: str, count: int) -> dict[str, float]:
    """:func:`work` in a process of its own."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "MKL_"))}
    command = [sys.executable, "-m", "benchmarks.threads", "--work", str(threads), "--count", str(count)]
    done = subprocess.run(
        command, env=environment | {"OMP_WAIT_POLICY": policy}, check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=200, help="Updates of a measurement.")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is not None:
        print(json.dumps(work(options.work, options.count)))
        return
    settings = [(1, "passive"), *((n, policy) for n in options.threads if n > 1 for policy in ("passive", "active"))]
    cores = os.cpu_count() or 1
    for load, others in (("quiet", 0), (f"{cores} cores taken", cores)):
        speeds: dict[tuple[int, str], list[dict[str, float]]] = {setting: [] for setting in settings}
        with cores_taken(others):
            for _ in range(options.rounds):
                for setting in settings:
                    speeds[setting].append(measure(*setting, options.count))
        for (threads, policy), rounds in speeds.items():
            for name in rounds[0]:
                values = [speed[name] for speed in rounds]
                low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
                print(f"{load:16} {name:9} {threads} threads {policy:8} {middle:8.1f}/s  ({low:.1f} to {high:.1f})")


if __name__ == "__main__":
    main()

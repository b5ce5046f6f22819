"""Cases measured side by side: slices of all variants in turn, so that a noisy machine is noisy for all of them."""

import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch.utils._python_dispatch import TorchDispatchMode

Slice = Callable[[], float]
"""Does one slice of work; returns its seconds."""


@dataclass
class Result:
    """A variant's speed: median over slices, and the spread (interquartile range over median)."""

    case: str
    variant: str
    per_second: float
    spread: float
    ratio_to_floor: float | None = None
    ratio_to_naive_lightning: float | None = None


def timed(work: Callable[[], Any]) -> Slice:
    """A slice that calls ``work``."""

    def run() -> float:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    return run


def measure(case: str, variants: dict[str, tuple[Slice, int]], rounds: int) -> list[Result]:
    """Time all variants in turn, ``rounds`` times.

    Args:
        case: Name of the case.
        variants: Name to a slice and the units of work (updates, environment steps) that it does.
        rounds: Slices of each.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for run, _ in variants.values():
        run()
    for _ in range(rounds):
        for name, (run, _) in variants.items():
            seconds[name].append(run())
    results = []
    for name, (_, units) in variants.items():
        low, middle, high = statistics.quantiles(seconds[name], n=4)
        results.append(Result(case, name, units / middle, (high - low) / middle))
    speeds = {result.variant: result.per_second for result in results}
    for result in results:
        if "floor" in speeds:
            result.ratio_to_floor = result.per_second / speeds["floor"]
        if "naive lightning" in speeds:
            result.ratio_to_naive_lightning = result.per_second / speeds["naive lightning"]
        _show(result)
    return results


def _show(result: Result) -> None:
    ratios = {"floor": result.ratio_to_floor, "naive lightning": result.ratio_to_naive_lightning}
    compared = ", ".join(f"{ratio:.2f} of {name}" for name, ratio in ratios.items() if ratio is not None)
    print(
        f"{result.case:22} {result.variant:28} {result.per_second:10.1f}/s ±{result.spread:4.0%}  {compared}",
        flush=True,
    )


class MatrixProducts(TorchDispatchMode):
    """Takes down the shapes of all matrix products that run under it; :meth:`again` runs them bare."""

    _PRODUCTS = ("mm", "bmm", "addmm", "baddbmm")

    def __init__(self) -> None:
        super().__init__()
        self.products: list[tuple[Callable[..., Any], torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name in self._PRODUCTS:
            one, other = args[-2:]
            product = torch.bmm if one.ndim == 3 else torch.mm
            # Contiguous operands, as fast as they come; results go where they went before.
            one, other = torch.randn(one.shape), torch.randn(other.shape)
            self.products.append((product, one, other, product(one, other)))
        return function(*args, **(kwargs or {}))

    def again(self) -> None:
        """All products, in order."""
        for product, one, other, out in self.products:
            product(one, other, out=out)


class SteppedFit(L.Callback):
    """A ``trainer.fit`` that advances only when it is asked to, so that it takes its turn among other variants.

    Args:
        fit: Calls ``trainer.fit`` with the callback that it is given.
        steps: Training steps of a slice.
    """

    def __init__(self, fit: Callable[[L.Callback], None], steps: int) -> None:
        self.steps = steps
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.left = 0
        self.thread = threading.Thread(target=fit, args=(self,), daemon=True)
        self.thread.start()

    def on_train_batch_start(self, *args: Any) -> None:
        if self.left == 0:
            self.done.release()
            self.go.acquire()
            self.left = self.steps
        self.left -= 1

    def __call__(self) -> float:
        """A slice: from a step's beginning to the same point ``steps`` later, whatever Lightning does in between."""
        self._wait()
        begin = time.perf_counter()
        self.go.release()
        self._wait()
        seconds = time.perf_counter() - begin
        self.done.release()
        return seconds

    def _wait(self) -> None:
        while not self.done.acquire(timeout=1):
            if not self.thread.is_alive():
                raise RuntimeError("The training has ended.")


class Peer:
    """Another process that does a slice whenever it is sent a line, and answers with its seconds.

    Args:
        command: Its command line.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self) -> float:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("seconds "):
                return float(line.split()[1])
        raise RuntimeError("The peer has ended.")

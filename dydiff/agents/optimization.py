"""Gradient steps, run one by one or compiled as part of the update, and the choice between the two."""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from dydiff.utils import distributed
from dydiff.utils.errors import first_line

Update = Callable[..., dict[str, Tensor]]

COMPILE_FROM = 20_000
"""Updates from which compilation saves time: it needs seconds to a minute, and saves a quarter of each update."""


class Minimizer:
    """Steps of one Adam optimizer along the gradient of a loss in its own parameters, averaged over ranks.

    Other networks that the loss passes through get no gradient, and none is computed for them. Within
    :func:`compiled` the step is spelled out, so that it is compiled together with the losses; its state is the
    optimizer's either way.

    Args:
        optimizer: Any; only a plain Adam of one parameter group can be compiled.

    Attributes:
        is_plain: Whether it is one.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        group, *others = optimizer.param_groups
        self.optimizer = optimizer
        self.parameters: list[Tensor] = [each for group in optimizer.param_groups for each in group["params"]]
        self.is_plain = (
            type(optimizer) is torch.optim.Adam
            and not others
            and not any(group[key] for key in ("weight_decay", "amsgrad", "maximize", "differentiable"))
        )
        if not self.is_plain:
            return
        self.lr = torch.empty((), device=self.parameters[0].device)
        (self.beta1, self.beta2), self.eps = group["betas"], group["eps"]
        self.sync_lr()
        for parameter in self.parameters:
            if not optimizer.state[parameter]:
                begun = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **begun}
        states = [optimizer.state[parameter] for parameter in self.parameters]
        self.state = [[state[key] for state in states] for key in ("exp_avg", "exp_avg_sq", "step")]

    def sync_lr(self) -> None:
        """Let the next compiled steps have the learning rate that the optimizer has now: schedules change it."""
        if self.is_plain:
            self.lr.fill_(self.optimizer.param_groups[0]["lr"])

    def set_lr(self, lr: float) -> None:
        """Change the learning rate of the next steps, of all parameter groups."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.sync_lr()

    def __call__(self, loss: Tensor, max_grad_norm: float | None = None) -> None:
        """One step; given ``max_grad_norm``, the gradient is clipped to it."""
        gradients = list(distributed.mean(torch.autograd.grad(loss, self.parameters)))
        if max_grad_norm is not None:
            norm = torch.nn.utils.get_total_norm(gradients)
            scale = (max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
            gradients = [gradient * scale for gradient in gradients]
        if torch.compiler.is_compiling():
            self._step(gradients)
            return
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient.contiguous()  # a fused Adam reads a transposed gradient's numbers in wrong order
        self.optimizer.step()

    @torch.no_grad()
    def _step(self, gradients: list[Tensor]) -> None:
        means, squares, steps = self.state
        for step in steps:
            step += 1
        scale = self.lr / (1 - self.beta1 ** steps[0])
        root = (1 - self.beta2 ** steps[0]).sqrt()
        for parameter, gradient, mean, square in zip(self.parameters, gradients, means, squares, strict=True):
            mean.lerp_(gradient, 1 - self.beta1)
            square.mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
            parameter -= scale * mean / (square.sqrt() / root + self.eps)


def compiled_if_possible(update: Update, minimizers: Sequence[Minimizer], backend: str, device: torch.device) -> Update:
    """``update`` as :func:`compiled` gives it, or unchanged where compilation is impossible; logs which of the two.

    The first call compiles.
    """
    chosen: Update | None = None

    def run(batch: Any, **switches: bool) -> dict[str, Tensor]:
        nonlocal chosen
        if chosen is not None:
            return chosen(batch, **switches)
        rank_zero_info("Compiling the update, once for this and some of the next ...")
        begin = time.perf_counter()
        try:
            chosen = compiled(update, minimizers, backend, device.type == "cuda")
            metrics = chosen(batch, **switches)
        except Exception as error:  # a compiler may fail in as many ways as it has parts
            chosen = update
            rank_zero_info(f"The updates run uncompiled: {first_line(error)}.")
            return update(batch, **switches)
        rank_zero_info(f"Compiled in {time.perf_counter() - begin:.0f} s; the next run finds it in torch's cache.")
        return metrics

    if reason := _obstacle(minimizers, backend, device):
        rank_zero_info(f"The updates run uncompiled: {reason}.")
        return update
    return run


def _obstacle(minimizers: Sequence[Minimizer], backend: str, device: torch.device) -> str | None:
    """What is known to keep an update from being compiled."""
    if distributed.rank_and_count()[1] > 1:
        return "several ranks talk to each other in it"
    if not all(minimizer.is_plain for minimizer in minimizers):
        return "an optimizer is not a plain Adam"
    if backend == "inductor" and device.type == "cpu":
        compilers = (os.environ.get("CXX", "c++"), "g++", "clang++")
        return None if any(map(shutil.which, compilers)) else "no C++ compiler"
    return None


def compiled(update: Update, minimizers: Sequence[Minimizer], backend: str, cuda_graphs: bool = False) -> Update:
    """``update`` as one graph, gradients and optimizer steps included; the same random numbers as without.

    Args:
        update: Returns scalars by name; it changes its networks and what its minimizers keep, in place.
        minimizers: Those that it uses.
        backend: torch.compile's.
        cuda_graphs: Record the kernels, and launch them together afterwards. Needs the backend inductor and a GPU;
            anywhere else it changes nothing.
    """
    torch.compiler.reset()  # what an earlier training of this process has compiled counts against a limit
    torch._dynamo.config.trace_autograd_ops = True
    inductor = {"fallback_random": True, "triton.cudagraphs": cuda_graphs}
    options: dict[str, Any] | None = inductor if backend == "inductor" else None
    graph = torch.compile(update, fullgraph=True, dynamic=False, backend=backend, options=options)
    if not cuda_graphs:
        return graph
    for minimizer in minimizers:
        for tensor in (minimizer.lr, *chain.from_iterable(minimizer.state)):
            torch._dynamo.mark_static_address(tensor)  # CUDA graphs need fixed addresses; parameters have them

    def replay(batch: Any, **switches: bool) -> dict[str, Tensor]:
        torch.compiler.cudagraph_mark_step_begin()  # the results of the last update are no longer used:
        return {name: value.clone() for name, value in graph(batch, **switches).items()}  # they are overwritten

    return replay

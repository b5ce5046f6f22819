"""Gradient steps that run one by one or compiled into the whole update."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from dydiff.utils import distributed


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
        self.take_lr()
        for parameter in self.parameters:
            if not optimizer.state[parameter]:
                begun = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **begun}
        states = [optimizer.state[parameter] for parameter in self.parameters]
        self.state = [[state[key] for state in states] for key in ("exp_avg", "exp_avg_sq", "step")]

    def take_lr(self) -> None:
        """Let the next compiled steps have the learning rate that the optimizer has now: schedules change it."""
        if self.is_plain:
            self.lr.fill_(self.optimizer.param_groups[0]["lr"])

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
            parameter.grad = gradient
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


def compiled(
    update: Callable[..., dict[str, Tensor]], minimizers: Sequence[Minimizer], backend: str, cuda_graphs: bool = False
) -> Callable[..., dict[str, Tensor]]:
    """``update`` as one graph, gradients and optimizer steps included; the same random numbers as without.

    Args:
        update: Returns scalars by name; it changes its networks and what its minimizers keep, in place.
        minimizers: Those that it uses.
        backend: torch.compile's.
        cuda_graphs: Record the kernels, and launch them all at once ever after. Needs the backend inductor and a GPU;
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
            torch._dynamo.mark_static_address(tensor)  # a recorded kernel writes where it wrote; networks are so marked

    def replay(batch: Any, **switches: bool) -> dict[str, Tensor]:
        torch.compiler.cudagraph_mark_step_begin()  # nobody looks at the last update's results any more:
        return {name: value.clone() for name, value in graph(batch, **switches).items()}  # they are overwritten

    return replay

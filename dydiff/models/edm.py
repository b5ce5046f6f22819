"""EDM (Karras et al. 2022): preconditioning, noise levels and the stochastic sampler, with hard replacement.

Pure functions over a ``denoise(x [B, ...], sigma [B]) -> [B, ...]`` callable. A ``mask`` of ``x``'s trailing shape is
true where an entry is a condition: given, not generated.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from dydiff.utils.errors import UserError, above_zero, at_least

Denoise = Callable[[Tensor, Tensor], Tensor]

Guide = Callable[[Tensor, float, int], Tensor]
"""``guide(x [B, ...], sigma, step) -> x``: moves the noised samples before each step but the last one."""


def preconditioning(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``c_skip, c_out, c_in, c_noise`` of ``D(x, sigma) = c_skip x + c_out F(c_in x, c_noise)``."""
    total = sigma**2 + sigma_data**2
    return sigma_data**2 / total, sigma * sigma_data / total.sqrt(), total.rsqrt(), sigma.log() / 4


def loss_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """``lambda(sigma)``, which makes the loss of every noise level start at 1."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def noise_levels(num_steps: int, sigma_min: float, sigma_max: float, rho: float) -> list[float]:
    """``num_steps`` levels from ``sigma_max`` down to ``sigma_min``, and 0: ``[num_steps + 1]`` (Algorithm 2).

    One step goes from ``sigma_max`` to 0 at once.
    """
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    last = max(num_steps - 1, 1)
    return [(high + step / last * (low - high)) ** rho for step in range(num_steps)] + [0.0]


def replace(x: Tensor, condition: Tensor, mask: Tensor) -> Tensor:
    """Hard replacement (eq. 3): ``condition`` where ``mask``, else ``x``."""
    return torch.where(mask, condition, x)


@dataclass(frozen=True)
class EDMSampler:
    """The stochastic Heun sampler of Algorithm 2; the defaults are the paper's Table 2.

    Conditions are put back after the churn noise, too: the network never sees them noised, as in training. The
    authors' sampler leaves them noised there.

    Attributes:
        num_steps: Noise levels N; a sample needs ``2 N - 1`` network calls with Heun's method, N with DPM-Solver++.
        solver: ``heun``: Algorithm 2. ``dpm++2m``: the second-order multistep DPM-Solver++ (Lu et al. 2022, their
            Algorithm 2) in EDM's terms, which remembers the last call instead of making a second one; without churn.
        num_samples: Samples whose mean is taken, each from its own noise.
        sigma_min: Lowest noise level.
        sigma_max: Highest noise level.
        sigma_start: Noise level at which sampling from a draft starts; ``null`` ignores the draft and starts from pure
            noise at ``sigma_max`` (the paper).
        draft_noise: Standard deviation of the noise that a draft gets when it enters, in units of ``sigma_start``. With
            1 it is a sample of that noise level. With 0 it gets none, and its own error is taken for the noise.
        rho: Spacing of the levels.
        s_churn: Amount of noise added back over all steps of the sampling.
        s_min: Lowest level with churn.
        s_max: Highest level with churn.
        s_noise: Standard deviation of the churn noise.

    Raises:
        UserError: A setting out of its range, or churn with DPM-Solver++.
    """

    num_steps: int = 34
    solver: Literal["heun", "dpm++2m"] = "heun"
    num_samples: int = 1
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_start: float | None = None
    draft_noise: float = 1.0
    rho: float = 7.0
    s_churn: float = 60.0
    s_min: float = 0.370
    s_max: float = 52.212
    s_noise: float = 1.002

    def __post_init__(self) -> None:
        at_least(1, num_steps=self.num_steps, num_samples=self.num_samples)
        above_zero(sigma_min=self.sigma_min, rho=self.rho)
        at_least(0, draft_noise=self.draft_noise)
        if self.sigma_max <= self.sigma_min:
            raise UserError(f"sigma_max ({self.sigma_max}) must be above sigma_min ({self.sigma_min}).")
        if self.solver == "dpm++2m" and self.s_churn > 0:
            raise UserError("The solver dpm++2m has no churn: set s_churn to 0.")
        if self.sigma_start is not None and not self.sigma_min < self.sigma_start <= self.sigma_max:
            raise UserError(f"sigma_start must be in ({self.sigma_min}, {self.sigma_max}], not {self.sigma_start}.")

    @property
    def num_calls(self) -> int:
        """Network calls of one correction."""
        return self.num_samples * (2 * self.num_steps - 1 if self.solver == "heun" else self.num_steps)

    def __call__(
        self,
        denoise: Denoise,
        condition: Tensor,
        mask: Tensor,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        guide: Guide | None = None,
    ) -> Tensor:
        """Sample what ``mask`` leaves open.

        Args:
            denoise: The denoiser.
            condition: ``[B, ...]``; entries under the mask are the conditions, the others are the draft.
            mask: Bool, broadcastable to ``condition``.
            generator: Source of all noise.
            latents: Unit noise to start from instead of fresh one, shaped as ``condition``.
            guide: Moves the noised samples.

        Returns:
            Samples ``[B, ...]``; entries under the mask are exactly the conditions.
        """
        samples = (self._sample(denoise, condition, mask, generator, latents, guide) for _ in range(self.num_samples))
        return replace(sum(samples, torch.zeros(())) / self.num_samples, condition, mask)

    def _sample(
        self,
        denoise: Denoise,
        condition: Tensor,
        mask: Tensor,
        generator: torch.Generator | None,
        latents: Tensor | None,
        guide: Guide | None,
    ) -> Tensor:
        def noise() -> Tensor:
            return torch.randn(condition.shape, generator=generator, dtype=condition.dtype, device=condition.device)

        def predict(x: Tensor, sigma: float) -> Tensor:
            return denoise(x, torch.full((len(x),), sigma, dtype=x.dtype, device=x.device))

        start = self.sigma_max if self.sigma_start is None else self.sigma_start
        sigmas = noise_levels(self.num_steps, self.sigma_min, start, self.rho)
        x = start * (noise() if latents is None else latents)
        if self.sigma_start is not None:
            x = condition + self.draft_noise * x
        x = replace(x, condition, mask)
        last: tuple[Tensor, float] | None = None  # the step before's clean sample and its noise level
        for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
            if guide is not None and sigma_next > 0:
                x = replace(guide(x, sigma, step), condition, mask)
            if self.s_churn > 0 and self.s_min <= sigma <= self.s_max:
                x, sigma = self._churn(x, sigma, noise())
                x = replace(x, condition, mask)
            target = predict(x, sigma)
            if self.solver == "heun" and sigma_next > 0:
                x = _heun_step(predict, x, target, sigma, sigma_next, condition, mask)
            else:  # Heun's last step is Euler's
                x, last = _dpmpp_2m_step(x, target, sigma, sigma_next, last), (target, sigma)
            x = replace(x, condition, mask)
        return x

    def _churn(self, x: Tensor, sigma: float, noise: Tensor) -> tuple[Tensor, float]:
        """Noise added back, and the noise level that it raises ``x`` to."""
        raised = sigma * (1 + min(self.s_churn / self.num_steps, math.sqrt(2) - 1))
        return x + math.sqrt(raised**2 - sigma**2) * self.s_noise * noise, raised


def _heun_step(
    predict: Callable[[Tensor, float], Tensor],
    x: Tensor,
    target: Tensor,
    sigma: float,
    sigma_next: float,
    condition: Tensor,
    mask: Tensor,
) -> Tensor:
    """From ``sigma`` to ``sigma_next > 0`` by the mean slope of both ends; ``target`` is the prediction at ``x``."""
    slope = (x - target) / sigma
    euler = replace(x + (sigma_next - sigma) * slope, condition, mask)
    slope = (slope + (euler - predict(euler, sigma_next)) / sigma_next) / 2
    return x + (sigma_next - sigma) * slope


def _dpmpp_2m_step(
    x: Tensor, target: Tensor, sigma: float, sigma_next: float, last: tuple[Tensor, float] | None
) -> Tensor:
    """From ``sigma`` to ``sigma_next``: exact where the prediction ``target`` stays the same.

    With the ``last`` step's prediction and noise level it is of second order in ``ln(sigma)``; without, or to 0, it is
    Euler's step.
    """
    if sigma_next > 0 and last is not None:
        last_target, last_sigma = last
        ratio = math.log(sigma / sigma_next) / math.log(last_sigma / sigma) / 2
        target = torch.lerp(last_target, target, 1 + ratio)
    return torch.lerp(target, x, sigma_next / sigma)

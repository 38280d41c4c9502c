"""Sampling with diffusers' schedulers: one random generator per image, fixed and padded micro-batches.

Image i is determined by seed i, the weights and the :class:`Sampler` alone. Its generator draws the initial noise and
every later noise of that image; the network always sees micro-batches of the same size, the last one filled up with
copies, since float32 sums depend on the shape of a batch. So image 17 has the same bits whatever is drawn beside it and
on however many processes.

Not guaranteed: equal bits on other machines, PyTorch versions or devices.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from vdu.core.errors import InputError
from vdu.core.types import Denoiser

__all__ = ["SCHEDULERS", "Sampler", "sample"]

SCHEDULERS = {"ddpm": "DDPMScheduler", "ddim": "DDIMScheduler", "dpm++": "DPMSolverMultistepScheduler"}


@dataclass(frozen=True)
class Sampler:
    """A sampling protocol; all of it belongs beside any number computed from its images.

    Attributes:
        scheduler: "ddpm" (ancestral), "ddim" or "dpm++" (DPM-Solver++, second order).
        steps: network evaluations per image; as many as the model's schedule is the paper's protocol for ddpm.
        eta: DDIM's noise, 0 (deterministic) to 1 (ancestral).
        spacing: how few steps are spread over the schedule ("trailing" starts at pure noise).
        clip_sample: clip the predicted x0 to [−1, 1] at every step; None takes the pipeline's own setting.
        microbatch_size: images per network evaluation.
    """

    scheduler: str = "ddim"
    steps: int = 50
    eta: float = 0.0
    spacing: str = "trailing"
    clip_sample: bool | None = None
    microbatch_size: int = 50

    def __post_init__(self) -> None:
        if self.scheduler not in SCHEDULERS:
            raise InputError(f"scheduler: got {self.scheduler!r}; expected one of {', '.join(SCHEDULERS)}.")
        if self.steps < 1 or self.microbatch_size < 1 or not 0 <= self.eta <= 1:
            raise InputError(f"sampler: got {self}; expected steps ≥ 1, microbatch_size ≥ 1 and eta within [0, 1].")
        if self.eta and self.scheduler != "ddim":
            raise InputError(f"eta: got {self.eta} with scheduler {self.scheduler!r}; only ddim has an eta.")

    def make(self, denoiser: Denoiser) -> Any:
        """A diffusers scheduler with this protocol over the model's own noise schedule.

        Args:
            denoiser: the model.

        Returns:
            The scheduler, with its timesteps set.

        Raises:
            InputError: if there are more steps than the model's schedule has.
        """
        import diffusers

        if self.steps > len(denoiser.schedule):
            raise InputError(
                f"steps: got {self.steps}; the model's schedule has {len(denoiser.schedule)}. Use at most that many."
            )
        config = {**denoiser.scheduler_config, "timestep_spacing": self.spacing}
        if self.clip_sample is not None:
            config["clip_sample"] = self.clip_sample
        if self.scheduler != "ddpm":
            config.pop("variance_type", None)  # their step takes the noise alone
        if self.scheduler == "dpm++":
            # a pipeline's own variant may be stochastic, and would then draw from the global stream
            config |= {"algorithm_type": "dpmsolver++", "solver_order": 2}
        scheduler = getattr(diffusers, SCHEDULERS[self.scheduler]).from_config(config)
        scheduler.set_timesteps(self.steps)
        return scheduler

    def describe(self) -> dict[str, Any]:
        """The protocol as plain values, for printing beside a number."""
        return asdict(self)


def sample(
    denoiser: Denoiser,
    seeds: Sequence[int],
    sampler: Sampler = Sampler(),
    *,
    accelerator: Any = None,
    progress: str | None = None,
) -> Tensor:
    """Draw one image per seed.

    Args:
        denoiser: the model, on the device to sample on.
        seeds: one seed per image.
        sampler: the protocol.
        accelerator: an ``accelerate.Accelerator`` to share the micro-batches among its processes; None: one process.
        progress: title of the progress bar on standard error; None shows none.

    Returns:
        Images, [len(seeds), channels, height, width], float32 on the CPU, clamped to [−1, 1]; on every process.
    """
    from tqdm import tqdm

    size = sampler.microbatch_size
    starts = range(0, len(seeds), size)
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    mine: dict[int, Tensor] = {}
    silent = progress is None or rank > 0
    with (
        _evaluating(denoiser),
        tqdm(total=len(seeds), desc=progress, unit="image", file=sys.stderr, disable=silent, mininterval=1) as bar,
    ):
        for number, start in enumerate(starts):
            if number % world == rank:
                mine[start] = _microbatch(denoiser, list(seeds[start : start + size]), sampler)
            bar.update(min(size, len(seeds) - start))
    if world > 1:
        from accelerate.utils import gather_object

        mine = dict(gather_object(list(mine.items())))
    images = [mine[start] for start in starts]
    return torch.cat(images) if images else torch.empty(0, *denoiser.sample_shape)


@contextmanager
def _evaluating(denoiser: Denoiser) -> Iterator[None]:
    was_training = denoiser.network.training
    denoiser.network.eval()
    try:
        yield
    finally:
        denoiser.network.train(was_training)


@torch.no_grad()
def _microbatch(denoiser: Denoiser, seeds: list[int], sampler: Sampler) -> Tensor:
    first = next(denoiser.network.parameters())
    scheduler = sampler.make(denoiser)  # a fresh one: multistep schedulers remember earlier steps
    padded = seeds + seeds[-1:] * (sampler.microbatch_size - len(seeds))
    generators = [torch.Generator().manual_seed(int(seed)) for seed in padded]
    x = torch.cat([torch.randn(1, *denoiser.sample_shape, generator=source) for source in generators])
    x = x.to(first.device, first.dtype) * scheduler.init_noise_sigma
    step_arguments: dict[str, Any] = {"generator": generators} if sampler.scheduler != "dpm++" else {}
    if sampler.scheduler == "ddim":
        step_arguments["eta"] = sampler.eta
    keep_variance = sampler.scheduler == "ddpm" and denoiser.learned_variance
    for t in scheduler.timesteps:
        timestep = torch.full((len(x),), int(t), device=x.device)
        output = denoiser.predict_raw(scheduler.scale_model_input(x, t), timestep)
        output = output if keep_variance else output[:, : x.shape[1]]
        x = scheduler.step(output, t, x, **step_arguments).prev_sample
    return denoiser.decode(x)[: len(seeds)].float().clamp(-1, 1).cpu()

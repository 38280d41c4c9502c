"""Sampling with diffusers' schedulers: one random generator per image, fixed and padded micro-batches.

Image i is determined by seed i, the weights and the :class:`Sampler` alone. Its generator draws the initial noise and
every later noise of that image. The network is always evaluated on micro-batches of the same size, the last one padded with
copies, since float32 sums depend on the shape of a batch. Image 17 therefore has the same bits whatever is drawn beside it and
on however many processes.

Not guaranteed: equal bits on other machines, PyTorch versions or devices; nor for a network whose weights are frozen
(``requires_grad_(False)``) or in another memory format, for which PyTorch may choose other kernels.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from vdu.core.counter import standing_for
from vdu.core.errors import InputError, shown
from vdu.core.modes import evaluating
from vdu.core.processes import gathered, place
from vdu.core.progress import bar
from vdu.core.ranges import require_choice, require_fields, require_flags
from vdu.core.records import sha256_bytes
from vdu.core.surroundings import own_torch
from vdu.core.types import Denoiser
from vdu.diffusion.guidance import guided, is_distilled
from vdu.diffusion.schedule import NoiseSchedule

__all__ = ["SCHEDULERS", "Sampler", "drawn_as", "levels_of", "same_levels", "sample", "scheduler_over"]

OTHER_SPACINGS = (
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_lu_lambdas",
)  # of a pipeline's own sampler
DPM = {  # of a pipeline's own variant some are stochastic, and would draw from the global stream
    "algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint", "final_sigmas_type": "zero",
    "lower_order_final": True, "euler_at_final": False,
}  # fmt: skip
SPACINGS = ("leading", "linspace", "trailing")
SCHEDULERS = {"ddpm": "DDPMScheduler", "ddim": "DDIMScheduler", "dpm++": "DPMSolverMultistepScheduler"}


@dataclass(frozen=True)
class Sampler:
    """A sampling protocol, to be reported with every number computed from its images.

    Attributes:
        scheduler: "ddpm" (ancestral), "ddim" or "dpm++" (DPM-Solver++, second order).
        steps: network evaluations per image, any number up to the steps of the model's schedule; the paper's protocol is ddpm with all.
        eta: DDIM's noise, 0 (deterministic) to 1 (ancestral).
        spacing: distribution of the steps over the schedule: "trailing" starts at pure noise; "leading" below it (501 of 1000 steps start
            at timestep 500, since ⌊1000/501⌋ = 1). Flow matching has "trailing" alone.
        clip_sample: clip the predicted x0 to [−1, 1] at every step; None takes the pipeline's own setting. dpm++ and flow matching never
            clip.
        microbatch_size: images per network evaluation.
        guidance_scale: s of classifier-free guidance (:mod:`vdu.diffusion.guidance`); None evaluates the network once per step, under
            the condition alone.
    """

    scheduler: str = "ddim"
    steps: int = 50
    eta: float = 0.0
    spacing: str = "trailing"
    clip_sample: bool | None = None
    microbatch_size: int = 50
    guidance_scale: float | None = None

    def __post_init__(self) -> None:
        require_choice("scheduler", self.scheduler, SCHEDULERS)
        require_choice("spacing", self.spacing, SPACINGS)
        require_fields(self)
        if self.clip_sample is not None:
            require_flags(vars(self), "clip_sample")
        if self.eta and self.scheduler != "ddim":
            raise InputError(f"eta: got {self.eta} with scheduler {self.scheduler!r}; only ddim has an eta.")
        if self.clip_sample and self.scheduler == "dpm++":
            raise InputError(
                "clip_sample: got True with scheduler 'dpm++', which never clips; use ddim or ddpm, or leave it out."
            )

    @own_torch()
    def make(self, denoiser: Denoiser) -> Any:
        """A diffusers scheduler with this protocol over the model's own noise schedule.

        Args:
            denoiser: the model.

        Returns:
            The scheduler, with its timesteps set.

        Raises:
            InputError: if it is no denoiser, there are more steps than its schedule has, diffusers gives the sampler another schedule or
                other timesteps, or the pipeline's own options leave one of the sampler's without an effect.
        """
        if not isinstance(getattr(denoiser, "schedule", None), NoiseSchedule):
            raise InputError(
                f"denoiser: got {shown(denoiser)}; expected a vdu.PipelineDenoiser. Of a pipeline make one with "
                "vdu.PipelineDenoiser.from_pipeline(pipeline)."
            )
        if self.guidance_scale is not None:
            if not denoiser.class_names:
                raise InputError(
                    "guidance_scale: got one for a model without conditions; expected a conditional model. Leave it out."
                )
            denoiser.condition([None])  # refuses a model without a null class
        if self.steps > len(denoiser.schedule):
            raise InputError(
                f"steps: got {self.steps}; the model's schedule has {len(denoiser.schedule)}. Use at most that many."
            )
        # schedulers without the option do not clip, and those below would by default
        config = {"clip_sample": False, **denoiser.scheduler_config, "timestep_spacing": self.spacing}
        if denoiser.schedule.scaling == "flow":
            return self._flow(denoiser)
        if self.clip_sample is not None and config.get("thresholding"):
            raise InputError(
                f"clip_sample: got {self.clip_sample} for a pipeline whose scheduler has thresholding on, which takes its place; expected "
                "None. Leave it out, or turn thresholding off: pipeline.scheduler.register_to_config(thresholding=False)."
            )
        if self.clip_sample is not None:
            config["clip_sample"] = self.clip_sample
        if self.scheduler != "ddpm":
            config.pop("variance_type", None)  # their step uses the predicted noise alone
        elif config.get("variance_type") == "fixed_large_log":
            config["variance_type"] = "fixed_large"  # the same variances; diffusers takes the root of their logarithms
        if self.scheduler == "dpm++":
            config |= DPM | dict.fromkeys(OTHER_SPACINGS, False)
        scheduler = scheduler_over(denoiser.schedule, SCHEDULERS[self.scheduler], config)
        if hasattr(scheduler, "alphas_cumprod") and not same_levels(scheduler, denoiser.schedule):
            raise InputError(
                f"sampler: diffusers' {SCHEDULERS[self.scheduler]} makes another noise schedule of this model's configuration "
                f"({config.get('_class_name', 'scheduler')}) than the one it is trained with, so its samples would be wrong. Save the "
                "pipeline with a DDPMScheduler whose options, or trained_betas, give the model's own schedule."
            )
        scheduler.set_timesteps(self.steps, **denoiser.step_options(self.steps))
        listed = scheduler.timesteps[
            : self.steps
        ]  # diffusers divides in floats, and has one more, −1, at 61 of 1000 steps and others
        if self.scheduler == "dpm++":
            scheduler.set_timesteps(timesteps=listed.tolist())  # and a noise level for each
        scheduler.timesteps = listed
        self._require_timesteps(listed.tolist(), len(denoiser.schedule) - 1, config.get("steps_offset"))
        self._require_room_for_noise(scheduler)
        return scheduler

    def _require_timesteps(self, listed: Sequence[int], last: int, offset: int | None) -> None:
        """Refuse a list of timesteps that leaves the schedule, or has not as many different ones as there are steps."""
        if max(listed, default=0) > last:
            raise InputError(
                f"sampler: {self.steps} steps with spacing {self.spacing!r} and the pipeline's steps_offset {offset} reach the timestep "
                f"{max(listed)}; expected at most {last}. Use fewer steps, or the spacing trailing."
            )
        if len(set(listed)) != self.steps:
            raise InputError(
                f"sampler: {self.scheduler} has {len(set(listed))} different timesteps for {self.steps} steps with spacing "
                f"{self.spacing!r}; expected one for each. Use fewer steps, or the spacing trailing."
            )

    def _require_room_for_noise(self, scheduler: Any) -> None:
        """Refuse a DDIM step whose 1 − ᾱ_prev − σ² float32 rounds below 0, so that its root is NaN.

        That is of Eq. 12 of Song et al. (2021, arXiv 2010.02502). The number is 0 at η = 1 in the first step of a schedule with zero
        terminal signal-to-noise ratio.

        Raises:
            InputError: if there is such a step.
        """
        if not self.eta:
            return
        levels = [*scheduler.alphas_cumprod[scheduler.timesteps], scheduler.final_alpha_cumprod]
        for alpha_bar, before in pairwise(levels):
            variance = (
                (1 - before) / (1 - alpha_bar) * (1 - alpha_bar / before)
            )  # with the roundings of diffusers' step
            if 1 - before - (self.eta * variance**0.5) ** 2 < 0:
                raise InputError(
                    f"sampler: got ddim with eta {self.eta} for a noise schedule that ends in pure noise, where float32 rounds the number "
                    "below a root to less than 0. Use the scheduler ddpm, a smaller eta or another number of steps."
                )

    def _flow(self, denoiser: Denoiser) -> Any:
        """Euler's method, which is what ddim is under flow matching; with ddpm every step draws its noise anew."""
        from diffusers import FlowMatchEulerDiscreteScheduler

        if self.scheduler == "dpm++" or self.eta:
            raise InputError(
                f"sampler: got {self.scheduler} with eta {self.eta} for a flow-matching model; expected ddim (deterministic) or ddpm (it "
                "draws the noise of every step anew), without eta."
            )
        if self.spacing != "trailing" or self.clip_sample:
            raise InputError(
                f"sampler: got spacing {self.spacing!r} and clip_sample {self.clip_sample} for a flow-matching model, where neither has an "
                "effect; expected trailing, and no clipping. Leave them out."
            )
        config = {**denoiser.scheduler_config, "stochastic_sampling": self.scheduler == "ddpm"}
        config |= dict.fromkeys(OTHER_SPACINGS, False)
        scheduler: Any = _made(FlowMatchEulerDiscreteScheduler, config)
        scheduler.set_timesteps(self.steps, **denoiser.step_options(self.steps))
        return scheduler

    def evaluations(self, denoiser: Denoiser) -> int:
        """Network evaluations of one image: one per step, or two where guidance asks the network without the condition, too.

        Args:
            denoiser: the model.

        Returns:
            Their number.
        """
        return self.steps * (
            2 if self.guidance_scale is not None and not is_distilled(denoiser.condition([None])) else 1
        )

    def describe(self) -> dict[str, Any]:
        """The protocol as plain values, for reports; includes guidance only if it is used."""
        return {name: value for name, value in asdict(self).items() if name != "guidance_scale" or value is not None}


def drawn_as(denoiser: Denoiser, sampler: Sampler) -> str:
    """What a cache's key has besides model and sampler, so that samples of earlier versions, which were drawn otherwise, are not taken.

    Args:
        denoiser: the model.
        sampler: the protocol.

    Returns:
        A suffix; empty where the samples are those of every version.
    """
    even = len(denoiser.schedule) % sampler.steps == 0 and sampler.spacing != "linspace"
    config = denoiser.scheduler_config
    small = str(config.get("variance_type") or "fixed_small").startswith("fixed_small")
    plain = all(config.get(name, value) == value for name, value in DPM.items() if name != "algorithm_type")
    alike = (
        (sampler.scheduler != "ddpm" or small) and (sampler.scheduler != "dpm++" or plain) and "clip_sample" in config
    )
    seeded = " seeded" if denoiser.schedule.scaling == "flow" and sampler.scheduler == "ddpm" else ""
    # missed timesteps; noise in the last step, a variant's options, clipping; noise from the global stream
    return ("" if even else " exact") + ("" if alike else " 2") + seeded


def levels_of(scheduler: Any) -> Tensor | None:
    """ᾱ of a diffusers scheduler.

    Args:
        scheduler: any.

    Returns:
        ᾱ, [T], float64, ending in the exact 0 of zero terminal signal-to-noise ratio where some classes store 2⁻²⁴ for it; None
        for a scheduler without ``alphas_cumprod``.

    Raises:
        InputError: if they have no values.
    """
    found = getattr(scheduler, "alphas_cumprod", None)
    if not isinstance(found, Tensor):
        return None
    if found.is_meta:
        raise InputError(
            "pipeline: its scheduler was made on the meta device, so its noise levels have no values; expected a scheduler made on a CPU. "
            "Make it outside of torch.device('meta')."
        )
    levels = found.detach().to("cpu", torch.float64, copy=True)
    if scheduler.config.get("rescale_betas_zero_snr") and len(levels) and levels[-1] == 2.0**-24:
        levels[-1] = 0.0
    return levels


def same_levels(scheduler: Any, schedule: NoiseSchedule) -> bool:
    """Whether a diffusers scheduler has the noise levels of a schedule, within the precision of float32."""
    levels = levels_of(scheduler)
    return (
        levels is not None
        and len(levels) == len(schedule)
        and bool(((levels - schedule.alpha_bars).abs() < 1e-6).all())
    )


def scheduler_over(schedule: NoiseSchedule, kind: str, config: Mapping[str, Any]) -> Any:
    """A diffusers scheduler made of a configuration; by its betas where the class does not know the schedule's name.

    Args:
        schedule: the model's own.
        kind: name of the class.
        config: of the pipeline's own scheduler.

    Returns:
        The scheduler.
    """
    import diffusers

    made = getattr(diffusers, kind)
    try:
        return _made(made, config)
    except NotImplementedError:  # beta_schedule sigmoid under DDIM, for example
        betas = {"trained_betas": schedule.betas.float().tolist(), "rescale_betas_zero_snr": False}
        return _made(made, {**config, **betas})


def _made(kind: Any, config: Mapping[str, Any]) -> Any:
    """A scheduler with those options that its class knows; diffusers would warn of the others, as of those that LCM alone has."""
    known = inspect.signature(kind.__init__).parameters
    return kind.from_config({name: value for name, value in config.items() if name in known})


def _places(scheduler: Any) -> Sequence[Any]:
    """What the scheduler's ``step`` takes for each of its timesteps: the timestep itself, but for DDIM.

    diffusers' DDIM steps from t to t − ⌊T/steps⌋, which is the next timestep only where the steps divide T; elsewhere noise is left. Given
    the levels of its own timesteps alone, one apart, it goes from each to the next (Song et al. 2021, arXiv 2010.02502, Eq. 12), and from
    the last to the clean image.

    Args:
        scheduler: with its timesteps set; DDIM's is changed.

    Returns:
        One for each timestep.
    """
    if type(scheduler).__name__ != SCHEDULERS["ddim"]:
        return scheduler.timesteps
    scheduler.alphas_cumprod = scheduler.alphas_cumprod[scheduler.timesteps.flip(0)]
    scheduler.num_inference_steps = scheduler.config.num_train_timesteps  # ⌊T/T⌋ = 1
    return range(len(scheduler.timesteps))[::-1]


def _noised_anew(x: Tensor, output: Tensor, sigmas: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """The next x of a flow whose every step draws its noise anew: (1 − s′) x̂0 + s′ ε, x̂0 = x − s u.

    diffusers has this step too (``stochastic_sampling``), but before 0.39 it draws ε from the global stream, whatever the seeds.

    Args:
        x: at level s, [batch, …].
        output: u, like ``x``.
        sigmas: s and s′, [2].
        generators: of each image.

    Returns:
        x at level s′, in the dtype of the output.
    """
    level, after = sigmas
    noise = torch.cat([torch.randn(1, *x.shape[1:], generator=source) for source in generators]).to(x.device)
    return ((1.0 - after) * (x.float() - level * output) + after * noise).to(output.dtype)


@own_torch()
def sample(
    denoiser: Denoiser,
    seeds: Sequence[int],
    sampler: Sampler = Sampler(),
    *,
    labels: Sequence[int | str | None] | None = None,
    shared: bool = False,
    progress: str | None = None,
) -> Tensor:
    """Draw one image per seed.

    Args:
        denoiser: the model, on the device to sample on.
        seeds: one seed per image.
        sampler: the protocol.
        labels: the condition of each image; None takes those of the seeds (``denoiser.labels_of``).
        shared: distribute the micro-batches over the processes (:mod:`vdu.core.processes`), all of which must call this.
        progress: title of the progress bar on standard error; None shows none.

    Returns:
        Images, [len(seeds), channels, height, width], float32 on the CPU, clamped to [−1, 1]; on every process.

    Raises:
        InputError: if there is not one label per seed.
    """
    if labels is not None and len(labels) != len(seeds):
        raise InputError(f"labels: got {len(labels)} for {len(seeds)} seeds; expected one per image.")
    asked = labels if labels is not None else denoiser.labels_of(seeds)
    size = sampler.microbatch_size
    starts = range(0, len(seeds), size)
    rank, world = place() if shared else (0, 1)
    mine: dict[int, Tensor] = {}
    silent = progress is None or rank > 0
    with (
        evaluating(denoiser.network),
        bar(progress or "", len(seeds), "image", shown=not silent) as shown,
    ):
        for number, start in enumerate(starts):
            if number % world == rank:
                some = None if asked is None else list(asked[start : start + size])
                with standing_for(min(world, len(starts) - number + rank)):
                    mine[start] = _microbatch(denoiser, list(seeds[start : start + size]), some, sampler)
            shown.update(min(size, len(seeds) - start))
    if world > 1:
        step = f"drawing images {sha256_bytes(repr((list(seeds), asked)).encode())[:8]}"
        mine = {start: part for each in gathered(step, mine) for start, part in each.items()}
    images = [mine[start] for start in starts]  # of an autoencoder perhaps with the channels last in memory
    return torch.cat(images).contiguous() if images else torch.empty(0, *denoiser.image_shape)


@torch.no_grad()
def _microbatch(denoiser: Denoiser, seeds: list[int], labels: list[Any] | None, sampler: Sampler) -> Tensor:
    first = next(denoiser.network.parameters())
    scheduler = sampler.make(denoiser)  # a fresh one: multistep schedulers remember earlier steps
    missing = sampler.microbatch_size - len(seeds)
    generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds + seeds[-1:] * missing]
    x = torch.cat([torch.randn(1, *denoiser.latent_shape, generator=source) for source in generators])
    x = x.to(first.device, first.dtype) * getattr(scheduler, "init_noise_sigma", 1.0)  # flow schedulers have none
    condition = None if labels is None else denoiser.condition(labels + labels[-1:] * missing)
    scale = sampler.guidance_scale
    null = None if scale is None or is_distilled(condition) else denoiser.condition([None] * len(x))
    step_arguments: dict[str, Any] = {"generator": generators} if sampler.scheduler != "dpm++" else {}
    flow = denoiser.schedule.scaling == "flow"
    if sampler.scheduler == "ddim" and not flow:
        step_arguments["eta"] = sampler.eta
    ancestral = sampler.scheduler == "ddpm" and not flow
    keep_variance = ancestral and denoiser.learned_variance
    scaled = getattr(scheduler, "scale_model_input", lambda x_t, t: x_t)
    for step, (t, known_as) in enumerate(zip(scheduler.timesteps, _places(scheduler), strict=True)):
        timestep = torch.full((len(x),), t.item(), device=x.device)
        output = guided(denoiser, scaled(x, t), timestep, condition, null, scale)
        output = output if keep_variance else output[:, : x.shape[1]]
        if flow and sampler.scheduler == "ddpm":
            x = _noised_anew(x, output, scheduler.sigmas[step : step + 2], generators)
            continue
        made = scheduler.step(output, known_as, x, **step_arguments)
        # no noise in the last step (Ho et al. 2020, arXiv 2006.11239, Algorithm 1); diffusers leaves it out at t = 0 alone
        last = ancestral and t == scheduler.timesteps[-1]
        x = made.pred_original_sample if last else made.prev_sample
    found = denoiser.decode(x)[: len(seeds)].float()
    if not bool(found.isfinite().all()):
        raise InputError(
            f"pipeline: {int((~found.isfinite()).flatten(1).any(dim=1).sum())} of {len(found)} images that it drew have pixels that are "
            "NaN or infinite; expected finite ones. Its weights, or the sampler's steps, overflow."
        )
    return found.clamp(-1, 1).cpu()

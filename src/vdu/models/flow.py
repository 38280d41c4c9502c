"""Flow-matching models: x_t = (1 − s) x0 + s ε, the network predicts u = ε − x0, and its timestep is 1000 s.

Noise levels s are drawn from our own schedule and passed as 1000 s. diffusers' scheduler is used to sample alone: its levels while it
samples are not those of its construction (a shift is applied twice), and it looks timesteps up by exact equality.
"""

from typing import Any

from vdu.core.errors import InputError
from vdu.diffusion.schedule import NoiseSchedule
from vdu.models.configuration import scheduler_configuration

__all__ = ["dynamic_shift", "flow_parts"]


def flow_parts(scheduler: Any) -> dict[str, Any]:
    """What a flow-matching scheduler gives a denoiser, by argument name.

    Args:
        scheduler: a ``FlowMatchEulerDiscreteScheduler``.

    Returns:
        The arguments. The schedule has the scheduler's shift, or none where the shift depends on the size of the image.

    Raises:
        InputError: if the scheduler is another, counts other times, or has another shift than its configuration.
    """
    config = scheduler.config
    if type(scheduler).__name__ != "FlowMatchEulerDiscreteScheduler" or config.get("invert_sigmas"):
        raise InputError(
            f"pipeline: its scheduler is a {type(scheduler).__name__}; expected a FlowMatchEulerDiscreteScheduler without inverted "
            "sigmas, the one that models of this kind come with. Save the pipeline with it."
        )
    if config.num_train_timesteps != 1000:
        raise InputError(
            f"pipeline: its scheduler has num_train_timesteps {config.num_train_timesteps}; expected 1000, since the times that its "
            "network is given are 1000 s. Networks that count otherwise are not supported."
        )
    if scheduler.shift != config.shift:  # set_shift, which reaches no configuration
        raise InputError(
            f"pipeline: its scheduler was set to the shift {scheduler.shift}, and its configuration, which is all that a saved pipeline "
            f"holds, has {config.shift}; expected the same. Make the scheduler with it: pipeline.scheduler = "
            f"{type(scheduler).__name__}.from_config(pipeline.scheduler.config, shift={scheduler.shift})."
        )
    shift = 1.0 if config.use_dynamic_shifting else float(config.shift)
    return {
        "schedule": NoiseSchedule.flow(int(config.num_train_timesteps), shift),
        "prediction_type": "flow_prediction",
        "scheduler_config": scheduler_configuration(scheduler),
    }


def dynamic_shift(config: Any, n_patches: int, max_shift: float) -> float:
    """μ of a shift that grows with the image, linear in the number of patches.

    Args:
        config: the scheduler's configuration.
        n_patches: tokens of the image.
        max_shift: the pipeline's default for a configuration without one.

    Returns:
        μ, for ``set_timesteps``.
    """
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    base = config.get("base_shift", 0.5)
    slope = (config.get("max_shift", max_shift) - base) / (high - low)
    return n_patches * slope + (base - slope * low)

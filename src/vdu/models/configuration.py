"""Reads the configurations of a pipeline's scheduler and network, for the adapters, and refuses what cannot be used.

diffusers has no field for ``EXTRAS``. They are attributes of the pipeline, and entries of its network's configuration, which every
``save_pretrained`` writes: so they come back however the model was saved. An attribute comes first, also where it is None: then the
pipeline has no such property, whatever its network's configuration says. Whoever needs one asks :func:`extra`, which checks it.
"""

import inspect
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from torch import nn

from vdu.core.errors import InputError, shown
from vdu.core.processes import say
from vdu.core.ranges import NOT_NEGATIVE, POSITIVE, UNIT, Range, require_choice, require_number
from vdu.diffusion.sampling import levels_of, same_levels
from vdu.diffusion.schedule import NoiseSchedule

__all__ = [
    "EXTRAS", "checked_extra", "discrete_parts", "extra", "is_a", "keep_extras", "odd_options", "quiet_diffusers", "read_extras",
    "read_prediction_type", "read_schedule", "read_shape", "read_sides", "refuse_unknown_options", "require_own_schedule",
    "require_switches", "scheduler_configuration", "unet_parts",
]  # fmt: skip

DISCRETE_TYPES = ("epsilon", "v_prediction", "sample")
NUMBERS = {
    "timestep_scale": POSITIVE,
    "null_class": Range("a whole number, the place of the null class counted from 0, or None", 0, whole=True),
    "image_size": Range("a whole number of pixels, at least 1, or None for the model's own", 1, whole=True),
}
LISTS = {
    "class_names": "a list of names, one for every class, in the order of the classes",
    "prompts": "a list of prompts",
}
EXTRAS = ("timestep_scale", "class_names", "null_class", "prompts", "image_size")  # what diffusers lacks
SAMPLING = {
    "steps_offset": NOT_NEGATIVE,
    "clip_sample_range": POSITIVE,
    "dynamic_thresholding_ratio": UNIT,
    "sample_max_value": POSITIVE,
}
FEW_STEPS = ("LCMScheduler", "TCDScheduler")  # of consistency distillation
VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range")
RENAMED = {"predict_epsilon": "prediction_type, which is epsilon where it was true, and sample where it was false"}


def extra(pipeline: Any, name: str) -> Any:
    """One of ``EXTRAS``.

    Args:
        pipeline: has it as an attribute, or in the configuration of its network.
        name: which.

    Returns:
        Its value (:func:`checked_extra`); None if the pipeline has none, or if the attribute is None.
    """
    found, own = getattr(pipeline, name, None), hasattr(pipeline, name)
    for part in () if own else getattr(pipeline, "components", {}).values():
        config = getattr(part, "config", None)
        if isinstance(part, nn.Module) and isinstance(config, Mapping) and found is None:  # transformers' are none
            found = config.get(name)
    return None if found is None else checked_extra(name, found, "pipeline")


def read_extras(pipeline: Any) -> dict[str, Any]:
    """All of ``EXTRAS`` that a pipeline has, by name (:func:`extra`)."""
    return {name: value for name in EXTRAS if (value := extra(pipeline, name)) is not None}


def checked_extra(name: str, value: Any, where: str) -> Any:
    """One of ``EXTRAS``, in the form that can be saved.

    Args:
        name: which.
        value: as it was given; not None.
        where: subject of the message.

    Returns:
        A Python number, or a tuple of texts; a list's, or an array's, order is kept.

    Raises:
        InputError: if it is something else.

    Examples:
        >>> checked_extra("class_names", ["cat", "dog"], "pipeline"), checked_extra("timestep_scale", 1, "pipeline")
        (('cat', 'dog'), 1.0)
    """
    if name in NUMBERS:
        require_number(f"{where}: {name}", value, NUMBERS[name])
        return float(value) if name == "timestep_scale" else int(value)
    texts = value.tolist() if hasattr(value, "tolist") else value
    ordered = isinstance(texts, list | tuple)
    wrong = (
        [each for each in texts if not isinstance(each, str) or (not each and name == "class_names")] if ordered else []
    )
    if not ordered or not texts or wrong:  # a prompt may be empty
        got = (
            f"{shown(value)} with {shown(wrong[0])} in it"
            if wrong
            else f"{'an empty list' if ordered else shown(value)}"
        )
        raise InputError(
            f"{where}: {name}: got {got}; expected {LISTS[name]}. Set pipeline.{name} to one, or to None for the default; in a saved model "
            "correct vdu.json and the network's config.json."
        )
    return tuple(map(str, texts))


def keep_extras(pipeline: Any, source: Any, network: Any) -> Any:
    """Give a pipeline the further properties of another, and its network's configuration too.

    Args:
        pipeline: changed in place.
        source: whose properties they are; the pipeline itself, to record those that were set on it.
        network: the pipeline's network.

    Returns:
        The pipeline.
    """
    found, had = read_extras(source), getattr(network, "config", {})
    for name, value in found.items():
        setattr(pipeline, name, value)
    known = {name: value for name, value in found.items() if name in had or (name, value) != ("timestep_scale", 1.0)}
    known |= {
        name: None for name in EXTRAS if name in had and name not in found and hasattr(source, name)
    }  # set to None
    if known and hasattr(network, "register_to_config"):
        network.register_to_config(**known)
    return pipeline


@contextmanager
def quiet_diffusers() -> Iterator[None]:
    """Silence diffusers' warnings and bars inside the block: what it warns about is an error here, or none of the user's business."""
    from diffusers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # options that are called differently in later versions
            yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def is_a(pipeline: Any, name: str) -> bool:
    """Whether a pipeline is of a class, or a subclass, of this name; without importing it, since it may need transformers."""
    return any(each.__name__ == name for each in type(pipeline).__mro__)


def scheduler_configuration(scheduler: Any) -> dict[str, Any]:
    """A scheduler's configuration without the list of defaults, whose entries diffusers' ``from_config`` would ignore."""
    return {name: value for name, value in scheduler.config.items() if name != "_use_default_values"}


def refuse_unknown_options(part: Any, where: str) -> None:
    """Refuse a part whose configuration has an option that its class does not know, and that diffusers therefore drops.

    Args:
        part: a network or scheduler of diffusers.
        where: what the message calls it.

    Raises:
        InputError: naming the options.
    """
    import diffusers

    part = getattr(part, "_orig_mod", part)  # of torch.compile
    if not hasattr(part, "extract_init_dict"):  # a network of one's own, without a configuration
        return
    with quiet_diffusers():
        unknown = sorted(set(type(part).extract_init_dict(dict(part.config))[1]) - set(EXTRAS))
    if unknown:
        hints = [f"{name} is now {RENAMED[name]}." for name in unknown if name in RENAMED]
        advice = "Install the version of diffusers that wrote it, or remove the option if it has no effect."
        raise InputError(
            f"{where}: its configuration has {', '.join(unknown)}, which {type(part).__name__} of diffusers {diffusers.__version__} does "
            f"not know and would ignore; expected known options. {' '.join(hints) or advice}"
        )


def odd_options(kind: type, config: Mapping[str, Any]) -> str:
    """Options of another kind than the defaults of their class, which its code mostly fails on, in libraries' words.

    Args:
        kind: a class of diffusers.
        config: its configuration.

    Returns:
        For a message, such as "norm_eps is null (usually 1e-05)"; empty if there are none.
    """
    options = inspect.signature(kind.__init__).parameters
    usual = {each.name: each.default for each in options.values()}
    odd = [
        f"{name} is {json.dumps(config[name])} (usually {json.dumps(usual[name])})"
        for name in usual
        if name in config
        and isinstance(usual[name], bool | int | float | str | tuple | list)
        and (
            _json_kind(config[name]) is not _json_kind(usual[name])
            or (options[name].annotation in {int, "int"} and isinstance(config[name], float))
        )
    ]
    return ", ".join(odd)


def _json_kind(value: Any) -> type:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float
    return list if isinstance(value, tuple) else type(value)


def read_schedule(scheduler: Any) -> NoiseSchedule:
    """The noise schedule of a discrete-time diffusers scheduler.

    Args:
        scheduler: with ``alphas_cumprod``.

    Returns:
        The schedule.

    Raises:
        InputError: if the scheduler does not provide it, counts other timesteps than it has levels, or has an option for sampling that is
            out of its range.
    """
    alpha_bars = levels_of(scheduler)
    if alpha_bars is None:
        raise InputError(
            f"pipeline: its scheduler {type(scheduler).__name__} has no alphas_cumprod, so its noise schedule is unknown; "
            "expected a discrete-time scheduler (DDPM, DDIM, DPM-Solver++ …). Save the pipeline with the scheduler it was trained with."
        )
    n_timesteps = scheduler.config.get("num_train_timesteps", len(alpha_bars))
    if n_timesteps != len(alpha_bars):
        raise InputError(
            f"pipeline: its scheduler has {len(alpha_bars)} noise levels and num_train_timesteps {shown(n_timesteps)}, so training and "
            "sampling would use different timesteps; expected the same number. Set num_train_timesteps to the length of trained_betas."
        )
    if scheduler.config.get("timestep_type") == "continuous":
        raise InputError(
            f"pipeline: its scheduler {type(scheduler).__name__} has timestep_type 'continuous', so its network takes a function of the "
            "noise level for a timestep; expected 'discrete'. Networks of that kind are not supported."
        )
    if scheduler.config.get("use_flow_sigmas"):
        raise InputError(
            f"pipeline: its scheduler {type(scheduler).__name__} has use_flow_sigmas on, and noise levels of a diffusion process beside "
            "them; expected one of the two. Turn it off, or use the scheduler that the model was trained with."
        )
    _require_plain_options(scheduler)
    for name in SAMPLING.keys() & scheduler.config.keys():
        require_number(f"pipeline's scheduler: {name}", scheduler.config[name], SAMPLING[name])
    return NoiseSchedule(alpha_bars)


def _require_plain_options(scheduler: Any) -> None:
    """Raise an error for a switch that is a text, which counts as on, and for a variance that diffusers takes for the small one."""
    require_switches(scheduler, "pipeline's scheduler")
    kind = scheduler.config.get("variance_type")
    if kind is not None:
        require_choice("pipeline's scheduler: variance_type", kind, VARIANCES)


def require_switches(part: Any, where: str) -> None:
    """Refuse a switch of a configuration that is no truth value: a text such as "false" counts as on.

    Args:
        part: a network, encoder or scheduler, or a pipeline; one without a configuration passes.
        where: subject of the message.

    Raises:
        InputError: naming the switch.
    """
    part = getattr(part, "_orig_mod", part)  # of torch.compile
    config = getattr(part, "config", {})
    switches, given = (
        (_switches_of_class(type(part)), config) if isinstance(config, Mapping) else _switches_of_encoder(config)
    )
    for name, several in switches.items():
        value = given.get(name)
        values = value if several and isinstance(value, list | tuple) else [value]
        for each in values:
            if not (each is None or isinstance(each, bool) or each in (0, 1)):
                raise InputError(f"{where}: {name}: got {shown(each)}; expected true or false.")


def _switches_of_class(kind: type) -> dict[str, bool]:
    """Options of a class of diffusers that are true or false, by the default or the annotation; whether each may be a list of such."""
    return {
        each.name: "tuple" in str(each.annotation).lower()  # one for each block
        for each in inspect.signature(kind.__init__).parameters.values()
        if isinstance(each.default, bool) or each.annotation in (bool, bool | None)
    }


def _switches_of_encoder(config: Any) -> tuple[dict[str, bool], Mapping[str, Any]]:
    """The same of a configuration of transformers, whose class is read for the defaults; and its values."""
    usual = vars(type(config)())
    return {name: False for name in usual if isinstance(usual[name], bool)} | {"use_attention_mask": False}, vars(
        config
    )


def require_own_schedule(scheduler: Any) -> None:
    """Refuse a scheduler whose noise levels were changed in memory, since its configuration is all that is saved.

    Args:
        scheduler: any of diffusers; one without ``alphas_cumprod`` passes.

    Raises:
        InputError: if its configuration gives other levels.
    """
    if levels_of(scheduler) is None:
        return
    with quiet_diffusers():
        twin = type(scheduler).from_config(scheduler_configuration(scheduler))
    if not same_levels(twin, read_schedule(scheduler)):
        raise InputError(
            f"pipeline: the noise levels (alphas_cumprod) of its {type(scheduler).__name__} are not those of its configuration, which is "
            "all that a saved pipeline holds; expected the same. Make the scheduler with options, or trained_betas, that give the levels."
        )


def read_prediction_type(scheduler: Any) -> str:
    """The prediction type of the network, one of "epsilon", "v_prediction" and "sample".

    Args:
        scheduler: whose configuration has a ``prediction_type``.

    Returns:
        The prediction type.

    Raises:
        InputError: if the scheduler's configuration names another.
    """
    kind = scheduler.config.get("prediction_type")
    if kind not in DISCRETE_TYPES:
        raise InputError(f"pipeline: prediction_type {kind!r} is unknown; expected one of {', '.join(DISCRETE_TYPES)}.")
    return kind


def read_shape(config: Any) -> tuple[int, int, int]:
    """Channels, height and width of the images of a ``UNet2DModel``-like network.

    Args:
        config: the network's configuration, with ``sample_size`` and ``in_channels``.

    Returns:
        The shape.

    Raises:
        InputError: if its configuration has no size.
    """
    size = config.sample_size
    if size is None:
        raise InputError(
            "pipeline: the unet's configuration has no sample_size, so the image size is unknown; set it and save again."
        )
    return int(config.in_channels), *read_sides(size, "unet")


def read_sides(size: Any, part: str) -> tuple[int, int]:
    """Height and width from a ``sample_size``.

    Args:
        size: a side, or two.
        part: whose configuration has it.

    Returns:
        Height and width.

    Raises:
        InputError: if it is something else than whole numbers above 0.
    """
    sides = (size, size) if isinstance(size, int) else size
    if not isinstance(sides, list | tuple) or [type(each) for each in sides] != [int, int] or min(sides) < 1:
        raise InputError(
            f"pipeline: the {part}'s sample_size is {shown(size)}; expected a whole number of pixels, at least 1, or two of them. Correct "
            "its config.json."
        )
    height, width = sides
    return height, width


def unet_parts(pipeline: Any) -> dict[str, Any]:
    """What a pixel-space pipeline of a U-Net and a discrete-time scheduler gives its denoiser, by argument name."""
    scale, schedule = extra(pipeline, "timestep_scale"), read_schedule(pipeline.scheduler)
    refuse_unknown_options(pipeline.scheduler, "pipeline's scheduler")
    refuse_unknown_options(pipeline.unet, "pipeline's unet")
    return {
        "network": pipeline.unet,
        "schedule": schedule,
        "prediction_type": read_prediction_type(pipeline.scheduler),
        "image_shape": read_shape(pipeline.unet.config),
        "scheduler_config": scheduler_configuration(pipeline.scheduler),
        "timestep_scale": 1.0 if scale is None else scale,
    }


@cache
def _say_once(text: str) -> None:
    say(text)


def discrete_parts(scheduler: Any) -> dict[str, Any]:
    """What a discrete-time scheduler gives a denoiser of latents, by argument name; latents are clipped only where it asks for it.

    Args:
        scheduler: with ``alphas_cumprod``.

    Returns:
        The arguments.

    Raises:
        InputError: if it is for distilled networks, or clips because nobody said otherwise.
    """
    kind, config = type(scheduler).__name__, scheduler.config
    if kind in FEW_STEPS:
        raise InputError(
            f"pipeline: its {kind} is for networks distilled for few steps, which are not supported; expected the scheduler of a diffusion "
            "process. Use the model that this one was made from, with the scheduler it came with."
        )
    if config.get("clip_sample") and "clip_sample" in config.get("_use_default_values", ()):
        raise InputError(
            f"pipeline: its {kind} has clip_sample True by default, which would cut latents at −1 and 1; expected False. Call "
            f"pipeline.scheduler.register_to_config(clip_sample=False). If it is meant: {kind}.from_config(config, clip_sample=True)."
        )
    if config.get("clip_sample"):
        _say_once(f"vdu: its {kind} cuts latents at −1 and 1 at every step (clip_sample), as in plain diffusers.")
    return {
        "schedule": read_schedule(scheduler),
        "prediction_type": read_prediction_type(scheduler),
        "scheduler_config": {"clip_sample": False, **scheduler_configuration(scheduler)},  # DDPM's own default is True
    }

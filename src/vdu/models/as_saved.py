"""Refuses a part of a pipeline that its saved files would not give back.

A saved part is a class, a configuration and weights. So a twin is made of the class and the configuration, without values, as diffusers
and transformers make it when they load; whatever the part has besides the values of its weights must be the twin's: modules and their
classes, options of each module, hooks, methods, names, shapes and kinds of tensors, which tensors are one, and the buffers that are not
saved. What cannot change a sample may differ (``HARMLESS``, and attention processors that compute the same).

Not guaranteed: that a class of a library is as the library has it; a method that was replaced on the class itself is not seen.
"""

import copy
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vdu.core.errors import InputError
from vdu.models.configuration import odd_options, quiet_diffusers
from vdu.models.pipelines import OWN_NETWORKS
from vdu.models.words import reading_of

__all__ = ["require_as_saved", "require_known_class", "require_no_global_hooks", "require_tokenizer_as_saved"]

HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks", "_state_dict_pre_hooks",
)  # fmt: skip
HARMLESS = {"training", "gradient_checkpointing", "use_slicing", "name_or_path", "dropout_prob"}  # the last of a DiT
UNDO = "Undo the change, or load the pipeline again with from_pretrained."
ADVICE = {
    "hook": "Call remove() of the handle that its registration returned.",
    "torch.nn.utils": "Make it permanent: torch.nn.utils.prune.remove(module, name) or torch.nn.utils.remove_weight_norm(module).",
    "parametrized": "Make it permanent: torch.nn.utils.parametrize.remove_parametrizations(module, name).",
    "method": "Take it off: delete the attribute, so that the one of the class is used again.",
    "cache": "Call disable_cache() of the part.",
    "offloading": "diffusers cannot take this off: load the pipeline again, without enable_group_offload and enable_layerwise_casting.",
    "accelerate": "Call accelerator.unwrap_model(…, keep_fp32_wrapper=False).",
    "processor": "Call set_processor of that module with a processor of the latter class.",
    "backend": "Call reset_attention_backend() of the part.",
    "use_tiling": "Call pipeline.vae.disable_tiling().",
    "shared": "Give each its own: module.weight = torch.nn.Parameter(module.weight.detach().clone()).",
}
Difference = tuple[str, str]  # what differs, and a key of ADVICE


def require_as_saved(part: nn.Module, what: str) -> None:
    """Refuse a part that would be another one after saving and loading.

    Args:
        part: a network, an autoencoder or a text encoder.
        what: what messages call it.

    Raises:
        InputError: with the first difference, and what takes it off.
    """
    part = getattr(part, "_orig_mod", part)  # of torch.compile
    require_known_class(part, what)
    try:
        twin = _twin(part)
    except Exception as error:  # each class has errors of its own
        config = getattr(part, "config", {})  # transformers' is no mapping
        odd = odd_options(type(part), config) if isinstance(config, Mapping) else ""
        raise InputError(
            f"pipeline: the configuration of its {what} makes no {type(part).__name__} ({odd or error}); expected the one that the {what} "
            "was made with, since it is what loads a saved pipeline."
        ) from error
    found = next(_differences(part, twin), None)
    if found:
        text, key = found
        raise InputError(
            f"pipeline: its {what} is not what its configuration makes: {text}. A saved pipeline holds configuration and weights alone, so "
            f"another model would be loaded. {ADVICE.get(key, UNDO)}"
        )


def require_tokenizer_as_saved(tokenizer: Any) -> None:
    """Refuse a tokenizer that would read prompts otherwise after saving and loading.

    Args:
        tokenizer: of transformers.

    Raises:
        InputError: if it cannot be saved and loaded, or naming what differs.
    """
    kind = type(tokenizer).__name__
    try:
        with TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            twin = type(tokenizer).from_pretrained(folder, local_files_only=True)
    except Exception as error:  # each class has errors of its own
        raise InputError(
            f"pipeline: its {kind} cannot be saved and loaded again ({error}); expected one that can. Load it anew with from_pretrained."
        ) from error
    here, there = reading_of(tokenizer), reading_of(twin)
    others = [name for name in here if here[name] != there[name]]
    if others:
        raise InputError(
            f"pipeline: its {kind} is not what its saved files give back ({', '.join(others)}), so a saved pipeline would read prompts "
            f"otherwise; expected the same. Make it with its options, such as {kind}.from_pretrained(folder, padding_side='left', "
            "bos_token='…'), or undo what was changed."
        )


def require_known_class(part: Any, what: str) -> None:
    """Refuse a class that is not found by its name when a saved pipeline is loaded.

    Args:
        part: a network, encoder, scheduler, or the pipeline itself.
        what: what messages call it.

    Raises:
        InputError: for a class that is not diffusers', transformers' or of this package.
    """
    kind = type(part)
    library = kind.__module__.partition(".")[0]
    if kind.__module__ not in OWN_NETWORKS and not (
        library in {"diffusers", "transformers"} and getattr(sys.modules[library], kind.__name__, None) is kind
    ):
        raise InputError(
            f"pipeline: its {what} is a {kind.__module__}.{kind.__name__}, which nobody finds who loads the saved pipeline; expected a "
            "class of diffusers or transformers. Use the library's own class, with the change in its configuration or weights."
        )


def require_no_global_hooks() -> None:
    """Refuse hooks on all modules or optimizers of the process, which no saved pipeline has; PyTorch's own only look.

    Raises:
        InputError: if there are any.
    """
    registrations = [f"_{kind}_registration_hooks" for kind in ("buffer", "module", "parameter")]
    for_modules = [getattr(nn.modules.module, f"_global{name}", {}) for name in (*HOOKS, *registrations)]
    optimizers = sys.modules["torch.optim.optimizer"]  # torch.optim hides it
    for_optimizers = [getattr(optimizers, f"_global_optimizer_{when}_hooks", {}) for when in ("pre", "post")]
    for each in chain.from_iterable(hooks.values() for hooks in (*for_modules, *for_optimizers)):
        if not _of_library(each, "torch."):
            raise InputError(
                f"pipeline: the hook {_called(each)} is registered for all modules or optimizers of this process, so it would change every "
                f"result, and no saved pipeline has it; expected none. {ADVICE['hook']}"
            )


class _WithoutValues(TorchFunctionMode):
    """Make parameters on the meta device, in this thread alone; unlike ``torch.device("meta")``, computed buffers have values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        return func(*args, **(named | {"device": "meta"} if func is torch.empty else named))


def _twin(part: Any) -> nn.Module:
    if hasattr(part, "from_config"):
        options = {name: value for name, value in part.config.items() if name != "_use_default_values"}
        with _WithoutValues(), quiet_diffusers():
            return type(part).from_config(options)
    with torch.device("meta"):
        return type(part)(copy.deepcopy(part.config))


def _differences(part: nn.Module, twin: nn.Module) -> Iterator[Difference]:
    modules, expected = _modules(part), _modules(twin)
    parametrized = any(each.startswith("parametrizations.") or ".parametrizations" in each for each in modules)
    yield from _unequal(
        modules, expected, type, lambda module: _called(type(module)), "parametrized" if parametrized else ""
    )
    tensors, made = _tensors(part), _tensors(twin)
    for name, module in modules.items():
        yield from ((f"{name or 'it'} has {text}", key) for text, key in _of_module(module, expected[name]))
    yield from _unequal(tensors, made, _kind, lambda value: "a {} of {}".format(*_kind(value)))
    shared = _shared(made)
    yield from (
        (f"{' and '.join(names)} share their values", "shared")
        for names in sorted(_shared(tensors) - shared, reverse=True)
    )
    for name in sorted(set(dict(part.named_buffers())) - set(part.state_dict())):
        here, there = tensors[name].float().cpu(), made[name].float()
        if not there.is_meta and not torch.allclose(here, there, rtol=1e-2, atol=1e-3):
            yield f"{name}, which is not saved, has other values", ""


def _of_module(module: nn.Module, twin: nn.Module) -> Iterator[Difference]:
    """What one module has and the twin's has not."""
    own, made = vars(module), vars(twin)
    usual = {_called(each) for name in HOOKS for each in made[name].values()}
    for hook in chain.from_iterable(own[name].values() for name in HOOKS):
        if _called(hook) not in usual and not _of_library(hook, "transformers."):  # its own ones record outputs
            yield f"the hook {_called(hook)}", "torch.nn.utils" if _of_library(hook, "torch.nn.utils.") else "hook"
    for name in own.keys() - made.keys():
        if callable(getattr(type(module), name, None)) and not _is_own_method(module, name):
            yield f"a {name} of its own ({_called(own[name])})", _origin(module, own[name])
    here, there = (getattr(getattr(each, "processor", None), "_attention_backend", None) for each in (module, twin))
    if here != there:
        yield (
            f"the attention backend {getattr(here, 'value', here)} instead of {getattr(there, 'value', there)}",
            "backend",
        )
    for name in made:
        if not name.startswith(("_", "tile_")) and name not in HARMLESS:
            here, there = _plain(own.get(name)), _plain(made[name])
            if here != there:
                yield f"{name} {here!r} instead of {there!r}", name


def _unequal(
    found: Mapping[str, Any],
    expected: Mapping[str, Any],
    kind: Callable[[Any], Any],
    shown: Callable[[Any], str],
    key: str = "",
) -> Iterator[Difference]:
    """Names that one of two has, or that stand for things of other kinds."""
    for name in dict.fromkeys([*expected, *found]):
        here, there = found.get(name), expected.get(name)
        if here is None:
            yield f"it lacks {name}", key
        elif there is None:
            yield f"it has {name} besides", key
        elif kind(here) != kind(there):
            yield f"{name or 'it'} is {shown(here)} instead of {shown(there)}", key


def _modules(part: nn.Module) -> dict[str, nn.Module]:
    return dict(part.named_modules(remove_duplicate=False))


def _tensors(part: nn.Module) -> dict[str, Tensor]:
    return dict(chain(part.named_parameters(remove_duplicate=False), part.named_buffers(remove_duplicate=False)))


def _kind(value: Tensor) -> tuple[str, tuple[int, ...]]:
    return type(value).__name__, tuple(value.shape)


def _shared(tensors: Mapping[str, Tensor]) -> set[tuple[str, ...]]:
    """Names of tensors that are one, or lie in one storage."""
    names: dict[Any, list[str]] = {}
    for name, value in tensors.items():
        if value.numel():
            names.setdefault(id(value) if value.is_meta else value.untyped_storage().data_ptr(), []).append(name)
    return {tuple(sorted(each)) for each in names.values() if len(each) > 1}


def _plain(value: Any) -> Any:
    """An option as something that can be compared; objects by their class alone."""
    if value is None or isinstance(value, bool | int | float | str | type):
        return value
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    if callable(value) and hasattr(value, "__qualname__"):
        return _called(value)
    name = type(value).__name__
    if _of_library(type(value), "diffusers.") and "Attn" in name:  # of the same sums in another order
        return re.sub(r"^(Sliced|XFormers)|2_0$", "", name)
    return f"{type(value).__module__}.{name}"


def _is_own_method(module: nn.Module, name: str) -> bool:
    """Whether an attribute is the method of the class again, or what accelerate calls to move weights and inputs between devices."""
    value, hook = vars(module)[name], getattr(module, "_hf_hook", None)
    if name == "forward" and all(
        _of_library(type(each), "accelerate.") for each in (hook, *getattr(hook, "hooks", ()))
    ):
        value = getattr(module, "_old_forward", None)
    method, usual = getattr(type(module), name), []
    while method is not None:  # accelerate puts back what the library's decorators are around
        usual.append(method)
        method = getattr(method, "__wrapped__", None)
    return getattr(value, "__func__", None) in usual and getattr(value, "__self__", None) is module


def _origin(module: nn.Module, method: Any) -> str:
    """The key of ADVICE for a method that replaces the one of the class."""
    hooks = getattr(getattr(module, "_diffusers_hook", None), "hooks", {})
    if any("offloading" in name or name in {"layerwise_casting", "layer_execution_tracker"} for name in hooks):
        return "offloading"
    return "cache" if hooks else "accelerate" if _of_library(method, "accelerate.") else "method"


def _of_library(value: Any, prefix: str) -> bool:
    return str(getattr(value, "__module__", "")).startswith(prefix)


def _called(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}"

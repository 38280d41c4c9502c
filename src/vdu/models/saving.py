"""Saving of diffusers pipelines, so that what is loaded again is the model that was saved."""

import re
from pathlib import Path
from typing import Any

from torch import nn

from vdu.core.errors import InputError, shown
from vdu.core.paths import given_output
from vdu.core.records import read_json, write_json
from vdu.core.surroundings import own_torch
from vdu.models.adapt import family_of
from vdu.models.configuration import (
    keep_extras,
    read_extras,
    require_own_schedule,
)
from vdu.models.pipelines import CONFIG_HASH, EXTRA_FILE, SHARD, check_network, config_sha256, network_of

__all__ = ["save_pipeline", "tokenizer_files", "weight_files"]

SOURCE = "_name_or_path"
CARD_MARK = "after approximate machine unlearning with `vdu`"  # in a model card of vdu.reporting.card
WEIGHTS = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".msgpack",
    ".h5",
    ".onnx",
    ".onnx_data",
    ".gguf",
    ".index*.json",
)
READ = (".json", ".txt", ".model", ".jinja")  # of a tokenizer, whichever of them a version of transformers writes


@own_torch()
def save_pipeline(pipeline: Any, path: Path | str) -> None:
    """Save a pipeline in diffusers' layout (safetensors), with ``vdu.json`` beside it where diffusers has no field for something.

    Paths that the parts were loaded from are left out of the files, so that a model that is passed on says nothing of this machine.

    Raises:
        InputError: if it is no pipeline, its saved files would not give it back, the path is none, or its parts have weights there that
            would stay beside the new ones.
    """
    if not hasattr(pipeline, "save_pretrained") or isinstance(pipeline, type):
        raise InputError(f"pipeline: got {shown(pipeline)}; expected a diffusers pipeline.")
    path = given_output(path)
    if path.is_file():
        raise InputError(f"path: got {path}, which is a file; expected a folder for the pipeline.")
    _require_saveable(pipeline)
    keep_extras(pipeline, pipeline, network_of(pipeline))
    _make_room(pipeline, path)
    pipeline.save_pretrained(str(path), safe_serialization=True)
    _leave_out_places(pipeline, path)
    for name in _networks(pipeline):
        for index in (path / name).glob("*.safetensors.index.json"):  # in place of one file
            index.with_name(index.name.removesuffix(".index.json")).unlink(missing_ok=True)
    found = read_extras(pipeline)
    if found.get("timestep_scale") == 1.0:
        del found["timestep_scale"]
    if found:
        write_json(path / EXTRA_FILE, found | {CONFIG_HASH: config_sha256(path, family_of(pipeline).NETWORK)})


def _leave_out_places(pipeline: Any, path: Path) -> None:
    """Remove the places on this machine that the parts were loaded from, which diffusers writes; a name of the Hub stays."""
    parts = [file for name in pipeline.components for file in (path / name).glob("*config.json")]
    for file in (path / "model_index.json", *parts):
        values = read_json(file)
        source = values.get(SOURCE)
        if isinstance(source, str) and (Path(source).is_absolute() or Path(source).exists()):
            write_json(file, {name: value for name, value in values.items() if name != SOURCE})


def _require_saveable(pipeline: Any) -> None:
    """Refuse a pipeline that would be another one, or none, when it is loaded again; weights of any precision may be saved."""
    from vdu.models.adapt import adapt
    from vdu.models.as_saved import require_known_class
    from vdu.models.usable import require_whole

    denoiser = adapt(pipeline)
    require_own_schedule(pipeline.scheduler)
    require_known_class(pipeline, "class")
    require_known_class(pipeline.scheduler, "scheduler")
    require_whole(denoiser)
    check_network(denoiser.network, "pipeline")


def _make_room(pipeline: Any, path: Path) -> None:
    """Remove what describes the model that a new one replaces, and that diffusers would leave in the folder.

    Raises:
        InputError: if there are weights that would stay, and that others could load for those of the new model.
    """
    written = "|".join(
        f"{name}/{'diffusion_pytorch_' if hasattr(part, 'from_config') else ''}model"
        for name, part in _networks(pipeline).items()
    )  # transformers' have no from_config
    replaced = re.compile(rf"({written})({SHARD})?\.safetensors(\.index\.json)?")
    there = sorted({file for pattern in weight_files(pipeline) for file in path.glob(pattern)})
    others = [name for file in there if not replaced.fullmatch(name := file.relative_to(path).as_posix())]
    if others:
        raise InputError(
            f"{path}: holds other weights of the pipeline's parts ({', '.join(others[:3])}{' …' if len(others) > 3 else ''}), which would "
            "stay beside the new ones, so that the model from before could be loaded. Choose another folder, or remove these files."
        )
    card = path / "README.md"
    if card.is_file() and CARD_MARK in card.read_text("utf-8", errors="replace"):
        card.unlink()
    read = [each for pattern in tokenizer_files(pipeline) for each in path.glob(pattern)]
    for file in (path / EXTRA_FILE, *read, *(each for each in there if each.name.endswith(".index.json"))):
        file.unlink(missing_ok=True)


def weight_files(pipeline: Any) -> list[str]:
    """Where the weights of a pipeline's parts may be in its folder, in any form and variant.

    Args:
        pipeline: whose parts are meant.

    Returns:
        Patterns of relative paths; of files beside model_index.json only those named as a network's alone.
    """
    stems = (*(f"{name}/" for name in _networks(pipeline)), "diffusion_")
    return [f"{stem}*{ending}" for stem in stems for ending in WEIGHTS]


def tokenizer_files(pipeline: Any) -> list[str]:
    """Where the files of a pipeline's tokenizers may be in its folder, whichever of them a version of transformers writes.

    Args:
        pipeline: whose tokenizers are meant.

    Returns:
        Patterns of relative paths.
    """
    held = [name for name, part in pipeline.components.items() if name.startswith("tokenizer") and part is not None]
    return [f"{name}/*{ending}" for name in held for ending in READ]


def _networks(pipeline: Any) -> dict[str, nn.Module]:
    return {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}

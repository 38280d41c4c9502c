"""The folder that a name of a pipeline stands for: a folder, a run, a packaged model, or a model of the Hugging Face Hub."""

import re
import shlex
from pathlib import Path

from vdu.core.errors import InputError
from vdu.core.paths import given_path
from vdu.core.processes import say
from vdu.core.records import read_json
from vdu.zoo.packaged import PREFIX, packaged_pipelines, pipeline_folder

__all__ = ["find_pipeline"]

FETCHED = (
    "*.json",
    "*.safetensors",
    "*.txt",
    "*.model",
    "README.md",
)  # weights, tokenizers, the licence; no code, no pickles
HUB_NAME = r"[\w-][\w.-]*/[\w-][\w.-]*"


def find_pipeline(source: Path | str) -> Path:
    """The pipeline folder that a name stands for.

    Args:
        source: a pipeline folder; a run folder, whose ``pipeline/`` is meant; or, if there is no such folder, a packaged model
            (``zoo:mnist``, see :mod:`vdu.zoo.packaged`) or the name of a model on the Hugging Face Hub (``org/name``), of which the JSON
            and safetensors files are fetched.

    Returns:
        The folder with ``model_index.json``. What is used instead of the given folder is printed to standard error.

    Raises:
        InputError: if there is no pipeline; it names what was found and what to type.
    """
    path = given_path(source, "pipeline")
    if (path / "model_index.json").is_file():
        return path
    if (path / "pipeline" / "model_index.json").is_file():
        say(f"vdu: {path} is a run folder; its pipeline {path / 'pipeline'} is used.")
        return path / "pipeline"
    if not path.exists() and str(path).startswith(PREFIX):
        return pipeline_folder(str(path))
    if not path.exists() and re.fullmatch(HUB_NAME, path.as_posix()):
        return _from_hub(path.as_posix())
    raise InputError(_no_pipeline(path))


def _from_hub(name: str) -> Path:
    """The folder of a model of the Hub in the local cache; fetched if it is not there yet."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    say(f"vdu: {name} is no folder here; it is looked up on the Hugging Face Hub.")
    local = f"For a folder of that name check the path from {Path.cwd()}; a folder is preferred to the Hub."
    try:
        folder = Path(snapshot_download(name, allow_patterns=list(FETCHED)))
    except RepositoryNotFoundError:
        raise InputError(
            f"{name}: no such folder here, and no such model on the Hugging Face Hub (or a private one: run `hf auth login`). {local}"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{name}: no such folder here, and the Hugging Face Hub cannot be reached ({reason}). Connect and try again, or fetch the "
            f"model elsewhere with `hf download {name} --local-dir {name.split('/')[1]}` and give that folder. {local}"
        ) from None
    if not (folder / "model_index.json").is_file():
        raise InputError(
            f"{name}: this model of the Hugging Face Hub has no model_index.json, so it is no diffusers pipeline. Choose another one."
        )
    return folder


def _no_pipeline(path: Path) -> str:
    """What is in the place of a pipeline, and what to type instead."""
    if not path.exists():
        return (
            f"{path}: no such folder, so no model_index.json there; expected a pipeline folder, the folder of a run, a packaged model "
            f"({', '.join(packaged_pipelines())}), or a model of the Hugging Face Hub as org/name."
        )
    if path.is_file():
        if path.suffix in {".ckpt", ".pt", ".pth", ".safetensors"}:
            return (
                f"{path}: is a file of weights; expected a pipeline folder (with model_index.json). Of a Stable Diffusion file make one in "
                f'Python: diffusers.StableDiffusionPipeline.from_single_file("{path}").save_pretrained("my-sd"). Of an architecture that '
                f"`vdu import --help` lists: `vdu import ARCHITECTURE {shlex.quote(str(path))} OUT`."
            )
        return f"{path}: is a file; expected a pipeline folder (with model_index.json)."
    if (path / "config.json").is_file():  # a single network, as UNet2DModel.save_pretrained writes it
        if (path.resolve().parent / "model_index.json").is_file():
            return f"{path}: is only a part of a pipeline; give the folder above, {path.resolve().parent}."
        if (kind := _kind(path / "config.json")) != "UNet2DModel":
            return (
                f"{path}: is one part of a pipeline alone ({kind}); expected the whole pipeline. Give the folder that holds its "
                "model_index.json."
            )
        return (
            f"{path}: is a network without a scheduler; expected a whole pipeline. In Python: DDPMPipeline(unet=UNet2DModel"
            f'.from_pretrained("{path}"), scheduler=DDPMScheduler()).save_pretrained("my-ddpm"), with the scheduler it was trained with.'
        )
    if (path / "run.json").is_file():
        inside = sorted(each.parent for each in path.glob("*/pipeline/model_index.json"))
        if inside:
            return f"{path}: holds several pipelines; did you mean {inside[0]}?"
        return f"{path}: is a run folder without a pipeline: the run is not finished, or of a command that makes none."
    below = sorted(each.parent for each in path.glob("*/model_index.json"))
    below += sorted(each.parent for each in path.glob("*/pipeline/model_index.json"))
    hint = f" Did you mean {below[0]}?" if below else ""
    return (
        f"{path}: no model_index.json there; expected a folder that a diffusers pipeline's save_pretrained wrote.{hint}"
    )


def _kind(config: Path) -> str:
    """The class of the part that a ``config.json`` is of, as diffusers or transformers wrote it."""
    held = read_json(config)
    held = held if isinstance(held, dict) else {}
    named = held.get("_class_name") or next(iter(held.get("architectures") or ()), None)
    return named if isinstance(named, str) else "of unknown kind"

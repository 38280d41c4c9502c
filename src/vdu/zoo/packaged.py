"""The small packaged models, so that the demo runs without a download.

    mnist               unconditional DDPM of 28×28 digits, 0.69 M parameters, linear schedule, T = 1000; 17 epochs
    mnist-without-8     the same, trained alike from scratch on images of the other nine digits: the target of unlearning
    mnist-small         the same network after 4.8 epochs, for the paper's tables at the small scale; in a clone only
    mnist-labels        mnist-small trained with labels: class-conditional, with a null class; in a clone only
    emoji               text-to-image: a Stable Diffusion pipeline that draws emoji of 32×32 pixels, 3.1 M parameters (docs/dev/emoji.md);
                        in a clone only

and judges: mnist, of the ten digits (architecture cnn), and mnist-lenet, of another architecture, as a second judge; emoji-object, of 28
groups of objects, and emoji-style, of three styles, in a clone only.

``zoo:NAME`` stands for one of them wherever a model or a judge is given by a folder.

Each folder holds a ``provenance.json`` or ``judge.json`` with the command that made it, the hash of the data and what it
reached.
"""

from pathlib import Path

from vdu.core.errors import InputError

__all__ = ["PREFIX", "judge_folder", "packaged_pipelines", "pipeline_folder"]

PREFIX = "zoo:"
HERE = Path(__file__).parent
PIPELINES = {name: name for name in ("mnist", "mnist-without-8", "mnist-small", "mnist-labels", "emoji")}
JUDGES = {
    "mnist": "mnist-judge",
    "mnist-lenet": "mnist-judge-lenet",
    "emoji-object": "emoji-judge-object",
    "emoji-style": "emoji-judge-style",
}


def packaged_pipelines() -> list[str]:
    """The packaged pipelines that this installation has, as ``zoo:NAME``."""
    return [PREFIX + name for name, folder in PIPELINES.items() if (HERE / folder).is_dir()]


def pipeline_folder(name: str) -> Path:
    """The folder of a packaged diffusers pipeline, by its name, with or without ``zoo:``."""
    return _folder("pipeline", name, PIPELINES)


def judge_folder(name: str) -> Path:
    """The folder of a packaged judge, by its name, with or without ``zoo:``."""
    return _folder("judge", name, JUDGES)


def _folder(kind: str, name: str, known: dict[str, str]) -> Path:
    name = name.removeprefix(PREFIX)
    if name not in known:
        raise InputError(
            f"{kind}: got {name!r}, which is neither a folder nor packaged; packaged are {', '.join(known)}."
        )
    folder = HERE / known[name]
    if not folder.is_dir():
        raise InputError(
            f"{kind}: {name!r} is not part of the installed package; it is in a clone of the repository (pip install -e .)."
        )
    return folder

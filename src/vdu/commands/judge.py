"""``vdu judge``: train a classifier for evaluations and measure its error on held-out images.

The error and the confusion matrix come from the test split. Without labels: :func:`vdu.judges.fallback.train_forget_judge`.

Not guaranteed: that a judge trained on real images is as good on generated ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from vdu.commands.options import Count, GivenFirst, NotNegative, OutputDir, Rate, Seed, Tracker, Weight, plain, to_toml
from vdu.core.errors import InputError, shown
from vdu.core.processes import place
from vdu.core.ranges import COUNT, require_given, require_ranges
from vdu.core.runs import Run

if TYPE_CHECKING:
    from vdu.data.images import ImageSet
    from vdu.judges.classifier import Judge
    from vdu.training.loop import TrainSettings

__all__ = ["JudgeSettings", "run"]

# settings that do not affect the judge
_ELSEWHERE = {"output_dir", "name", "checkpointing_steps", "resume_from_checkpoint", "overwrite", "report_to"}


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """Train a classifier on labelled images, for use as a judge of generated images.

    Attributes:
        data: labelled images with a test split: mnist, cifar10, digits, mnist:FOLDER, hf:NAME, a folder of class folders.
        output_dir: the run folder; the judge is in its judge/.
        architecture: cnn or lenet; train one of each to check one against the other.
        name: the judge's name in tables; by default that of the data and the architecture.
        epochs: passes over the images.
        batch_size: images per step, over all processes.
        learning_rate: Adam's peak step size; it falls to 0 along a cosine.
        weight_decay: decoupled weight decay.
        shift_pixels: largest random shift in pixels; by default 2, or 0 for images smaller than 16 pixels.
        seed: seed of weights, batches, shifts and dropout.
        checkpointing_steps: a checkpoint every so many steps.
        resume_from_checkpoint: "latest" continues an interrupted run.
        overwrite: start anew in a folder that already holds a run.
        report_to: also send the logged values to tensorboard, wandb or trackio.
    """

    data: Annotated[str, GivenFirst] = ""
    output_dir: OutputDir = Path("judge")
    architecture: Literal["cnn", "lenet"] = "cnn"
    name: str | None = None
    epochs: Count = 6
    batch_size: Count = 128
    learning_rate: Rate = 2e-3
    weight_decay: Weight = 0.01
    shift_pixels: NotNegative | None = None
    seed: Seed = 0
    checkpointing_steps: Count = 500
    resume_from_checkpoint: Literal["latest"] | None = None
    overwrite: bool = False
    report_to: Tracker = "none"


def run(settings: JudgeSettings) -> dict[str, Any]:
    """Train a judge on the train split of labelled images and test it on their test split.

    Args:
        settings: see :class:`JudgeSettings`.

    Returns:
        A summary: the judge's folder, its error on the test split and the seconds of training.

    Raises:
        InputError: if the images have no labels or no test split, or the output folder is taken.
    """
    from vdu.core.rng import derive_seed, isolated_global
    from vdu.data.overlap import without_copies, without_repeats
    from vdu.data.sources import load_images, place_of
    from vdu.judges.classifier import Judge, save_judge
    from vdu.judges.training import ClassificationObjective, LabelledImages, default_shift, provenance
    from vdu.training.accelerator import make_accelerator
    from vdu.training.batches import require_divisible
    from vdu.training.loop import fingerprint_of, require_resumable, train
    from vdu.training.trackers import require_tracker

    require_given(vars(settings), "name")
    make_accelerator()  # connects the processes of a launcher
    images, held_out = (load_images(settings.data, split=split) for split in ("train", "test"))
    if images.labels is None or held_out.labels is None:
        raise InputError(
            f"{images.description}: has no labels; expected labelled images. Put them into class folders below the "
            "folders train and test."
        )
    held_out = without_repeats(without_copies(held_out, images, "test images", "training images"), "test images")
    require_divisible(settings.batch_size, 1)
    how = _how(settings, len(images))
    shift = default_shift(images.shape) if settings.shift_pixels is None else settings.shift_pixels
    if shift >= min(images.shape[1:]):
        raise InputError(
            f"--shift-pixels: got {shift} for images of {images.shape[1]}×{images.shape[2]} pixels, which can leave nothing of an image; "
            "expected less than the smaller side, better 2."
        )
    with isolated_global(derive_seed(settings.seed, "weights")):
        judge = Judge(settings.architecture, images.shape, _class_names(images, held_out))
    _warn_of_empty_classes(judge.class_names, training=images, test=held_out)
    require_tracker(settings.report_to, settings.output_dir)
    resume, n_processes = bool(settings.resume_from_checkpoint), place()[1]
    inputs = {"data": provenance(images), "held_out": provenance(held_out)}
    seed = derive_seed(settings.seed, "batches")
    batches = LabelledImages(((images, images.labels),), settings.batch_size, shift_pixels=shift, noise=0.0, seed=seed)
    identity = f"{settings.architecture} {images.sha256} {settings.batch_size} {shift}"
    keep = (place_of(settings.data),)
    with Run(settings.output_dir, "judge", overwrite=settings.overwrite, resume=resume, keep=keep) as record:
        if resume:
            require_resumable(record.folder, how, identity, n_processes)
        record.start(to_toml(settings), inputs, identity=fingerprint_of(how, identity, n_processes))
        with record.stage("judge") as cost:
            train(
                judge, ClassificationObjective(), batches, how,
                folder=record.folder, resume=resume, identity=identity, progress="judge",
                accelerator=make_accelerator(report_to=settings.report_to, folder=record.folder),
            )  # fmt: skip
            _require_finite(judge, images, how.steps)
            cost |= {"network_evaluations": 3 * settings.batch_size * how.steps, "whole": True}
        tested = _test(judge, held_out)
        if record.active:
            save_judge(judge, record.folder / "judge", _description(settings, shift) | inputs | tested)
        record.finish(held_out_error=tested["held_out_error"])
    shown = {name: tested[name] for name in ("held_out_error", "n_held_out")}
    return {"judge": str(record.folder / "judge"), **shown, "seconds": cost["seconds"]}


def _class_names(images: "ImageSet", held_out: "ImageSet") -> tuple[str, ...]:
    if images.class_names != held_out.class_names:
        raise InputError(
            f"{images.description}: train has the classes {images.class_names}, test {held_out.class_names}; "
            "expected the same. Give both splits the same class folders."
        )
    n_classes = 1 + max(int(each.labels.max()) for each in (images, held_out) if each.labels is not None)
    return images.class_names or tuple(str(place) for place in range(n_classes))


def _warn_of_empty_classes(names: Sequence[str], **parts: "ImageSet") -> None:
    """Name on standard error the classes without images in a split: the judge cannot find them, or nothing says how well it does."""
    from vdu.core.processes import say

    for split, images in parts.items():
        assert images.labels is not None
        counts = images.labels.bincount(minlength=len(names)).tolist()
        if empty := [name for name, count in zip(names, counts, strict=True) if not count]:
            say(
                f"vdu: warning: no {split} images of {', '.join(empty)}; such a class cannot be forgotten by this judge."
            )


def _how(settings: JudgeSettings, n_images: int) -> "TrainSettings":
    from vdu.core.rng import derive_seed
    from vdu.training.loop import TrainSettings

    require_ranges(vars(settings))  # also where the settings were made in Python
    steps = -(-settings.epochs * n_images // settings.batch_size)  # in whole numbers, since floats round large ones
    if not COUNT.holds(steps):
        raise InputError(
            f"--epochs: got {settings.epochs} passes over {n_images} images, which are {shown(steps)} steps; expected fewer."
        )
    return TrainSettings(
        steps=steps,
        learning_rate=settings.learning_rate,
        lr_schedule="cosine",
        warmup_steps=min(100, steps // 10),
        weight_decay=settings.weight_decay,
        seed=derive_seed(settings.seed, "training"),
        checkpointing_steps=settings.checkpointing_steps,
    )


def _require_finite(judge: "Judge", images: "ImageSet", steps: int) -> None:
    """Refuse a judge that diverged in its last step, after which no loss is computed."""
    import torch

    from vdu.core.modes import evaluating
    from vdu.unlearning.effect import require_finite

    some = images.floats(range(min(64, len(images)))).to(next(judge.parameters()).device)
    with evaluating(judge), torch.no_grad():
        require_finite(judge(some), steps)


def _test(judge: "Judge", held_out: "ImageSet") -> dict[str, Any]:
    import torch

    from vdu.judges.training import judge_logits

    assert held_out.labels is not None
    called, k = judge_logits(judge, held_out).argmax(1), len(judge.class_names)
    confusion = torch.bincount(k * held_out.labels + called, minlength=k * k).view(k, k)
    n_wrong = len(held_out) - int(confusion.diagonal().sum())
    return {"held_out_error": n_wrong / len(held_out), "n_held_out": len(held_out), "confusion": confusion.tolist()}


def _description(settings: JudgeSettings, shift: int) -> dict[str, Any]:
    options = {name: value for name, value in plain(settings).items() if name not in _ELSEWHERE}
    options["shift_pixels"] = shift
    source = settings.data.rpartition(":")[2].rstrip("/").rpartition("/")[2]
    return {
        "name": settings.name or f"{source}-{settings.architecture}",
        "trained_by": "labels",
        "settings": options,
        "command": " ".join(["vdu judge", *(f"--{name.replace('_', '-')} {value}" for name, value in options.items())]),
    }

"""The suites of probes: which ones an evaluation runs, how large, and on which images.

``quick`` has the size of a coffee break on two cores for the packaged model; ``full`` says first how long it will take.

Real images other than the forget set serve to measure, never to train: they come from ``--data`` (a labelled data set that the
original was trained on, with a test split) and ``--held-out`` (unwanted images that it never saw). What a probe lacks,
its result says.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from vdu.core import progress
from vdu.core.counter import EvaluationCounter
from vdu.core.errors import DivergenceError, InputError
from vdu.core.processes import place, say
from vdu.core.types import Denoiser
from vdu.data.forget import split_by_class
from vdu.data.forget_source import class_names
from vdu.data.images import ImageSet
from vdu.data.overlap import PixelHashes, without_copies, without_repeats
from vdu.data.sources import is_data_set, load_images
from vdu.evaluation.prompt_sets import PromptSets
from vdu.probes import (
    completion,
    inpainting,
    inversion,
    likelihood,
    membership,
    paraphrases,
    relearning,
    retrained,
    soft_prompt,
    stochastic,
)
from vdu.probes.context import ProbeContext, not_run
from vdu.replay.auxiliaries import selection_work

__all__ = [
    "DRAWN",
    "SUITES",
    "LoadedImages",
    "announce",
    "cost_of",
    "load_real_images",
    "not_yet_run",
    "real_images",
    "run_suite",
]

Probe = Callable[..., dict[str, Any]]
SUITES: Mapping[str, Mapping[str, Probe]] = {
    "none": {},
    "quick": {
        "relearning": partial(relearning.probe, n_shown=(10,), steps=(0, 10, 30), n_images=100),
        "stochastic": partial(stochastic.probe, n_images=300),
        "completion": partial(completion.probe, n_images=80, n_draws=600),
        "inpainting": partial(inpainting.probe, n_images=100),
        "likelihood": partial(likelihood.probe, n_images=100, n_draws=8),
        "membership": partial(membership.probe, n_images=300, n_levels=8),
        "retrained": partial(retrained.probe, n_images=50, alpha_bars=(0.9, 0.5, 0.1), n_samples=200),
    },
    "full": {
        "relearning": relearning.probe,
        "stochastic": stochastic.probe,
        "completion": completion.probe,
        "inpainting": inpainting.probe,
        "likelihood": partial(likelihood.probe, n_images=500, n_draws=24),
        "membership": partial(membership.probe, n_images=1000, n_levels=16),
        "retrained": retrained.probe,
    },
}
ATTACKS: Mapping[str, Mapping[str, Probe]] = {  # on models with conditions, besides
    "none": {},
    "quick": {
        "paraphrases": partial(paraphrases.probe, n_images=100),
        "inversion": partial(inversion.probe, n_images=100, steps=100),
        "soft_prompt": partial(soft_prompt.probe, n_images=100, steps=40),
    },
    "full": {"paraphrases": paraphrases.probe, "inversion": inversion.probe, "soft_prompt": soft_prompt.probe},
}
DRAWN = "images of the models"  # the stage before the probes
EVALUATIONS = {"none": 0, "quick": 150_000, "full": 700_000}  # about, with three models and 20 sampling steps


@dataclass(frozen=True, eq=False)
class LoadedImages:
    """Real images besides the forget set, each None if not known; one may hold copies of another.

    Attributes:
        forget_held_out: unwanted images that no model saw.
        retain: of classes that stay, which the original was trained on.
        retain_held_out: likewise, which no model saw.
        seen: unwanted images that the original was trained on.
    """

    forget_held_out: ImageSet | None = None
    retain: ImageSet | None = None
    retain_held_out: ImageSet | None = None
    seen: ImageSet | None = None


def load_real_images(
    data: Path | str | None, held_out: Path | str | None, names: list[str], shape: tuple[int, int, int]
) -> LoadedImages:
    """Load the real images that there are besides the forget set, before anything is drawn.

    Args:
        data: a labelled data set that the original was trained on.
        held_out: unwanted images that no model saw; of a data set its test split is taken.
        names: the classes to be forgotten, as the data set calls them.
        shape: channels, height and width of the model.

    Returns:
        The images.

    Raises:
        InputError: if ``data`` has no labels of these classes, or ``held_out`` has several classes and they are not among them.
    """
    forget_held_out, retain, retain_held_out, seen = None, None, None, None
    if data is not None:
        for split in ("train", "test"):
            images = load_images(data, shape=shape, split=split)
            known = images.class_names or ()
            if not names or not set(names) <= set(known):
                raise InputError(
                    f"--data {data}: knows the classes {', '.join(known) or '(none: it has no labels)'}; the run forgot "
                    f"{', '.join(names) or 'images without a class'}. Name its own classes with --forget-class, or leave --data out: "
                    "then likelihood is measured on the forget set alone."
                )
            unwanted, rest = split_by_class(images, names)
            if not len(rest):
                raise InputError(
                    f"--data {data}: all its images are of {', '.join(names)}; expected images that stay, too."
                )
            if split == "train":
                retain, seen = rest, unwanted
            else:
                forget_held_out, retain_held_out = unwanted, rest
    if held_out is not None:
        split = "test" if is_data_set(held_out) else None
        forget_held_out = _of_classes(load_images(held_out, shape=shape, split=split), names)
        if split:
            say(f"vdu: the held-out images are of the test split of {held_out}.")
    return LoadedImages(forget_held_out, retain, retain_held_out, seen)


def real_images(
    loaded: LoadedImages, forget: ImageSet, trained_on: PixelHashes | None = None
) -> tuple[ImageSet | None, ImageSet | None, ImageSet | None]:
    """The real images that there are besides the forget set, none of them in two sets.

    Args:
        loaded: the images as they were loaded.
        forget: the forget set, of the model's shape, of which no other set holds copies.
        trained_on: the retained images that the models were trained on by runs, if any; no held-out set holds copies of them.

    Returns:
        ``forget_held_out``, ``retain`` and ``retain_held_out`` of a :class:`vdu.probes.context.ProbeContext`, each None if not known.
        A set of which nothing is left is refused with an ``InputError``.
    """
    forget_held_out, retain, retain_held_out = loaded.forget_held_out, loaded.retain, loaded.retain_held_out
    seen = loaded.seen
    if retain is not None and retain_held_out is not None:
        retain = without_copies(retain, forget, "retained images", "forget images")
        retain_held_out = without_copies(retain_held_out, retain, "held-out retained images", "retained images")
        retain_held_out = without_copies(retain_held_out, forget, "held-out retained images", "forget images")
        if seen is not None and len(seen):  # unwanted training images, whether or not they are in the forget set
            retain = without_copies(retain, seen, "retained images", "unwanted training images")
            retain_held_out = without_copies(
                retain_held_out, seen, "held-out retained images", "unwanted training images"
            )
    if forget_held_out is not None:
        forget_held_out = without_copies(forget_held_out, forget, "held-out images", "forget images")
        for kept in (retain, retain_held_out):
            if kept is not None:
                forget_held_out = without_copies(forget_held_out, kept, "held-out images", "retained images")
        if seen is not None and len(seen):  # the model has seen them, whether or not they are in the forget set
            forget_held_out = without_copies(forget_held_out, seen, "held-out images", "training images")
    if forget_held_out is not None:
        forget_held_out = without_repeats(forget_held_out, "held-out images")
    if retain_held_out is not None:
        retain_held_out = without_repeats(retain_held_out, "held-out retained images")
    if trained_on is not None:
        if forget_held_out is not None:
            forget_held_out = without_copies(forget_held_out, trained_on, "held-out images", "run's retained images")
        if retain_held_out is not None:
            retain_held_out = without_copies(
                retain_held_out, trained_on, "held-out retained images", "run's retained images"
            )
    return forget_held_out, retain, retain_held_out


def _of_classes(images: ImageSet, names: list[str]) -> ImageSet:
    """The held-out images of the classes to be forgotten, if they are of several; those of others are counted on standard error.

    Returns:
        The images.

    Raises:
        InputError: if these classes are not among those of the images.
    """
    known = class_names(images)
    if len(known) < 2:
        return images
    if not names or not set(names) <= set(known):
        raise InputError(
            f"--held-out: {images.description} holds the classes {', '.join(known[:10])}; expected images of what was forgotten "
            f"({', '.join(names) or 'without a class'}) alone. Give the folder of that class."
        )
    wanted, others = split_by_class(images, names)
    if len(others):
        say(f"vdu: {len(others)} of {len(images)} held-out images are not of {', '.join(names)}; they are left out.")
    return wanted


def announce(
    suite: str, original: Denoiser, steps: int, n_images: int, n_models: int, n_judge_samples: int = 0
) -> None:
    """Say how long an evaluation will take, from the median time of three micro-batches.

    Args:
        suite: its probes.
        original: the model.
        steps: of the sampler.
        n_images: images drawn from each model.
        n_models: how many models are sampled.
        n_judge_samples: images drawn to train a classifier; 0 if one is given.
    """
    work: dict[str, tuple[float, float]] = {}
    if n_judge_samples:
        work = {"samples for the classifier": (n_judge_samples, steps), **selection_work(original)}
        work["classifier of images"] = work.pop(
            "classifier of noised images"
        )  # alike in size; the fallback trains this one
    work |= {DRAWN: (n_images * n_models, steps), "probes": (EVALUATIONS[suite], max(1.0, steps / 20))}
    progress.expect(work)
    device = next(original.network.parameters()).device
    x_t, timestep = torch.zeros(50, *original.latent_shape, device=device), torch.full((50,), 1, device=device)
    condition = original.condition([0] * 50) if original.class_names else None
    with torch.no_grad():
        original.raw(x_t, timestep, condition)  # the first call is slower
        times = [_seconds(lambda: original.raw(x_t, timestep, condition)) for _ in range(3)]
    about = sum(items * each for items, each in work.values()) * sorted(times)[1] / 50
    drawn = (
        f"; {n_judge_samples} images are for a classifier (--n-judge-samples), --judge needs none"
        if n_judge_samples
        else ""
    )
    say(f"evaluate: will take about {max(1, round(about / 60))} min{drawn}")


def _seconds(call: Callable[[], Tensor]) -> float:
    """How long a call takes, its transfer from the device included."""
    began = time.perf_counter()
    call().sum().item()
    return time.perf_counter() - began


def _probes(suite: str, sets: PromptSets | None) -> dict[str, Probe]:
    return {**SUITES[suite], **(ATTACKS[suite] if sets is not None else {})}


def not_yet_run(suite: str, sets: PromptSets | None = None) -> dict[str, Any]:
    """The results of a suite's probes before they ran, for an evaluation that ends before they do."""
    return {name: not_run("evaluation_ended") for name in _probes(suite, sets)}


def cost_of(probes: Mapping[str, Any]) -> dict[str, Any]:
    """What measured probes cost together, as a stage of the record.

    Args:
        probes: results by name.

    Returns:
        The stage; it ends with its last probe.
    """
    done = [each for each in probes.values() if each["status"] == "measured"]
    return {
        "stage": "probes",
        "seconds": round(sum(each["seconds"] for each in done), 3),
        "network_evaluations": sum(each.get("network_evaluations", 0) for each in done),
    }


def run_suite(
    suite: str,
    context: ProbeContext,
    features: Callable[[ImageSet], Tensor],
    counter: EvaluationCounter,
    keep: Callable[[dict[str, Any]], object],
    sets: PromptSets | None = None,
    earlier: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Run the probes of a suite, one after the other; what one has measured is kept before the next begins.

    Args:
        suite: "none", "quick" or "full".
        context: models, images and the judge's predictions.
        features: of images, for the distance between sample sets.
        counter: counts the evaluations of the context's models and their copies.
        keep: called after every probe with the results of all; those that are still to run are reported as not run.
        sets: what conditional models are asked for; they are attacked through their condition as well.
        earlier: results of the same probes, which stay until the new ones are there.

    Returns:
        Results by name, each with the network evaluations that it took. A probe that fails, whatever the error, or whose result
        is not finite, is reported as not run, with the error; among several processes an error that may be of one of them alone ends all.

    Raises:
        KeyboardInterrupt: again, once it is kept that the suite was interrupted.
    """
    found = not_yet_run(suite, sets) | dict(earlier)
    progress.reach("probes")
    for name, probe in _probes(suite, sets).items():
        say(f"evaluate: probe {name}")
        if name == "retrained":
            probe = partial(probe, features=features)
        before = counter.total
        try:
            result = probe(context)
            json.dumps(result, allow_nan=False)  # one that cannot be written, such as NaN, is none
        except DivergenceError as error:
            result = not_run("diverged", error=str(error))
        except KeyboardInterrupt:
            keep(found if name in earlier else found | {name: not_run("interrupted")})
            raise
        except Exception as error:  # whatever it is: the evidence that there is must not be lost
            if place()[1] > 1 and not isinstance(error, InputError):
                raise  # the other processes may be elsewhere, and wait
            text = " ".join(str(error).split()).encode("utf-8", "backslashreplace").decode()
            kind = "" if isinstance(error, InputError) else type(error).__name__
            result = not_run("failed", error=": ".join(filter(None, (kind, text))))
            say(f"vdu: warning: probe {name} failed: {result['error']}")
        if name in earlier and result["status"] != "measured":
            say(f"vdu: warning: probe {name} did not run again; its earlier result stays.")
            continue
        found[name] = result | {"network_evaluations": counter.total - before}
        keep(found)
    return found

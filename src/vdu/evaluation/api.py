"""Evaluation in Python: evidence for a run or for any two pipelines, and methods side by side.

    evidence = vdu.evaluate(before=pipe, after=other, forget="unwanted/", judge="mnist", forget_class="8")
    evidence.gone.level, evidence.pul.value, evidence.to_html("report.html")

Not guaranteed: what :mod:`vdu.evaluation.measure` does not guarantee.
"""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vdu.core.device import on_device
from vdu.core.errors import InputError, shown
from vdu.core.former_names import former_names
from vdu.core.paths import given_output
from vdu.core.processes import first_decides, is_first, say
from vdu.core.python_names import names_arguments
from vdu.core.ranges import require_given
from vdu.core.surroundings import undisturbed
from vdu.diffusion.sampling import Sampler
from vdu.evaluation.evidence import Evidence
from vdu.evaluation.method_table import MethodRow, MethodTable, compare
from vdu.evaluation.options import EvaluationOptions, listed_prompts
from vdu.evaluation.pair import made_by, require_one_subject
from vdu.evaluation.recording import evaluate_pair, evaluate_run
from vdu.training.accelerator import make_accelerator
from vdu.unlearning.prompts import read_prompts

__all__ = ["Evidence", "MethodRow", "MethodTable", "compare", "evaluate"]


@names_arguments
@former_names(forget_classes="forget_class", probes="suite")
@undisturbed()
def evaluate(
    run: Any = None,
    *,
    before: Any = None,
    after: Any = None,
    forget: Any = None,
    forget_class: str | Sequence[str] | None = None,
    forget_prompt: str | Sequence[str] | None = None,
    prompts: Path | str | Mapping[str, Any] | None = None,
    judge: Path | str | None = None,
    second_judge: Path | str | None = None,
    cross_judge: Path | str | None = None,
    reference: Any = None,
    reference_split: str = "train",
    retrained: Any = None,
    data: str | None = None,
    held_out: Path | str | None = None,
    features: str = "judge",
    suite: str = "none",
    sampler: Sampler | None = None,
    n_images: int = 1000,
    n_judge_samples: int = 1000,
    seed: int = 0,
    device: str | torch.device | None = None,
    folder: Path | str | None = None,
) -> Evidence:
    """Evaluate a run, or any two pipelines, from the same noise.

    Args:
        run: a run folder, or a result of :func:`vdu.unlearn`; a folder is evaluated in place. None if ``before``, ``after`` and
            ``forget`` are given.
        before: the original: a pipeline or its folder.
        after: the other model, whoever made it, likewise; or a run folder, whose pipeline is meant.
        forget: the unwanted images, or where they are (:func:`vdu.load_images`).
        forget_class: names of the unwanted classes, as labelled images and a given judge call them; those of the run by default.
        forget_prompt: of two text-to-image pipelines, what was to be forgotten in words; ``forget`` may then be left out.
        prompts: what they are asked for besides: a file or a mapping of prompt sets (:mod:`vdu.evaluation.prompt_sets`).
        judge: folder of a trained judge, or the name of a packaged one ("mnist"); None trains a fallback classifier.
        second_judge: a judge of another architecture, as a check.
        cross_judge: a judge of another domain (styles, where an object was forgotten), for the cross-domain accuracy.
        reference: real images to compare with, or where they are; None compares with the filtered original.
        reference_split: "train" or "test", which part of a data set.
        retrained: a model trained without the forget class, a pipeline or its folder; every number is compared with it.
        data: the original's labelled training data set, for measurements by probes.
        held_out: held-out images of the forget class, for the same; of a data set its test split.
        features: network whose features give u-FID: "judge", "inception", "inception:FILE" or "efficientnet-lite0".
        suite: of probes, attempts to bring it back: "none", "quick" (minutes) or "full".
        sampler: the sampling protocol; None takes DDPM with 20 steps, as the command line does. One without a guidance scale takes that of
            the run (of a result, too, and of a run folder that is given as ``after``); 1 is without guidance.
        n_images: images from each model, at least 6; with a few hundred the intervals are wide.
        n_judge_samples: generated samples that train a fallback classifier.
        seed: image i starts from noise drawn from (seed, i), for both models.
        device: "cpu", "cuda", "cuda:1" and so on, or "mps", where the networks are moved; by default CUDA if there is any, else the CPU.
        folder: where the evidence goes, if not into a run folder; None keeps it as long as the returned object.

    Returns:
        The evidence.

    Raises:
        InputError: if the arguments do not fit together, or a model, image or folder does not suit; as on the command line.
    """
    require_given({"forget_class": forget_class, "forget_prompt": forget_prompt}, "forget_class", "forget_prompt")
    require_one_subject(run, before, after, forget, listed_prompts(forget_prompt))
    own = run if run is None or isinstance(run, str | Path) else _run_folder(run)  # a folder to evaluate in place
    folder = None if folder is None else given_output(folder, "folder")
    if own is not None and folder is not None:
        raise InputError(f"folder: got {folder} with a run, which is evaluated in its own folder. Leave it out.")
    forget_prompt = None if forget_prompt is None else read_prompts(forget_prompt, "forget_prompt")
    if run is not None and own is None and (said := getattr(getattr(run, "plan", None), "prompts", None)):
        forget_prompt = said.get("forget")
    options = EvaluationOptions.from_python(
        sampler=sampler, judge=judge, second_judge=second_judge, reference=reference, reference_split=reference_split,
        forget_class=forget_class, forget_prompt=forget_prompt, prompts=prompts, cross_judge=cross_judge, features=features,
        suite=suite, retrained=retrained, data=data, held_out=held_out, n_images=n_images, n_judge_samples=n_judge_samples,
        seed=seed,
    )  # fmt: skip
    with on_device(device):
        if own is not None:
            return Evidence.read(evaluate_run(own, options, getattr(run, "original", None)))
        if run is not None:
            before, after, forget = (getattr(run, name) for name in ("original", "pipeline", "forget"))
        how = None if run is None else made_by(run)
        if folder is not None:
            return Evidence.read(evaluate_pair(before, after, forget, options, folder, how))
        return _temporary(before, after, forget, options, how)


def _temporary(before: Any, after: Any, forget: Any, options: EvaluationOptions, how: Any) -> Evidence:
    """The evidence of two pipelines in a folder that lasts as long as the evidence."""
    make_accelerator()  # connects the processes of a launcher
    place = first_decides("a temporary folder", lambda: Path(tempfile.mkdtemp(prefix="vdu-")))
    try:
        return Evidence.read(evaluate_pair(before, after, forget, options, place, how), temporary=is_first())
    except BaseException:
        if (place / "metrics.json").is_file():  # interrupted in a probe: the rest was measured
            say(f"vdu: what was measured is in {place}; vdu.report reads it.")
        else:
            shutil.rmtree(place, ignore_errors=True)
        raise


def _run_folder(result: Any) -> Path | None:
    """The run folder of a result of ``unlearn``; None if it has none, and its two pipelines are compared instead."""
    if not hasattr(result, "pipeline"):
        raise InputError(
            f"evaluate: got {shown(result)}; expected a run folder or a result of vdu.unlearn. Give two pipelines as before=… "
            "and after=…, with forget=…."
        )
    folder = getattr(result, "folder", None)
    if folder is None and any(getattr(result, name, None) is None for name in ("original", "forget")):
        raise InputError(
            "evaluate: got a result without a run folder; expected one, or two pipelines. Give before=…, after=result.pipeline and "
            "forget=… (or unlearn with folder=…)."
        )
    if getattr(result, "is_out_of_date", bool)():
        changed = (
            f"the run in {folder} has other weights or options"
            if folder
            else "the original or the new pipeline has other weights or options than when it was made, or the forget set other images"
        )
        raise InputError(
            f"evaluate: got a result that is out of date: {changed}, since something was changed or made again. Give the "
            "two pipelines that you mean as before=… and after=…, with forget=…, or a run folder."
        )
    return folder

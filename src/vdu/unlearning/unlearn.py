"""A pipeline and the images to forget in, a pipeline that no longer makes them out: ``vdu.unlearn``.

The command ``vdu unlearn`` calls the same function. A call first makes a plan (:mod:`vdu.unlearning.plan`), which refuses whatever
cannot be used, and then carries it out (:mod:`vdu.unlearning.engine`), in a run folder if there is one
(:mod:`vdu.unlearning.run_folder`).
"""

import time
from dataclasses import replace
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import torch

from vdu.core.device import on_device
from vdu.core.errors import InputError
from vdu.core.former_names import former_names
from vdu.core.paths import given_output
from vdu.core.progress import expect, whole
from vdu.core.python_names import names_arguments
from vdu.core.ranges import require_flags, require_kind
from vdu.core.surroundings import undisturbed
from vdu.data.forget_source import forgetting
from vdu.data.given import Images
from vdu.diffusion.sampling import Sampler
from vdu.unlearning.default_posterior import posterior_work, with_posterior
from vdu.unlearning.engine import carry_out, say, work
from vdu.unlearning.form import holds_prompts, without_effect
from vdu.unlearning.plan import Plan, TrainingOptions, check_origin, make_plan
from vdu.unlearning.prompts import keeping
from vdu.unlearning.result import UnlearnResult
from vdu.unlearning.run_folder import carry_out_in

__all__ = ["TrainingOptions", "UnlearnResult", "check_origin", "planned", "unlearn"]


@names_arguments
@former_names(forget_classes="forget_class", forget_labels="forget_label")
@undisturbed()
def unlearn(
    pipeline: Any,
    method: Any = "auto",
    *,
    forget: Images | None = None,
    forget_class: Any = None,
    forget_label: Any = None,
    forget_prompt: Any = None,
    keep_prompts: Any = None,
    instead: int | str | None = None,
    retain: Images | None = None,
    train: str | None = None,
    convert: bool = False,
    n_own_samples: int | None = None,
    sampler: Sampler | None = None,
    full_length: bool = False,
    force: bool = False,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    device: str | torch.device | None = None,
    folder: Path | str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: str | None = "unlearn",
    report_to: Any = "none",
    **options: Any,
) -> UnlearnResult:
    """Make a pipeline forget.

    Args:
        pipeline: a diffusers pipeline (unconditional, class-conditional or text-to-image), which is left untouched; or where one is:
            its folder, a run folder, or a model of the Hugging Face Hub (:func:`vdu.models.finding.find_pipeline`).
        method: "auto", a name (``vdu list`` shows them; ``FILE.py:CLASS`` for a class of your own), a class, or an object such as
            ``vdu.VDU(posterior, gamma=0.1)``.
        forget: the images to forget: a folder, a list file or a named data set, an ``ImageSet``, a list of Pillow images or image
            files, uint8 pixels as a tensor [images, channels, height, width] or array, or a torch ``Dataset``
            (:func:`vdu.data.given.as_images`).
        forget_class: the class or classes to forget, by name or number, if the images have labels
            (:func:`vdu.core.class_names.class_index`).
        forget_label: classes of a class-conditional model to forget, by name or index; without ``forget`` the forget set is drawn
            from the model under these labels.
        forget_prompt: text-to-image models: the prompt or prompts to forget, or a file with one on every line; without ``forget`` the
            forget set is drawn from the model under them (:mod:`vdu.unlearning.prompts`).
        keep_prompts: prompts to keep, likewise; by default the model's own others, or a packaged neutral list.
        instead: a label or prompt that takes the place of what is forgotten, for methods that have a use for one; None is the null class or
            the empty prompt where a method needs it (:mod:`vdu.unlearning.form`), and the nearest prompt to keep for distillation
            (:func:`vdu.unlearning.prompts.substitutes`).
        retain: real images to keep, of the same kinds, for methods that use them; classes to forget are left out of labelled ones.
            None or "self" takes generated samples without those that resemble the forget set
            (:func:`vdu.replay.selection.resemblance`).
        train: what trains: "all" weights, the "attention" layers, the "cross-attention" layers, "cross-attention-kv" (their keys and
            values), "non-cross-attention" (every other layer), the "text-encoder", or "lora:8", low-rank corrections of the attention
            layers, here of rank 8 (:mod:`vdu.models.lora`). None is all, or what the method prefers in words (``Method.word_part``).
        convert: convert images of another size or mode to the model's; by default they are refused.
        n_own_samples: number of generated samples, for methods that use them; None takes the method's default.
        sampler: their sampler; likewise.
        full_length: take all steps, even if the stopping rule (:mod:`vdu.replay.stopping`) is met earlier.
        force: continue if the model generates almost none, or almost only, images like the forget set, or does not draw a prompt to
            forget (:mod:`vdu.unlearning.effect`).
        seed: seeds everything, by default 0; equal seeds give the weights of ``vdu unlearn --seed``, bit by bit on one
            CPU process with the same number of threads.
        generator: instead of ``seed``: one draw from it seeds everything.
        device: "cpu", "cuda", "cuda:1" and so on, or "mps"; by default CUDA if there is any, else the CPU.
        folder: a run folder, as ``vdu unlearn`` writes it, for ``vdu evaluate``, ``vdu report`` and ``vdu explore``; what was given
            as an object is stored in it. None writes nothing.
        overwrite: start anew in a folder that already holds a run.
        resume: continue from the newest checkpoint in the folder, with the same arguments.
        progress: title of the progress bar; None shows none.
        report_to: an experiment tracker for the log's values: "tensorboard", "wandb", "trackio" or an
            ``accelerate.tracking.GeneralTracker`` (:mod:`vdu.training.trackers`).
        **options: ``steps``, ``batch_size``, ``learning_rate`` and the other settings of :class:`TrainingOptions`; for a method given by
            name or class its own options too (``gamma=0.1``), and ``posterior`` (a ``GaussianPosterior``, or the file or folder of
            ``vdu posterior``). Without one, a method that needs it gets one that is fitted on 200 generated samples, the Fisher
            estimator as for 60,000 training images (:mod:`vdu.unlearning.default_posterior`).

    Returns:
        The new pipeline and the record of the run. Whatever cannot be used raises an ``InputError`` before anything is trained or
        written.

    Raises:
        InputError: if the folder is no path, or missing where ``overwrite`` or ``resume`` needs one.
    """
    asked = dict(locals())
    require_flags(asked, "overwrite", "resume")
    if folder is None and (overwrite or resume):
        raise InputError(f"{'resume' if resume else 'overwrite'}: got True without a folder; expected folder=….")
    require_kind("progress", progress, str, "the title of a progress bar, or None")
    where, title = None if folder is None else given_output(folder, "folder"), progress or None
    with on_device(device), whole("unlearn", shown=title is not None):
        plan = make_plan(asked | {"folder": where})
        for each in without_effect(plan, asked):
            say(
                f"warning: {each} has no effect: the method {plan.chosen.method.name} learns from no generated samples here; "
                "leave it out"
            )
        if "keep" in plan.prompts and not holds_prompts(plan):
            say(
                f"warning: the prompts to keep have no effect on the training: the method {plan.chosen.method.name} draws nothing under "
                "them here; only vdu evaluate asks for them"
            )
        expect(posterior_work(plan) | work(plan))
        if title is not None:
            say(forgetting(plan.forget))
            if "forget" in plan.prompts and holds_prompts(plan):
                say(keeping(plan.original, plan.prompts["forget"]))
        if where is not None:
            return carry_out_in(where, plan, overwrite=overwrite, resume=resume, progress=title)
        began = time.monotonic()
        plan, fitted = with_posterior(plan, progress=title is not None)
        fitting = time.monotonic() - began
        result = carry_out(plan, progress=title)
        return replace(
            result, network_evaluations=result.network_evaluations + fitted, seconds=result.seconds + fitting
        )


def planned(pipeline: Any, method: Any = "auto", **given: Any) -> Plan:
    """Everything that :func:`unlearn` checks before it trains anything.

    Args:
        pipeline: as for :func:`unlearn`, like the others.
        method: likewise.
        **given: its keywords.

    Returns:
        What would be carried out. Whatever cannot be used raises an ``InputError``.
    """
    named = signature(unlearn).parameters
    asked = {name: each.default for name, each in named.items() if each.kind is not Parameter.VAR_KEYWORD}
    own = {name: value for name, value in given.items() if name not in asked}
    return make_plan(
        asked
        | {name: value for name, value in given.items() if name in asked}
        | {"pipeline": pipeline, "method": method, "options": own}
    )

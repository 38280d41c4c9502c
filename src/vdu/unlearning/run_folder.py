"""An unlearning in a run folder: settings, record, log, checkpoints, the new pipeline with its card, for evaluation and report.

What was given as an object is stored, so that ``vdu evaluate`` finds it: the original in ``original/``, forget images in
``forget.safetensors``, a posterior in ``posterior.safetensors``. Only ``pipeline/`` and, after LoRA, ``lora/`` are
meant to leave the house; the pipeline has the corrections merged.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vdu.core.runs import Run
from vdu.data.forget_source import write_forget
from vdu.data.overlap import RETAINED, PixelHashes
from vdu.data.sources import place_of
from vdu.diffusion.sampling import Sampler
from vdu.diffusion.schedule import kl_weights, weight_share
from vdu.methods import registry
from vdu.methods.vdu import VDU
from vdu.models.lora import lora_rank
from vdu.models.pipelines import hashes_of
from vdu.models.saving import save_pipeline
from vdu.reporting.card import write_card
from vdu.unlearning.default_posterior import with_posterior
from vdu.unlearning.engine import carry_out, check_resumable, fingerprint
from vdu.unlearning.plan import Plan
from vdu.unlearning.result import UnlearnResult

__all__ = ["carry_out_in", "configuration"]

ORIGINAL, POSTERIOR = "original", "posterior.safetensors"


def carry_out_in(
    folder: Path, plan: Plan, *, overwrite: bool = False, resume: bool = False, progress: str | None = None
) -> UnlearnResult:
    """Carry out a plan in a run folder.

    Args:
        folder: the run folder.
        plan: what, and how.
        overwrite: start anew in a folder that already holds a run.
        resume: continue the run that the folder holds.
        progress: title of the progress bar; None shows none.

    Returns:
        The result. A folder that holds anything else is refused (:class:`vdu.core.runs.Run`).
    """
    chosen, retain = plan.chosen, _path(plan.retain_source)
    keep = (
        plan.source or None,
        place_of(plan.forget_source) if plan.forget_source else None,
        chosen.posterior_path,
        retain,
    )
    with Run(folder, "unlearn", overwrite=overwrite, resume=resume, keep=keep) as record:
        return _carried_out(record, plan, resume=resume, progress=progress)


def _carried_out(record: Run, plan: Plan, *, resume: bool, progress: str | None) -> UnlearnResult:
    folder, inputs = record.folder, plan.inputs(str((record.folder / ORIGINAL).resolve()))
    inputs |= _posterior_input(plan, folder)
    if resume and not plan.chosen.fits:  # before auxiliary models are trained in vain
        check_resumable(plan, folder)
    record.start(configuration(plan, folder), inputs, identity=fingerprint(plan))
    spent: list[dict[str, Any]] = []  # with the parts of a run that is resumed
    if plan.chosen.fits:
        with record.stage("posterior") as cost:
            plan, fitted = with_posterior(plan, progress=bool(progress))
            if resume:  # before this stage replaces the settings of the run
                check_resumable(plan, folder)
            inputs |= _posterior_input(plan, folder)
            cost |= {"network_evaluations": fitted, "whole": True}
        spent.append(cost)
    with record.stage("unlearn") as cost:
        result = carry_out(plan, folder=folder, resume=resume, progress=progress)
        cost["network_evaluations"] = result.network_evaluations
        cost["reused"] = result.aids.reused if result.aids else 0
        cost |= result.aids.record if result.aids else {}
        if result.stopping is not None:
            cost |= {"stopping": asdict(result.stopping), "statement": result.statement}
    spent.append(cost)
    _store_objects(record, plan)
    method, made = plan.chosen.method, result.pipeline
    with record.replacing("pipeline") as temporary:
        save_pipeline(made, temporary)
        write_card(temporary, inputs, method.name, plan.told(), result.statement)
    if lora_rank(plan.train):
        with record.replacing("lora") as temporary:
            result.save_lora(temporary)
    extras: dict[str, Any] = {"prediction_change": result.prediction_change, "sampler": plan.sampler.describe()}
    if isinstance(method, VDU) and method.schedule is not None:
        extras["weight_share"] = weight_share(kl_weights(method.schedule, method.weights))
    if plan.retain is not None:
        source = plan.retain_source or "images given in Python"
        extras["retain"] = {
            "source": source,
            "description": plan.retain.description,
            "sha256": plan.retain.sha256,
        }
    weights = {
        **hashes_of(made),
        "weights": "raw" if result.training.ema is None else "ema",
        "steps": result.training.steps,
    }
    record.finish(pipeline=weights, **extras)
    evaluations, seconds = (sum(each[name] or 0 for each in spent) for name in ("network_evaluations", "seconds"))
    at_least = any(each.get("resumed") for each in spent)
    return replace(
        result, network_evaluations=evaluations, seconds=seconds, cost_is_at_least=at_least, folder=folder.absolute()
    )


def _path(source: str | None) -> Path | None:
    return None if source in (None, "self") else place_of(source)


def _posterior_input(plan: Plan, folder: Path) -> dict[str, Any]:
    posterior, path = plan.chosen.posterior, plan.chosen.posterior_path
    if posterior is None:
        return {}
    return {
        "posterior": {
            "path": str((path or folder / POSTERIOR).resolve()),
            "sha256": posterior.sha256,
            "estimator": posterior.estimator,
        }
    }


def _store_objects(record: Run, plan: Plan) -> None:
    """Store what the evaluation or a reader could find nowhere else."""
    if not record.active:
        return
    if not plan.source:
        with record.replacing(ORIGINAL) as temporary:
            save_pipeline(plan.pipeline, temporary)
    if plan.forget_label or not plan.forget_source:
        write_forget(record.folder, plan.forget)
    if plan.retain is not None:
        PixelHashes.of(plan.retain).save(record.folder / RETAINED)
    if plan.chosen.posterior is not None and plan.chosen.posterior_path is None:
        plan.chosen.posterior.save(record.folder / POSTERIOR)


def configuration(plan: Plan, folder: Path) -> str:
    """The settings of a run as the text of ``config.toml``, under the names of the command line.

    Args:
        plan: the plan.
        folder: the run folder.

    Returns:
        TOML that ``vdu unlearn --config`` reads. What was given as an object has no name there and is left out.
    """
    import tomli_w

    chosen, training, sampler = plan.chosen, plan.training, plan.sampler
    asked, name = chosen.asked, chosen.method.name
    if registry.is_file(asked):
        place, _, kind = asked.rpartition(":")
        asked = name = f"{Path(place).expanduser().resolve()}:{kind}"
    values = {
        "scheduler": sampler.scheduler,
        "inference_steps": sampler.steps,
        "eta": sampler.eta,
        "microbatch_size": sampler.microbatch_size,
        "pipeline": plan.source or str((folder / ORIGINAL).resolve()),
        "forget": plan.forget_source,
        "output_dir": str(folder),
        "forget_class": list(plan.forget_class),
        "forget_label": [] if "forget" in plan.prompts else list(plan.forget_label),
        "forget_prompt": list(plan.prompts.get("forget", ())),
        "keep_prompts": list(plan.prompts.get("keep", ())),
        "instead": plan.prompts.get("instead"),
        "guidance_scale": sampler.guidance_scale,
        "train": plan.train,
        "convert": plan.convert,
        "method": name,
        "option": list(chosen.options),
        "posterior": str(chosen.posterior_path) if chosen.posterior_path else None,
        "retain": plan.retain_source,
        "n_own_samples": plan.n_own_samples,
        "force": plan.force,
        "full_length": plan.full_length,
        "steps": training.steps,
        "batch_size": plan.batch_size,
        "learning_rate": training.learning_rate,
        "lr_schedule": training.lr_schedule,
        "warmup_steps": training.warmup_steps,
        "ema_decay": training.ema_decay or 0.0,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "max_grad_norm": training.max_grad_norm,
        "mixed_precision": training.mixed_precision,
        "gradient_checkpointing": plan.gradient_checkpointing,
        "seed": plan.seed,
        "checkpointing_steps": training.checkpointing_steps,
        "checkpoints_total_limit": training.checkpoints_total_limit,
        "report_to": plan.report_to if isinstance(plan.report_to, str) else plan.report_to.name,
    }
    further = {
        name: value
        for name, value in sampler.describe().items()
        if name in {"spacing", "clip_sample"} and value != getattr(Sampler(), name)
    }
    comments = f'# method = "{asked}" was given, which selects {name}\n' if asked != name else ""
    if plan.seed is None:
        comments += f"# seeded by a torch.Generator in Python, which gave {plan.run_seed}\n"
    objects = {
        "forget": not (plan.forget_source or plan.drawn),
        "retain": plan.retain is not None and plan.retain_source is None,
        "posterior": chosen.posterior is not None and chosen.posterior_path is None,
    }
    if any(objects.values()):
        listed = ", ".join(name for name, given in objects.items() if given)
        comments += (
            f"# {listed}: given in Python as objects, which have no name here: with this file the run is another one\n"
        )
    if further:
        listed = ", ".join(f"{name}={value!r}" for name, value in further.items())
        comments += f"# the sampler was given in Python with {listed}, which have no name here: with this file the run is another one\n"
    return comments + tomli_w.dumps({key: value for key, value in values.items() if value is not None})

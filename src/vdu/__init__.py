"""vdu: make a diffusion model forget, using only examples of what it must forget, and show the evidence.

    import vdu

    result = vdu.unlearn("my-ddpm", forget="unwanted/", folder="run")     # a folder or pipeline; a folder, images, tensor, Dataset
    result                                                                # method, steps, time, how it ended
    result.save_pretrained("my-ddpm-clean")                               # plain diffusers, with a model card

    evidence = vdu.evaluate("run")                                        # what is gone, what is left of the rest
    evidence.pul.value, evidence.pul.low, evidence.pul.high
    vdu.report("run")                                                     # run/report.html

Methods have names (``vdu.unlearn(pipe, "vdu", forget=images, gamma=0.1)``; ``vdu list`` shows them) and classes; your own inherits from
``vdu.Method``. Importing the package is quick and has no side effect: what needs PyTorch is imported at first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vdu import metrics
    from vdu.api import report, sample
    from vdu.commands.verify import verify
    from vdu.core.errors import DivergenceError, InputError
    from vdu.data.images import ImageSet
    from vdu.data.sources import load_images
    from vdu.diffusion.sampling import Sampler
    from vdu.diffusion.schedule import NoiseSchedule
    from vdu.evaluation.api import Evidence, compare, evaluate
    from vdu.methods.anchor import FunctionAnchor
    from vdu.methods.base import Method
    from vdu.methods.bounded import BoundedPlasticity
    from vdu.methods.concept_ablation import ConceptAblation
    from vdu.methods.conflict_free import ConflictFree
    from vdu.methods.distillation import RetainDistillation
    from vdu.methods.erasediff import EraseDiff
    from vdu.methods.esd import ESD
    from vdu.methods.finetune import FineTune
    from vdu.methods.registry import register
    from vdu.methods.retrack import Retrack
    from vdu.methods.salun import SalUn
    from vdu.methods.selective_amnesia import SelectiveAmnesia
    from vdu.methods.siss import SISS
    from vdu.methods.uce import UCE
    from vdu.methods.vdu import VDU, gradient_ascent
    from vdu.models.denoiser import PipelineDenoiser
    from vdu.models.pipelines import load_pipeline
    from vdu.models.saving import save_pipeline
    from vdu.posterior.gaussian import GaussianPosterior
    from vdu.unlearning.fit_posterior import fit_posterior
    from vdu.unlearning.result import UnlearnResult
    from vdu.unlearning.unlearn import unlearn

_HOMES = {
    "metrics": "",
    "report": "api",
    "sample": "api",
    "verify": "commands.verify",
    "Evidence": "evaluation.api",
    "compare": "evaluation.api",
    "evaluate": "evaluation.api",
    "Method": "methods.base",
    "register": "methods.registry",
    "ImageSet": "data.images",
    "load_images": "data.sources",
    "Sampler": "diffusion.sampling",
    "NoiseSchedule": "diffusion.schedule",
    "DivergenceError": "core.errors",
    "InputError": "core.errors",
    "FunctionAnchor": "methods.anchor",
    "BoundedPlasticity": "methods.bounded",
    "ConceptAblation": "methods.concept_ablation",
    "ConflictFree": "methods.conflict_free",
    "RetainDistillation": "methods.distillation",
    "EraseDiff": "methods.erasediff",
    "ESD": "methods.esd",
    "FineTune": "methods.finetune",
    "Retrack": "methods.retrack",
    "SalUn": "methods.salun",
    "SelectiveAmnesia": "methods.selective_amnesia",
    "SISS": "methods.siss",
    "UCE": "methods.uce",
    "VDU": "methods.vdu",
    "gradient_ascent": "methods.vdu",
    "PipelineDenoiser": "models.denoiser",
    "load_pipeline": "models.pipelines",
    "save_pipeline": "models.saving",
    "GaussianPosterior": "posterior.gaussian",
    "fit_posterior": "unlearning.fit_posterior",
    "UnlearnResult": "unlearning.result",
    "unlearn": "unlearning.unlearn",
}

__all__ = [  # ruff: ignore[unsorted-dunder-all]  (grouped by purpose)
    # the main job, and the evidence
    "unlearn", "UnlearnResult", "evaluate", "compare", "Evidence", "report", "verify", "metrics",
    # a method of your own
    "Method", "register",
    # methods, and peers
    "RetainDistillation", "VDU", "fit_posterior", "GaussianPosterior",
    "BoundedPlasticity", "ConceptAblation", "ConflictFree", "ESD", "EraseDiff", "FineTune", "FunctionAnchor", "Retrack", "SISS", "SalUn",
    "SelectiveAmnesia", "UCE", "gradient_ascent",
    # models, data, sampling
    "PipelineDenoiser", "load_pipeline", "save_pipeline", "ImageSet", "load_images", "NoiseSchedule", "Sampler", "sample",
    # errors
    "DivergenceError", "InputError",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vdu' has no attribute {name!r}")
    if not _HOMES[name]:
        return import_module(f"vdu.{name}")  # a room that is itself a namespace
    return getattr(import_module(f"vdu.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""vdu: make a diffusion model forget, using only the data it must forget, and show the evidence.

    result = vdu.unlearn(pipe, vdu.RetainDistillation(), forget="unwanted/", generator=torch.Generator().manual_seed(0))
    result.pipeline.save_pretrained("my-ddpm-clean")

Importing the package is quick and has no side effect: what needs PyTorch is imported at first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vdu.core.errors import DivergenceError, InputError
    from vdu.data.images import ImageSet
    from vdu.data.sources import load_images
    from vdu.diffusion.sampling import Sampler, sample
    from vdu.diffusion.schedule import NoiseSchedule
    from vdu.methods.anchor import FunctionAnchor
    from vdu.methods.bounded import BoundedPlasticity
    from vdu.methods.conflict_free import ConflictFree
    from vdu.methods.distillation import RetainDistillation
    from vdu.methods.erasediff import EraseDiff
    from vdu.methods.esd import ESD
    from vdu.methods.finetune import FineTune
    from vdu.methods.retrack import Retrack
    from vdu.methods.salun import SalUn
    from vdu.methods.selective_amnesia import SelectiveAmnesia
    from vdu.methods.siss import SISS
    from vdu.methods.vdu import VDU, gradient_ascent
    from vdu.models.denoiser import PipelineDenoiser
    from vdu.models.pipelines import load_pipeline, save_pipeline
    from vdu.posterior.gaussian import GaussianPosterior
    from vdu.unlearning.fit_posterior import fit_posterior
    from vdu.unlearning.unlearn import UnlearnResult, unlearn

_HOMES = {
    "ImageSet": "data.images",
    "load_images": "data.sources",
    "Sampler": "diffusion.sampling",
    "sample": "diffusion.sampling",
    "NoiseSchedule": "diffusion.schedule",
    "DivergenceError": "core.errors",
    "InputError": "core.errors",
    "FunctionAnchor": "methods.anchor",
    "BoundedPlasticity": "methods.bounded",
    "ConflictFree": "methods.conflict_free",
    "RetainDistillation": "methods.distillation",
    "EraseDiff": "methods.erasediff",
    "ESD": "methods.esd",
    "FineTune": "methods.finetune",
    "Retrack": "methods.retrack",
    "SalUn": "methods.salun",
    "SelectiveAmnesia": "methods.selective_amnesia",
    "SISS": "methods.siss",
    "VDU": "methods.vdu",
    "gradient_ascent": "methods.vdu",
    "PipelineDenoiser": "models.denoiser",
    "load_pipeline": "models.pipelines",
    "save_pipeline": "models.pipelines",
    "GaussianPosterior": "posterior.gaussian",
    "fit_posterior": "unlearning.fit_posterior",
    "UnlearnResult": "unlearning.unlearn",
    "unlearn": "unlearning.unlearn",
}

__all__ = [  # ruff: ignore[unsorted-dunder-all]  (grouped by purpose)
    # the main job
    "unlearn", "UnlearnResult", "RetainDistillation", "VDU", "fit_posterior", "GaussianPosterior",
    # other methods, and peers
    "BoundedPlasticity", "ConflictFree", "ESD", "EraseDiff", "FineTune", "FunctionAnchor", "Retrack", "SISS", "SalUn",
    "SelectiveAmnesia", "gradient_ascent",
    # models, data, sampling
    "PipelineDenoiser", "load_pipeline", "save_pipeline", "ImageSet", "load_images", "NoiseSchedule", "Sampler", "sample",
    # errors
    "DivergenceError", "InputError",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vdu' has no attribute {name!r}")
    return getattr(import_module(f"vdu.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""``vdu demo``: the main job on packaged digits, as the four commands that a user would type."""

import sys
from pathlib import Path
from typing import Any

from vdu.recipes import evaluate, posterior, report, unlearn
from vdu.recipes.settings import DemoSettings, EvaluateSettings, PosteriorSettings, ReportSettings, UnlearnSettings
from vdu.zoo.packaged import pipeline_folder

__all__ = ["run"]


def run(settings: DemoSettings) -> dict[str, Any]:
    """Posterior, unlearning, evidence and report for one digit.

    Args:
        settings: see :class:`vdu.recipes.settings.DemoSettings`.

    Returns:
        The evaluation's summary, and where things are.
    """
    model, out = pipeline_folder("mnist-small"), settings.output_dir
    common: dict[str, Any] = {"overwrite": settings.overwrite, "seed": settings.seed}
    _say(f"1/4 posterior of the weights, from the model's own samples → {out / 'posterior'}")
    posterior.run(
        PosteriorSettings(estimator="fisher", pipeline=model, output_dir=out / "posterior", **_posterior(), **common)
    )
    _say(f"2/4 forget the digit {settings.digit} → {out / 'run'}")
    chosen = _unlearn() | ({"steps": settings.steps} if settings.steps else {})
    unlearn.run(
        UnlearnSettings(
            pipeline=model, forget="mnist-mini", forget_class=(str(settings.digit),), output_dir=out / "run",
            posterior=out / "posterior", **chosen, **common,
        )
    )  # fmt: skip
    _say(f"3/4 draw {settings.n_images} images from both models, from the same noise, and judge them")
    result = evaluate.run(
        EvaluateSettings(
            run=out / "run", judge="mnist", second_judge="mnist-lenet", reference="mnist-mini", reference_split="test",
            n_images=settings.n_images, seed=settings.seed, **_sampler(),
        )
    )  # fmt: skip
    _say("4/4 evidence report")
    page = report.run(ReportSettings(run=out / "run"))["report"]
    return result | {"pipeline": str(out / "run" / "pipeline"), "report": str(Path(page).resolve())}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _sampler() -> dict[str, Any]:
    return {"scheduler": "ddim", "inference_steps": 20}


def _posterior() -> dict[str, Any]:
    return {"n_train": 60_000, "n_samples": 200, **_sampler()}


def _unlearn() -> dict[str, Any]:
    """Chosen on the digit 8 by ``benchmarks/tune_vdu.py``, by the rule that it states; results/tune_vdu.json has the runs."""
    return {
        "gamma": 0.9995,
        "weights": "uniform",
        "alpha_bar_min": 0.1,
        "alpha_bar_max": 0.3,
        "learning_rate": 5e-6,
        "batch_size": 64,
        "steps": 36,
    }

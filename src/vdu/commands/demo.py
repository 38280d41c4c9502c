"""``vdu demo``: the main job on packaged digits, as the three commands that a user would type."""

import sys
from pathlib import Path
from typing import Any

from vdu.commands import evaluate, report, unlearn
from vdu.commands.settings import DemoSettings, EvaluateSettings, ReportSettings, UnlearnSettings
from vdu.zoo.packaged import pipeline_folder

__all__ = ["run"]

RETRAINED = {"8": "mnist-without-8"}


def run(settings: DemoSettings) -> dict[str, Any]:
    """Unlearning, evidence and report for one digit.

    Args:
        settings: see :class:`vdu.commands.settings.DemoSettings`.

    Returns:
        The evaluation's summary, and where things are.
    """
    model, out = pipeline_folder("mnist"), settings.output_dir
    _say(f"1/3 forget the digit {settings.digit}, from images of it and what the model itself makes → {out / 'run'}")
    unlearn.run(
        UnlearnSettings(
            pipeline=model, forget="mnist-mini", forget_class=(str(settings.digit),), output_dir=out / "run",
            steps=settings.steps, seed=settings.seed, overwrite=settings.overwrite,
            resume_from_checkpoint=settings.resume_from_checkpoint,
        )
    )  # fmt: skip
    probes = "" if settings.suite == "none" else ", and try to bring the digit back"
    _say(f"2/3 draw {settings.n_images} images from both models, from the same noise, and judge them{probes}")
    result = evaluate.run(
        EvaluateSettings(
            run=out / "run", judge="mnist", second_judge="mnist-lenet", reference="mnist-mini", reference_split="test",
            data="mnist-mini", suite=settings.suite, n_images=settings.n_images, seed=settings.seed, scheduler="ddpm",
            inference_steps=20, retrained=pipeline_folder(RETRAINED[digit]) if (digit := str(settings.digit)) in RETRAINED else None,
        )
    )  # fmt: skip
    _say("3/3 evidence report")
    page = report.run(ReportSettings(run=out / "run"))["report"]
    return result | {"pipeline": str(out / "run" / "pipeline"), "report": str(Path(page).resolve())}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

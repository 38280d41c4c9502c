"""``vdu demo``: unlearning, evaluation and report on packaged digits, as the three commands that a user would type."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from vdu.commands.options import Count

__all__ = ["DemoSettings", "run"]

RETRAINED = {"8": "mnist-without-8"}


def _digit(type_: Any, value: int) -> None:
    if not 0 <= value <= 9:
        raise ValueError(f"Got {value}; expected a digit from 0 to 9.")


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Unlearn one digit of the packaged small MNIST model and report the evidence.

    Attributes:
        output_dir: the run folder.
        digit: the digit to forget, 0 to 9.
        n_images: images from each model for the evidence.
        suite: probe suite: quick, full or none.
        steps: maximum number of unlearning steps; by default the tuned number.
        seed: seeds everything.
        overwrite: start anew in a folder that already holds a run.
        resume_from_checkpoint: "latest" continues an interrupted unlearning; the evaluation is run anew.
    """

    output_dir: Path = Path("vdu-demo")
    digit: Annotated[int, Parameter(validator=_digit)] = 8
    n_images: Count = 500
    suite: Literal["quick", "full", "none"] = "quick"
    steps: Count | None = None
    seed: int = 0
    overwrite: bool = False
    resume_from_checkpoint: Literal["latest"] | None = None


def run(settings: DemoSettings) -> dict[str, Any]:
    """Unlearning, evidence and report for one digit.

    Args:
        settings: see :class:`DemoSettings`.

    Returns:
        The evaluation's summary and the paths of the results.
    """
    from vdu.commands import evaluate, report, unlearn
    from vdu.commands.settings import EvaluateSettings
    from vdu.zoo.packaged import pipeline_folder

    model, out = pipeline_folder("mnist"), settings.output_dir
    _say(f"1/3 forget the digit {settings.digit}, using images of it and generated samples → {out / 'run'}")
    unlearn.run(
        unlearn.UnlearnSettings(
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
    page = report.run(report.ReportSettings(run=out / "run"))["report"]
    return result | {"pipeline": str(out / "run" / "pipeline"), "report": str(Path(page).resolve())}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

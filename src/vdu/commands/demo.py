"""``vdu demo``: unlearning, evaluation and report on packaged digits, as the three commands that a user would type."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from vdu.commands.options import Count, ImageCount, OutputDir, Seed, within
from vdu.core.ranges import Range

__all__ = ["N_IMAGES", "RETRAINED", "DemoSettings", "run"]

RETRAINED = {"8": "mnist-without-8"}
N_IMAGES = 500
SAMPLER: dict[str, Any] = {"scheduler": "ddpm", "inference_steps": 20}
SHORT: dict[str, Any] = {
    "steps": 270, "learning_rate": 3e-4, "option": ("pool_size=90", "classifier_width=16", "self_model_steps=50"),
}  # fmt: skip
"""Half of the default's network evaluations; what that costs: benchmarks/short_distillation.py."""
QUICK_EVALUATIONS, FULL_EVALUATIONS = 64_000, 444_000  # of the digit 8; for the estimate


DIGIT = Range("a digit from 0 to 9", 0, high=9, below=False, whole=True)


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Unlearn one digit of the packaged small MNIST model and report the evidence.

    The digit 8 is the quickest: what does not depend on the forget set, and the samples of its retrained model, are packaged.

    Attributes:
        output_dir: the run folder.
        digit: the digit to forget, 0 to 9.
        full: train longer, with new batches at every step, and try to bring the digit back; about seven times as long.
        n_images: images from each model for the evidence.
        suite: probe suite: none, quick or full; by default none, or quick with --full.
        steps: maximum number of unlearning steps; by default the tuned number.
        seed: seeds everything.
        overwrite: start anew in a folder that already holds a run.
        resume_from_checkpoint: "latest" continues an interrupted unlearning; the evaluation is run anew.
    """

    output_dir: OutputDir = Path("vdu-demo")
    digit: Annotated[int, within(DIGIT)] = 8
    full: Annotated[bool, Parameter(negative=())] = False
    n_images: ImageCount = N_IMAGES
    suite: Literal["quick", "full", "none"] | None = None
    steps: Count | None = None
    seed: Seed = 0
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
    from vdu.core.records import read_json
    from vdu.judges.judging import judge_place
    from vdu.zoo.packaged import pipeline_folder

    began = time.perf_counter()
    for name in ("mnist", "mnist-lenet"):
        judge_place(name)  # refuses now what a folder of such a name would make ambiguous
    model, out, digit = pipeline_folder("mnist"), settings.output_dir / "run", str(settings.digit)
    suite = settings.suite or ("quick" if settings.full else "none")
    training: dict[str, Any] = {} if settings.full else dict(SHORT)
    training |= {} if settings.steps is None else {"steps": settings.steps}
    _say(f"vdu demo: about {_minutes(model, FULL_EVALUATIONS if settings.full else QUICK_EVALUATIONS)} on this machine")
    _say(f"1/3 forget the digit {digit}, using images of it and generated samples → {out}")
    unlearn.run(
        unlearn.UnlearnSettings(
            pipeline=model, forget="mnist-mini", forget_class=(digit,), output_dir=out, seed=settings.seed,
            overwrite=settings.overwrite, resume_from_checkpoint=settings.resume_from_checkpoint, **training,
        )
    )  # fmt: skip
    probes = "" if suite == "none" else ", and try to bring the digit back"
    _say(f"2/3 draw {settings.n_images} images from both models, from the same noise, and judge them{probes}")
    result = evaluate.run(
        EvaluateSettings(
            run=out, judge="mnist", second_judge="mnist-lenet", reference="mnist-mini", reference_split="test",
            data=None if suite == "none" else "mnist-mini", suite=suite, n_images=settings.n_images, seed=settings.seed, **SAMPLER,
            retrained=pipeline_folder(RETRAINED[digit]) if digit in RETRAINED else None,
        )
    )  # fmt: skip
    _say("3/3 evidence report")
    page = report.run(report.ReportSettings(run=out))["report"]
    stages = read_json(out / "run.json")["stages"]
    spent = sum((each["network_evaluations"] or 0) - each.get("reused", 0) for each in stages)
    _say(_done(stages, time.perf_counter() - began, spent))
    return result | {
        "pipeline": str(out / "pipeline"), "report": str(Path(page).resolve()), "network_evaluations": spent,
    }  # fmt: skip


def _minutes(model: Path, evaluations: int) -> str:
    """A time for network evaluations, from three timed ones of a batch, in words."""
    import torch

    from vdu.models.denoiser import PipelineDenoiser
    from vdu.models.pipelines import load_pipeline

    denoiser = PipelineDenoiser.from_pipeline(load_pipeline(model))
    images, level = torch.zeros(50, *denoiser.latent_shape), torch.full((50,), 500)
    times = []
    with torch.no_grad():
        for _ in range(4):  # the first one warms up
            began = time.perf_counter()
            denoiser.raw(images, level, None)
            times.append(time.perf_counter() - began)
    minutes = sorted(times[1:])[1] / len(images) * evaluations / 60
    return f"{max(1, round(minutes))} min"


def _done(stages: Sequence[Mapping[str, Any]], seconds: float, spent: int) -> str:
    """The last line: time and evaluations; of a continued run with its earlier parts, as far as their cost is known."""
    least = "at least " * any(each.get("resumed") for each in stages)
    minutes = max(seconds, sum(each["seconds"] for each in stages)) / 60
    return (
        f"done in {least}{minutes:.1f} min, with {least}{spent:,} network evaluations (one image forward is 1, backward 2), measuring "
        "included"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

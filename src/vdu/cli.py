"""The command line: it parses, calls one recipe and prints. Progress goes to standard error, results to standard output.

Exit codes: 0 done; 2 bad input; 3 a reproduction outside its tolerance; 4 a run that diverged; 130 interrupted; 1 anything
else. Never 0 on a failure.
"""

import json as json_module
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from cyclopts.config import Toml

from vdu.errors import DivergenceError, InputError
from vdu.recipes.settings import (
    DemoSettings,
    Estimator,
    EvaluateSettings,
    JudgeSettings,
    PosteriorSettings,
    PretrainSettings,
    ReportSettings,
    SampleSettings,
    UnlearnSettings,
    to_toml,
)

__all__ = ["app", "main"]

app = App(name="vdu", help="Make a diffusion model forget, using only the data it must forget.", version_flags=["--version"])

Json = Annotated[bool, Parameter(help="Print the result as JSON.", negative=())]
DryRun = Annotated[bool, Parameter(help="Print the resolved settings and stop.", negative=())]
Flat = Parameter(name="*")


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json_module.dumps(result, indent=2, default=str))
        return
    for name, value in result.items():
        print(f"{name}: {value}")


def _run(recipe: str, settings: Any, json: bool, dry_run: bool) -> None:
    if dry_run:
        print(to_toml(settings), end="")
        return
    from importlib import import_module

    _show(import_module(f"vdu.recipes.{recipe}").run(settings), json)


@app.command
def demo(settings: Annotated[DemoSettings | None, Flat] = None, *, json: Json = False, dry_run: DryRun = False) -> None:
    """The main job on packaged digits: a model forgets one digit, and a report shows the evidence."""
    _run("demo", settings or DemoSettings(), json, dry_run)


@app.command
def pretrain(settings: Annotated[PretrainSettings, Flat], *, json: Json = False, dry_run: DryRun = False) -> None:
    """Train an unconditional diffusion model from scratch, or fine-tune one."""
    _run("pretrain", settings, json, dry_run)


@app.command
def judge(settings: Annotated[JudgeSettings, Flat], *, json: Json = False, dry_run: DryRun = False) -> None:
    """Train a classifier on labelled images, to judge what models make."""
    _run("judge", settings, json, dry_run)


@app.command
def posterior(
    estimator: Estimator, *, settings: Annotated[PosteriorSettings, Flat], json: Json = False, dry_run: DryRun = False
) -> None:
    """Estimate mean and variance of the pre-trained weights.

    Args:
        estimator: fisher (one checkpoint and its own samples), ensemble (several checkpoints), finetuned-ensemble (one
            checkpoint, fine-tuned several times) or isotropic (a control).
    """
    _run("posterior", replace(settings, estimator=estimator), json, dry_run)


@app.command
def unlearn(settings: Annotated[UnlearnSettings, Flat], *, json: Json = False, dry_run: DryRun = False) -> None:
    """Make a pipeline forget images."""
    _run("unlearn", settings, json, dry_run)


@app.command
def sample(settings: Annotated[SampleSettings, Flat], *, json: Json = False, dry_run: DryRun = False) -> None:
    """Draw images from a pipeline."""
    _run("sample", settings, json, dry_run)


@app.command
def evaluate(
    run: Path, *, settings: Annotated[EvaluateSettings | None, Flat] = None, json: Json = False, dry_run: DryRun = False
) -> None:
    """Compare an unlearned pipeline with the original, from the same noise.

    Args:
        run: the run folder of "vdu unlearn".
    """
    _run("evaluate", replace(settings or EvaluateSettings(), run=run), json, dry_run)


@app.command
def report(
    run: Path, *, settings: Annotated[ReportSettings | None, Flat] = None, json: Json = False, dry_run: DryRun = False
) -> None:
    """Write a run's evidence report as one HTML file.

    Args:
        run: the run folder of "vdu unlearn".
    """
    _run("report", replace(settings or ReportSettings(), run=run), json, dry_run)


def main(tokens: list[str] | None = None) -> None:
    """The entry point: run a verb and turn errors into messages and exit codes.

    Args:
        tokens: the arguments; by default those of the process.
    """
    sys.exit(_guarded(lambda: _dispatch(sys.argv[1:] if tokens is None else tokens)))


def _dispatch(tokens: list[str]) -> None:
    if "--config" in tokens:
        place = tokens.index("--config")
        if place + 1 == len(tokens):
            raise InputError("--config: got no file; expected a TOML file with the settings of this verb.")
        path = Path(tokens[place + 1])
        if not path.is_file():
            raise InputError(f"--config {path}: no such file.")
        app.config = (Toml(path, use_commands_as_keys=False),)
        tokens = tokens[:place] + tokens[place + 2 :]
    app(tokens, exit_on_error=True)


def _guarded(action: Callable[[], None]) -> int:
    try:
        action()
    except InputError as error:
        print(f"vdu: {error}", file=sys.stderr)
        return 2
    except DivergenceError as error:
        print(f"vdu: {error}", file=sys.stderr)
        return 4
    except KeyboardInterrupt:
        print("vdu: interrupted; what was complete is kept, --resume-from-checkpoint latest continues.", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"vdu: {error} (what was complete before is kept)", file=sys.stderr)
        return 1
    return 0

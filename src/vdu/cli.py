"""The command line: parses arguments, runs one command and prints. Progress goes to standard error, results to standard output.

Exit codes: 0 success; 2 bad input; 3 a reproduction outside the committed intervals; 4 a run that diverged; 130 interrupted; 1 any
other failure.
"""

import json as json_module
import sys
import tomllib
from collections.abc import Callable
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from cyclopts.config import Dict
from safetensors import SafetensorError

from vdu.commands.compare import CompareSettings
from vdu.commands.demo import DemoSettings
from vdu.commands.import_checkpoint import Architecture, ImportSettings
from vdu.commands.judge import JudgeSettings
from vdu.commands.list_methods import ListSettings
from vdu.commands.options import to_toml
from vdu.commands.pretrain import PretrainSettings
from vdu.commands.report import ReportSettings
from vdu.commands.sample import SampleSettings
from vdu.commands.settings import Estimator, EvaluateSettings, PosteriorSettings
from vdu.commands.unlearn import MOVED, UnlearnSettings, refuse_moved
from vdu.core.errors import DivergenceError, InputError
from vdu.explore.app import ExploreSettings
from vdu.paper.reproduce import ReproduceSettings

__all__ = ["app", "main"]

app = App(
    name="vdu",
    help="Make a diffusion model forget, using only the data it must forget.",
    version_flags=["--version"],
    default_parameter=Parameter(negative_iterable=()),
    suppress_keyboard_interrupt=False,  # main reports what an interrupted run leaves
)

SETTINGS = {
    "compare": CompareSettings,
    "demo": DemoSettings,
    "evaluate": EvaluateSettings,
    "explore": ExploreSettings,
    "import": ImportSettings,
    "judge": JudgeSettings,
    "posterior": PosteriorSettings,
    "pretrain": PretrainSettings,
    "report": ReportSettings,
    "reproduce": ReproduceSettings,
    "sample": SampleSettings,
    "unlearn": UnlearnSettings,
}

Json = Annotated[bool, Parameter(help="Print the result as JSON.", negative=())]
DryRun = Annotated[bool, Parameter(help="Print the resolved settings and stop.", negative=())]
Flat = Parameter(name="*")


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json_module.dumps(result, indent=2, default=str))
        return
    for name, value in result.items():
        print(f"{name}: {value}")


def _run(module: str, settings: Any, json: bool, dry_run: bool) -> None:
    if dry_run:
        print(to_toml(settings), end="")
        return
    from importlib import import_module

    result = import_module(f"vdu.{module}").run(settings)
    code = result.pop("exit_code", 0)
    _show(result, json)
    if code:
        sys.exit(code)


@app.command
def demo(settings: Annotated[DemoSettings | None, Flat] = None, *, json: Json = False, dry_run: DryRun = False) -> None:
    """Unlearn one digit of the packaged MNIST model and report the evidence."""
    _run("commands.demo", settings or DemoSettings(), json, dry_run)


@app.command
def pretrain(settings: Annotated[PretrainSettings, Flat], *, json: Json = False, dry_run: DryRun = False) -> None:
    """Train an unconditional diffusion model from scratch, or fine-tune one."""
    _run("commands.pretrain", settings, json, dry_run)


@app.command(name="import")
def import_(
    architecture: Architecture,
    checkpoint: Path,
    output_dir: Path,
    *,
    settings: Annotated[ImportSettings | None, Flat] = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Turn a checkpoint of a public repository into a diffusers pipeline folder.

    Args:
        architecture: ddpm-pytorch (explainingai-code/DDPM-Pytorch, MNIST) or improved-diffusion (openai/improved-diffusion,
            unconditional CIFAR-10).
        checkpoint: the state dict of the network or of its moving average: .pth, .pt or .safetensors.
        output_dir: the pipeline folder; new or empty.
    """
    given = {"architecture": architecture, "checkpoint": checkpoint, "output_dir": output_dir}
    _run("commands.import_checkpoint", replace(settings or ImportSettings(), **given), json, dry_run)


@app.command
def judge(settings: Annotated[JudgeSettings, Flat], *, json: Json = False, dry_run: DryRun = False) -> None:
    """Train a classifier on labelled images, for use as a judge of generated images."""
    _run("commands.judge", settings, json, dry_run)


@app.command
def posterior(
    estimator: Estimator, *, settings: Annotated[PosteriorSettings, Flat], json: Json = False, dry_run: DryRun = False
) -> None:
    """Estimate mean and variance of the pre-trained weights.

    Args:
        estimator: fisher (one checkpoint and its generated samples), ensemble (several checkpoints), finetuned-ensemble (one
            checkpoint, fine-tuned several times), isotropic (a control) or amnesia-fisher (for Selective Amnesia).
    """
    _run("commands.posterior", replace(settings, estimator=estimator), json, dry_run)


@app.command
def unlearn(settings: Annotated[UnlearnSettings, Flat], *, json: Json = False, dry_run: DryRun = False) -> None:
    """Make a pipeline forget images."""
    if dry_run:
        from vdu.commands.unlearn import configuration

        print(configuration(settings), end="")
        return
    _run("commands.unlearn", settings, json, dry_run)


@app.command
def sample(settings: Annotated[SampleSettings, Flat], *, json: Json = False, dry_run: DryRun = False) -> None:
    """Draw images from a pipeline."""
    _run("commands.sample", settings, json, dry_run)


@app.command
def evaluate(
    run: Path | None = None,
    *,
    settings: Annotated[EvaluateSettings | None, Flat] = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Compare an unlearned pipeline with the original, from the same noise.

    Args:
        run: the run folder of "vdu unlearn"; without it, give --before, --after and --forget.
    """
    _run("commands.evaluate", replace(settings or EvaluateSettings(), run=run), json, dry_run)


@app.command
def report(
    run: Path, *, settings: Annotated[ReportSettings | None, Flat] = None, json: Json = False, dry_run: DryRun = False
) -> None:
    """Write a run's evidence report as one HTML file.

    Args:
        run: the run folder of "vdu unlearn".
    """
    _run("commands.report", replace(settings or ReportSettings(), run=run), json, dry_run)


@app.command
def compare(
    runs: tuple[Path, ...] = (),
    *,
    settings: Annotated[CompareSettings | None, Flat] = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Compare runs side by side; fails if their numbers are not comparable.

    Args:
        runs: run folders, after "vdu evaluate".
    """
    chosen = replace(settings or CompareSettings(), runs=runs)
    if dry_run:
        print(to_toml(chosen), end="")
        return
    from vdu.commands import compare as recipe

    found = recipe.run(chosen)
    table = found.pop("table")
    _show(found, True) if json else print(f"{table}\npage: {found['page']}")


@app.command
def explore(
    runs: tuple[Path, ...] = (),
    *,
    settings: Annotated[ExploreSettings | None, Flat] = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Explore an unlearned model on a local page; several runs share one trade-off curve. Stop it with Ctrl-C.

    Args:
        runs: one or more run folders of "vdu unlearn", after "vdu evaluate".
    """
    chosen = replace(settings or ExploreSettings(), runs=runs)
    if dry_run:
        print(to_toml(chosen), end="")
        return
    from vdu.explore import app as page

    _show(page.run(chosen), json)


@app.command(name="list")
def list_(method: str | None = None, *, json: Json = False) -> None:
    """List the methods of vdu unlearn, or describe one with its options.

    Args:
        method: the method to describe; by default all of them.
    """
    from vdu.commands import list_methods

    found = list_methods.run(ListSettings(method=method))
    if json:
        _show(found, True)
    elif method is not None:
        print(list_methods.details(method, found[method]))
    else:
        print(list_methods.table(found))
        list_methods.note()


@app.command
def reproduce(
    table: str,
    *,
    settings: Annotated[ReproduceSettings | None, Flat] = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Reproduce the paper's tables and figures beside the published numbers; a restarted run continues where it stopped.

    Args:
        table: table1, table2 or figures; leaderboard (comparison of methods); or a TOML file of the same form.
    """
    _run("paper.reproduce", replace(settings or ReproduceSettings(), table=table), json, dry_run)


def main(tokens: list[str] | None = None) -> None:
    """The entry point: runs a verb and turns errors into messages and exit codes.

    Args:
        tokens: the arguments; by default those of the process.
    """
    sys.exit(_guarded(lambda: _dispatch(sys.argv[1:] if tokens is None else tokens)))


def _dispatch(tokens: list[str]) -> None:
    tokens = [part for token in tokens for part in (token.split("=", 1) if token.startswith("--config=") else [token])]
    app.config = ()
    if "--config" in tokens:
        place = tokens.index("--config")
        if place + 1 == len(tokens):
            raise InputError("--config: got no file; expected a TOML file with the settings of this verb.")
        path = Path(tokens[place + 1])
        tokens = tokens[:place] + tokens[place + 2 :]
        app.config = (Dict(_read_config(path, tokens[:1]), use_commands_as_keys=False, source=str(path)),)
    if tokens[:1] == ["unlearn"]:
        refuse_moved(_moved_flags(tokens))
    app(tokens, exit_on_error=True)


def _moved_flags(tokens: list[str]) -> dict[str, str]:
    """Flags of older versions among the arguments, and their values."""
    found = {}
    for place, token in enumerate(tokens):
        flag, equals, value = token.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if flag.startswith("--") and name in MOVED:
            found[name] = value if equals else next(iter(tokens[place + 1 :]), "VALUE")
    return found


def _read_config(path: Path, verb: list[str]) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"--config {path}: no such file; write one with --dry-run > {path.name}.")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, or a number of thousands of digits
        raise InputError(
            f"--config {path}: not a TOML file ({error}). Correct it, or write a new one with --dry-run."
        ) from None
    if not verb or verb[0] not in SETTINGS:
        raise InputError(f"--config: got {verb or 'no verb'}; expected the verb first: vdu VERB --config {path.name}.")
    if verb[0] == "unlearn":
        refuse_moved({name.replace("-", "_"): value for name, value in values.items()}, f"--config {path}")
    known = [item.name for item in fields(SETTINGS[verb[0]])]
    for name in values:
        if name.replace("-", "_") not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"The settings of {verb[0]} are {', '.join(known)}."
            raise InputError(f"--config {path}: {name!r} is not a setting of vdu {verb[0]}. {hint}")
    return values


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
        print(
            "vdu: interrupted; completed results are kept. Continue pretrain, judge, posterior and unlearn with "
            "--resume-from-checkpoint latest; start the other verbs again (reproduce continues where it stopped).",
            file=sys.stderr,
        )
        return 130
    except (OSError, SafetensorError) as error:  # a full disk, for example
        print(f"vdu: {error} (completed results are kept)", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        print(
            f"vdu: out of memory ({str(error).strip().splitlines()[0] if str(error).strip() else 'no details given'}). In "
            "training lower --batch-size or raise --gradient-accumulation-steps; in sampling lower --microbatch-size; "
            "--mixed-precision bf16 helps on accelerators. Completed results are kept.",
            file=sys.stderr,
        )
        return 1
    return 0


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, an accelerator or PyTorch on the CPU ran out of memory; works without importing PyTorch."""
    named = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    return isinstance(error, MemoryError) or named or "can't allocate memory" in str(error)

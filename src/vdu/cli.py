"""The command line: parses arguments, runs one command and prints. Progress goes to standard error, results to standard output.

Exit codes: 0 success; 2 bad input; 3 a reproduction or a hash that differs; 4 a run that diverged; 130 interrupted; 1 any
other failure.
"""

import io
import json as json_module
import sys
import tomllib
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Group, Parameter, UnknownCommandError, UnknownOptionError, UnusedCliTokensError
from cyclopts.config import Dict
from safetensors import SafetensorError

from vdu.commands import endings
from vdu.commands.compare import CompareSettings
from vdu.commands.demo import DemoSettings
from vdu.commands.help_page import FOOT, USAGE, HelpPage
from vdu.commands.import_checkpoint import Architecture, ImportSettings
from vdu.commands.judge import JudgeSettings
from vdu.commands.list_methods import ListSettings
from vdu.commands.mistakes import meant, require_given, unknown_option, unknown_verb
from vdu.commands.options import at_home, to_toml
from vdu.commands.pretrain import PretrainSettings
from vdu.commands.report import ReportSettings
from vdu.commands.sample import SampleSettings
from vdu.commands.settings import Estimator, EvaluateSettings, PosteriorSettings
from vdu.commands.unlearn import MOVED, UnlearnSettings, configuration, refuse_moved
from vdu.commands.verify import VerifySettings
from vdu.core.device import on_device
from vdu.core.errors import DivergenceError, InputError
from vdu.core.paths import given_path
from vdu.core.progress import whole
from vdu.core.runs import only_checks
from vdu.explore.app import ExploreSettings
from vdu.paper.reproduce import ReproduceSettings

__all__ = ["app", "main"]

PAGE = HelpPage()
RELIABLE_IMAGES = 100  # below, evaluate and demo warn

app = App(
    name="vdu",
    help="Make a diffusion model forget, using only the data it must forget.",
    usage="vdu VERB",
    version_flags=["--version"],
    default_parameter=Parameter(negative_iterable=()),
    suppress_keyboard_interrupt=False,  # main reports what an interrupted run leaves
    help_formatter=PAGE,
    help_epilogue=FOOT,
    help_format="plaintext",
    exit_on_error=False,
    print_error=False,
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
    "verify": VerifySettings,
}

MAIN, MODELS, RESEARCH = (
    Group(name, sort_key=place) for place, name in enumerate(("Main", "Models", "Research"), start=1)
)

Json = Annotated[bool, Parameter(help="print numbers and paths as JSON", negative=())]
DryRun = Annotated[bool, Parameter(help="check the settings, print them as TOML and stop", negative=())]
Device = Annotated[
    str | None, Parameter(help="cpu, cuda, cuda:N (the Nth GPU, from 0) or mps; by default CUDA if there is one")
]
Flat = Parameter(name="*")


def verb(group: Group, place: int, name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a verb.

    Args:
        group: its heading in ``vdu --help``.
        place: below that heading.
        name: the verb.

    Returns:
        The decorator.
    """
    return app.command(name=name, group=group, sort_key=place, usage=USAGE[name], help_epilogue="")


def _show(name: str, settings: Any, result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json_module.dumps(endings.numbers(name, settings, result), indent=2, default=str))
    elif text := endings.words(name, settings, result):
        print(text)


def _run(
    name: str, settings: Any, json: bool, dry_run: bool, device: str | None = None, module: str | None = None
) -> None:
    """Run a verb, or check and print its settings, and show how it ended."""
    from importlib import import_module

    settings = at_home(settings)
    if dry_run:
        _check(name, settings)
        print(configuration(settings) if name == "unlearn" else to_toml(settings), end="")
        return
    if getattr(settings, "n_images", RELIABLE_IMAGES) < RELIABLE_IMAGES and name in {"evaluate", "demo"}:
        print(
            f"vdu: warning: {settings.n_images} images from each model are few: the intervals of PUL and u-FID will be wide. "
            "Use --n-images 500 or more for conclusions.",
            file=sys.stderr,
        )
    with on_device(device), whole(name):
        result = import_module(f"vdu.{module or f'commands.{name}'}").run(settings)
    code = result.pop("exit_code", 0)
    _show(name, settings, result, json)
    if code:
        sys.exit(code)


def _check(name: str, settings: Any) -> None:
    """Check settings and inputs as the verb does before its first expensive step."""
    from importlib import import_module

    if name in {"evaluate", "judge", "posterior", "pretrain", "sample", "unlearn"}:  # those that work in a run folder
        with only_checks():
            import_module(f"vdu.commands.{name}").run(settings)


@verb(MAIN, 1, "demo")
def demo(
    settings: Annotated[DemoSettings | None, Flat] = None,
    *,
    device: Device = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Unlearn one digit of the packaged MNIST model and report the evidence."""
    _run("demo", settings or DemoSettings(), json, dry_run, device)


@verb(MAIN, 2, "unlearn")
def unlearn(
    pipeline: Path | None = None,
    forget: str = "",
    *,
    settings: Annotated[UnlearnSettings | None, Flat] = None,
    device: Device = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Make a model forget images.

    Args:
        pipeline: the model: a pipeline folder, a run folder, or a model of the Hugging Face Hub (org/name); it is not changed.
        forget: the images to forget: an image folder, a list of files, or a data set (then with --forget-class).
    """
    settings = settings or UnlearnSettings()
    images = {"IMAGES (or --forget-label)": forget or settings.forget_label}
    require_given("unlearn", MODEL=pipeline, **images)
    assert pipeline is not None
    settings = replace(settings, pipeline=pipeline, forget=forget)
    _run("unlearn", settings, json, dry_run, device)


@verb(MAIN, 3, "evaluate")
def evaluate(
    run: Path | None = None,
    *,
    settings: Annotated[EvaluateSettings | None, Flat] = None,
    device: Device = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Count what is left, measure the damage, and try to bring it back.

    Args:
        run: the run folder of "vdu unlearn"; without it, give --before, --after and --forget.
    """
    _run("evaluate", replace(settings or EvaluateSettings(), run=run), json, dry_run, device)


@verb(MAIN, 4, "report")
def report(
    run: Path | None = None,
    *,
    settings: Annotated[ReportSettings | None, Flat] = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Write a run's evidence report as one HTML file.

    Args:
        run: the run folder, after "vdu evaluate".
    """
    require_given("report", RUN=run)
    assert run is not None
    _run("report", replace(settings or ReportSettings(), run=run), json, dry_run)


@verb(MAIN, 7, "verify")
def verify(run: Path | None = None, *, json: Json = False, dry_run: DryRun = False) -> None:
    """Recompute every hash of a run's report; exit code 3 if one differs.

    Args:
        run: the run folder, after "vdu report".
    """
    require_given("verify", RUN=run)
    assert run is not None
    _run("verify", VerifySettings(run=run), json, dry_run)


@verb(MAIN, 5, "explore")
def explore(
    runs: tuple[Path, ...] = (),
    *,
    settings: Annotated[ExploreSettings | None, Flat] = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Explore an unlearned model on a local page.

    Args:
        runs: one or more run folders, after "vdu evaluate"; several share one trade-off curve.
    """
    _run("explore", replace(settings or ExploreSettings(), runs=runs), json, dry_run, module="explore.app")


@verb(MAIN, 6, "compare")
def compare(
    runs: tuple[Path, ...] = (),
    *,
    settings: Annotated[CompareSettings | None, Flat] = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Compare runs side by side.

    Args:
        runs: two or more run folders, after "vdu evaluate".
    """
    _run("compare", replace(settings or CompareSettings(), runs=runs), json, dry_run)


@verb(MODELS, 1, "sample")
def sample(
    pipeline: Path | None = None,
    *,
    settings: Annotated[SampleSettings | None, Flat] = None,
    device: Device = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Draw images from a model.

    Args:
        pipeline: the model: a pipeline folder, a run folder, or a model of the Hugging Face Hub (org/name).
    """
    require_given("sample", MODEL=pipeline)
    assert pipeline is not None
    _run("sample", replace(settings or SampleSettings(), pipeline=pipeline), json, dry_run, device)


@verb(MODELS, 2, "pretrain")
def pretrain(
    data: str = "",
    *,
    settings: Annotated[PretrainSettings | None, Flat] = None,
    device: Device = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Train a diffusion model from scratch, or fine-tune one.

    Args:
        data: images: mnist, cifar10, digits, mnist:FOLDER, hf:NAME, an image folder or a list of files.
    """
    require_given("pretrain", DATA=data)
    _run("pretrain", replace(settings or PretrainSettings(), data=data), json, dry_run, device)


@verb(MODELS, 3, "import")
def import_(
    architecture: Architecture | None = None,
    checkpoint: Path | None = None,
    output_dir: Annotated[Path | None, Parameter(alias="-o")] = None,
    *,
    settings: Annotated[ImportSettings | None, Flat] = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Turn a checkpoint of a public repository into a pipeline folder.

    Args:
        architecture: ddpm-pytorch (explainingai-code/DDPM-Pytorch, MNIST) or improved-diffusion (openai/improved-diffusion,
            unconditional CIFAR-10).
        checkpoint: the state dict of the network or of its moving average: .pth, .pt or .safetensors.
        output_dir: the pipeline folder; new or empty.
    """
    require_given("import", ARCHITECTURE=architecture, CHECKPOINT=checkpoint, OUTPUT_DIR=output_dir)
    given: Any = {"architecture": architecture, "checkpoint": checkpoint, "output_dir": output_dir}
    _run("import", replace(settings or ImportSettings(), **given), json, dry_run, module="commands.import_checkpoint")


@verb(MODELS, 4, "judge")
def judge(
    data: str = "",
    *,
    settings: Annotated[JudgeSettings | None, Flat] = None,
    device: Device = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Train a classifier (the judge) on labelled images.

    Args:
        data: labelled images with a test split: mnist, cifar10, digits, mnist:FOLDER, hf:NAME, a folder of class folders.
    """
    require_given("judge", DATA=data)
    _run("judge", replace(settings or JudgeSettings(), data=data), json, dry_run, device)


@verb(RESEARCH, 1, "list")
def list_(method: str | None = None, *, json: Json = False) -> None:
    """List the methods of vdu unlearn, or describe one with its options.

    Args:
        method: the method to describe; by default all of them.
    """
    from vdu.commands import list_methods

    found = list_methods.run(ListSettings(method=method))
    if json:
        print(json_module.dumps(found, indent=2))
    else:
        print(list_methods.table(found) if method is None else list_methods.details(method, found[method]))


@verb(RESEARCH, 2, "posterior")
def posterior(
    estimator: Estimator | None = None,
    pipeline: Path | None = None,
    *,
    settings: Annotated[PosteriorSettings | None, Flat] = None,
    device: Device = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Estimate mean and variance of the pre-trained weights.

    Args:
        estimator: fisher (one checkpoint and its generated samples), ensemble (several checkpoints), finetuned-ensemble (one
            checkpoint, fine-tuned several times), isotropic (a control) or amnesia-fisher (for Selective Amnesia).
        pipeline: the pre-trained model: a pipeline folder, a run folder, or a model of the Hugging Face Hub (org/name).
    """
    require_given("posterior", ESTIMATOR=estimator, MODEL=pipeline)
    assert estimator is not None
    assert pipeline is not None
    settings = replace(settings or PosteriorSettings(), estimator=estimator, pipeline=pipeline)
    _run("posterior", settings, json, dry_run, device)


@verb(RESEARCH, 3, "reproduce")
def reproduce(
    table: str = "",
    *,
    settings: Annotated[ReproduceSettings | None, Flat] = None,
    device: Device = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Reproduce the paper's tables and figures beside the published numbers.

    Args:
        table: table1, table2 or figures; leaderboard (comparison of methods); or a TOML file of the same form. A restarted run
            continues where it stopped.
    """
    require_given("reproduce", TABLE=table)
    chosen = replace(settings or ReproduceSettings(), table=table)
    _run("reproduce", chosen, json, dry_run, device, module="paper.reproduce")


def main(tokens: list[str] | None = None) -> None:
    """The entry point: runs a verb and turns errors into messages and exit codes.

    Args:
        tokens: the arguments; by default those of the process.
    """
    for stream in (sys.stdout, sys.stderr):  # what the terminal's encoding lacks is escaped, and no error
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_guarded(lambda: _dispatch(sys.argv[1:] if tokens is None else tokens)))


def _dispatch(tokens: list[str]) -> None:
    tokens = [part for token in tokens for part in (token.split("=", 1) if token.startswith("--config=") else [token])]
    app.config = ()
    if "--config" in tokens:
        place = tokens.index("--config")
        if place + 1 == len(tokens):
            raise InputError("--config: got no file; expected a TOML file with the settings of this verb.")
        path = given_path(tokens[place + 1], "--config")
        tokens = tokens[:place] + tokens[place + 2 :]
        app.config = (Dict(_read_config(path, tokens[:1]), use_commands_as_keys=False, source=str(path)),)
    if tokens[:1] == ["unlearn"]:
        refuse_moved(_moved_flags(tokens))
    PAGE.everything = "--help-all" in tokens
    try:
        app(["--help" if token == "--help-all" else token for token in tokens])
    except CycloptsError as error:
        raise InputError(_explained(error, tokens)) from None


def _explained(error: CycloptsError, tokens: list[str]) -> str:
    """What is wrong with the arguments, in one line."""
    name = tokens[0] if tokens and tokens[0] in USAGE else ""
    if isinstance(error, UnknownOptionError) and name:
        given = (error.token.keyword or error.token.value).partition("=")[0]
        return unknown_option(name, given, _option_names())
    if isinstance(error, UnknownCommandError):
        return unknown_verb((error.unused_tokens or tokens)[0])
    error.verbose = False
    text = str(error)
    return f"{text} It is called so: {USAGE[name]}" if name and isinstance(error, UnusedCliTokensError) else text


def _option_names() -> dict[str, list[str]]:
    """The options of every verb."""
    return {
        name: [each for argument in app[name].assemble_argument_collection() for each in argument.names]
        for name in USAGE
    }


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
            near = meant(f"--{name.replace('_', '-')}", [f"--{each.replace('_', '-')}" for each in known])
            near = None if near is None else near.split()[0].removeprefix("--").replace("-", "_")
            hint = f"Did you mean {near!r}?" if near else f"The settings of {verb[0]} are {', '.join(known)}."
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

"""The command line: parses arguments, runs one command and prints. Progress goes to standard error, results to standard output.

Exit codes: 0 success; 2 bad input; 3 a reproduction or a hash that differs; 4 a run that diverged; 130 interrupted; 1 any
other failure.
"""

import inspect
import io
import json as json_module
import math
import os
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from importlib import import_module
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
from vdu.commands.mistakes import (
    MAY_BE_EMPTY,
    left_over,
    meant,
    require_given,
    require_no_empty,
    unknown_option,
    unknown_verb,
)
from vdu.commands.options import at_home, to_toml
from vdu.commands.pretrain import PretrainSettings
from vdu.commands.report import ReportSettings
from vdu.commands.sample import SampleSettings
from vdu.commands.settings import Estimator, EvaluateSettings, PosteriorSettings
from vdu.commands.unlearn import UnlearnSettings, configuration, with_options_of_file, without_former_defaults
from vdu.commands.verify import VerifySettings
from vdu.core.device import on_device
from vdu.core.errors import DivergenceError, InputError, is_out_of_memory
from vdu.core.paths import given_path
from vdu.core.processes import is_first, n_launched, say
from vdu.core.runs import only_checks
from vdu.explore.app import ExploreSettings
from vdu.paper.reproduce import ReproduceSettings

__all__ = ["app", "main"]

PAGE = HelpPage()
RELIABLE_IMAGES = 100  # below, evaluate and demo warn

app = App(
    name="vdu",
    help="Make a diffusion model forget, using only the data it must forget.",
    usage="vdu COMMAND",
    version_flags=["--version"],
    default_parameter=Parameter(negative_iterable=()),
    suppress_keyboard_interrupt=False,  # main reports what an interrupted run leaves
    help_formatter=PAGE,
    help_epilogue=FOOT,
    help_format="plaintext",
    exit_on_error=False,
    print_error=False,
)

MAIN, MODELS, RESEARCH = (
    Group(name, sort_key=place) for place, name in enumerate(("Main", "Models", "Research"), start=1)
)

Json = Annotated[bool, Parameter(help="print numbers and paths as JSON", negative=())]
DryRun = Annotated[bool, Parameter(help="check the settings, print them as TOML and stop", negative=())]
Device = Annotated[
    str | None, Parameter(help="cpu, cuda, cuda:N (the Nth GPU, from 0) or mps; by default CUDA if there is one")
]


@dataclass(frozen=True)
class Verb:
    """A verb of the command line.

    Attributes:
        settings: what it takes.
        text: what it does, with an "Args" section for its arguments.
        group: its heading in ``vdu --help``; verbs are in the order of :data:`VERBS` below it.
        arguments: settings that are given in their places, with their types.
        required: labels of those that must be given.
        device: whether it computes.
        module: where its ``run`` is.
    """

    settings: Any
    text: str
    group: Group
    arguments: Mapping[str, Any] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    device: bool = True
    module: str = ""


MODEL = "a pipeline folder, a run folder, a packaged model (zoo:mnist), or a model of the Hugging Face Hub (org/name)"
VERBS: Mapping[str, Verb] = {
    "demo": Verb(DemoSettings, "Unlearn one digit of the packaged MNIST model and report the evidence.", MAIN),
    "unlearn": Verb(
        UnlearnSettings,
        f"""Make a model forget images, a class or a prompt.

        Args:
            pipeline: the model: {MODEL}; it is not changed.
            forget: the images to forget: an image folder, a list of files, or a data set (then with --forget-class).
        """,
        MAIN, {"pipeline": Path | None, "forget": str}, ("MODEL", "IMAGES (or --forget-label, --forget-prompt)"),
    ),
    "evaluate": Verb(
        EvaluateSettings,
        """Count what is left, measure the damage, and try to bring it back.

        Args:
            run: the run folder of "vdu unlearn"; without it, give --before, --after and --forget.
        """,
        MAIN, {"run": Path | None},
    ),
    "report": Verb(
        ReportSettings,
        """Write a run's evidence report as one HTML file.

        Args:
            run: the run folder, after "vdu evaluate".
        """,
        MAIN, {"run": Path | None}, ("RUN",), device=False,
    ),
    "explore": Verb(
        ExploreSettings,
        """Explore an unlearned model on a local page.

        Args:
            runs: one or more run folders, after "vdu evaluate"; several share one trade-off curve.
        """,
        MAIN, {"runs": tuple[Path, ...]}, device=False, module="explore.app",
    ),
    "compare": Verb(
        CompareSettings,
        """Compare runs side by side.

        Args:
            runs: two or more run folders, after "vdu evaluate".
        """,
        MAIN, {"runs": tuple[Path, ...]}, device=False,
    ),
    "verify": Verb(
        VerifySettings,
        """Check a report against its run: hashes, answers, numbers and model card; exit code 3 if one differs.

        Args:
            run: the run folder, after "vdu report".
        """,
        MAIN, {"run": Path | None}, ("RUN",), device=False,
    ),
    "sample": Verb(
        SampleSettings,
        f"""Draw images from a model.

        Args:
            pipeline: the model: {MODEL}.
        """,
        MODELS, {"pipeline": Path | None}, ("MODEL",),
    ),
    "pretrain": Verb(
        PretrainSettings,
        """Train a diffusion model from scratch, or fine-tune one.

        Args:
            data: images: mnist, mnist-mini, cifar10, digits, mnist:FOLDER, hf:NAME, an image folder or a list of files.
        """,
        MODELS, {"data": str}, ("DATA",),
    ),
    "import": Verb(
        ImportSettings,
        """Turn a checkpoint of a public repository into a pipeline folder.

        Args:
            architecture: ddpm-pytorch (explainingai-code/DDPM-Pytorch, MNIST) or improved-diffusion (openai/improved-diffusion,
                unconditional CIFAR-10).
            checkpoint: the state dict of the network or of its moving average: .pth, .pt or .safetensors.
            output_dir: the pipeline folder; new or empty.
        """,
        MODELS,
        {
            "architecture": Architecture | None, "checkpoint": Path | None,
            "output_dir": Annotated[Path | None, Parameter(alias="-o")],
        },
        ("ARCHITECTURE", "CHECKPOINT", "OUTPUT_DIR"), device=False, module="commands.import_checkpoint",
    ),
    "judge": Verb(
        JudgeSettings,
        """Train a classifier (the judge) on labelled images.

        Args:
            data: labelled images with a test split: mnist, mnist-mini, cifar10, digits, mnist:FOLDER, hf:NAME, a folder of class folders.
        """,
        MODELS, {"data": str}, ("DATA",),
    ),
    "list": Verb(
        ListSettings,
        """List the methods of vdu unlearn, or describe one with its options.

        Args:
            method: the method to describe; by default all of them.
        """,
        RESEARCH, {"method": str | None}, device=False, module="commands.list_methods",
    ),
    "posterior": Verb(
        PosteriorSettings,
        f"""Estimate mean and variance of the pre-trained weights.

        Args:
            estimator: fisher (one checkpoint and its generated samples), ensemble (several checkpoints), finetuned-ensemble (one
                checkpoint, fine-tuned several times), isotropic (a control) or amnesia-fisher (for Selective Amnesia).
            pipeline: the pre-trained model: {MODEL}.
        """,
        RESEARCH, {"estimator": Estimator | None, "pipeline": Path | None}, ("ESTIMATOR", "MODEL"),
    ),
    "reproduce": Verb(
        ReproduceSettings,
        """Reproduce the paper's tables and figures beside the published numbers.

        Args:
            table: table1, table2 or figures; leaderboard (comparison of methods), labels (the same on a model with labels) or
                digits (the defaults on the other digits); or a TOML file of the same form. A restarted run continues where it stopped.
        """,
        RESEARCH, {"table": str}, ("TABLE",), module="paper.reproduce",
    ),
}  # fmt: skip
"""The verbs, those of a group in the order of the help page."""
SHARED = {"evaluate", "judge", "posterior", "pretrain", "sample", "unlearn"}
"""The verbs that work in a run folder, on one process or several."""
SETTINGS = {name: each.settings for name, each in VERBS.items() if name != "list"}


def _registered(name: str, each: Verb, place: int) -> None:
    """Make a verb known to the parser, as a function with the signature that its arguments and settings have."""
    defaults = {key: {str: "", tuple[Path, ...]: ()}.get(kind) for key, kind in each.arguments.items()}

    def call(*places: Any, settings: Any = None, **how: Any) -> None:
        given = defaults | dict(zip(each.arguments, places, strict=False))
        given |= {key: how.pop(key) for key in each.arguments if key in how}
        chosen = settings or each.settings()
        labels = dict(zip(each.required, given.values(), strict=False))
        if name == "unlearn":
            labels[each.required[1]] = given["forget"] or chosen.forget_label or chosen.forget_prompt
        require_given(name, **labels)
        _run(name, replace(chosen, **given), **how)

    positional = [
        inspect.Parameter(key, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=defaults[key], annotation=kind)
        for key, kind in each.arguments.items()
    ]
    options = {"settings": Annotated[each.settings | None, Parameter(name="*")]} if name in SETTINGS else {}
    options |= {"device": Device} if each.device else {}
    options |= {"json": Json, "dry_run": DryRun} if name in SETTINGS else {"json": Json}
    keywords = [
        inspect.Parameter(
            key, inspect.Parameter.KEYWORD_ONLY, default=False if key in {"json", "dry_run"} else None, annotation=kind
        )
        for key, kind in options.items()
    ]
    call.__signature__ = inspect.Signature([*positional, *keywords])  # pyright: ignore[reportFunctionMemberAccess]
    call.__annotations__, call.__doc__ = {}, inspect.cleandoc(each.text)
    app.command(call, name=name, group=each.group, sort_key=place, usage=USAGE[name], help_epilogue="")


for _place, (_name, _each) in enumerate(VERBS.items()):
    _registered(_name, _each, _place)


def _show(name: str, settings: Any, result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json_module.dumps(endings.numbers(name, settings, result), indent=2, default=str))
    elif text := endings.words(name, settings, result):
        print(text)


def _run(name: str, settings: Any, json: bool = False, dry_run: bool = False, device: str | None = None) -> None:
    """Run a verb, or check and print its settings, and show how it ended."""
    settings = at_home(settings)
    n_processes = n_launched()
    if n_processes > 1 and name not in SHARED:
        raise InputError(
            f"vdu {name}: got {n_processes} processes; expected one, since only {', '.join(sorted(SHARED))} share their work. Start it "
            "without a launcher."
        )
    if dry_run:
        _check(name, settings)
        print(configuration(settings) if name == "unlearn" else to_toml(settings), end="")
        return
    if getattr(settings, "n_images", RELIABLE_IMAGES) < RELIABLE_IMAGES and name in {"evaluate", "demo"}:
        say(
            f"vdu: warning: {settings.n_images} images from each model are few: the intervals of PUL and u-FID will be wide. "
            "Use --n-images 500 or more for conclusions."
        )
    with on_device(device):
        result = _module(name).run(settings)
    code = result.pop("exit_code", 0)
    if is_first():
        _show(name, settings, result, json)
    if code:
        sys.exit(code)


def _module(name: str) -> Any:
    """The module with a verb's ``run``, imported when it is needed."""
    return import_module(f"vdu.{VERBS[name].module or f'commands.{name}'}")


def _check(name: str, settings: Any) -> None:
    """Check settings and inputs as the verb does before its first expensive step; a model elsewhere is not fetched for it."""
    model = getattr(settings, "pipeline", None)
    if model is not None and not Path(model).exists() and not str(model).startswith("zoo:"):
        print(f"vdu: the model {model} is not on this machine, so only the settings were checked.", file=sys.stderr)
        return
    if name in SHARED:
        with only_checks():
            _module(name).run(settings)


def main(tokens: list[str] | None = None) -> None:
    """The entry point: runs a verb and turns errors into messages and exit codes.

    Args:
        tokens: the arguments; by default those of the process.
    """
    if sys.stderr is None:  # closed: print would take standard output in its place
        sys.stderr = open(os.devnull, "w", encoding="utf-8")
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
            raise InputError("--config: got no file; expected a TOML file with the settings of this command.")
        path = given_path(tokens[place + 1], "--config")
        tokens = tokens[:place] + tokens[place + 2 :]
        values = _read_config(path, tokens[:1])
        if tokens[0] == "unlearn":
            values = without_former_defaults(values, tokens)
            tokens = with_options_of_file(values, tokens)
        app.config = (Dict(values, use_commands_as_keys=False, source=str(path)),)
    require_no_empty(tokens)
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
    if isinstance(error, UnusedCliTokensError) and name and error.unused_tokens:
        arguments = app[name].assemble_argument_collection()
        repeatable = [each for argument in arguments if argument.token_count()[1] for each in argument.names]
        return left_over(name, error.unused_tokens, tokens, repeatable)
    error.verbose = False
    return str(error)


def _option_names() -> dict[str, list[str]]:
    """The options of every verb."""
    return {
        name: [each for argument in app[name].assemble_argument_collection() for each in argument.names]
        for name in USAGE
    }


def _read_config(path: Path, verb: list[str]) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"--config {path}: no such file; write one with --dry-run > {path.name}.")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=_number)
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, or a number of thousands of digits
        raise InputError(
            f"--config {path}: not a TOML file ({error}). Correct it, or write a new one with --dry-run."
        ) from None
    if not verb or verb[0] not in SETTINGS:
        raise InputError(
            f"--config: got {verb or 'no command'}; expected the command first: vdu COMMAND --config {path.name}."
        )
    known = [item.name for item in fields(SETTINGS[verb[0]])]
    for name in values:
        if name.replace("-", "_") not in known:
            near = meant(f"--{name.replace('_', '-')}", [f"--{each.replace('_', '-')}" for each in known])
            near = None if near is None else near.split()[0].removeprefix("--").replace("-", "_")
            hint = f"Did you mean {near!r}?" if near else f"The settings of {verb[0]} are {', '.join(known)}."
            raise InputError(f"--config {path}: {name!r} is not a setting of vdu {verb[0]}. {hint}")
        empty = values[name] == "" or (isinstance(values[name], list) and "" in values[name])
        if empty and name not in {*MAY_BE_EMPTY, "forget"}:  # empty in the file of a run that drew its images
            raise InputError(
                f"--config {path}: {name} is empty; expected something in it. Leave it out for the default."
            )
    return values


def _number(text: str) -> float | int:
    """A number with a point, of which a whole one keeps all its digits."""
    value = float(text)
    exact = Decimal(text) if abs(value) < math.inf else None  # not inf, not NaN
    whole = exact is not None and exact == exact.to_integral_value() and exact != Decimal(value)
    return int(exact) if exact is not None and whole else value


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
            "--resume-from-checkpoint latest; start the other commands again (reproduce continues where it stopped).",
            file=sys.stderr,
        )
        return 130
    except (OSError, SafetensorError) as error:  # a full disk, for example
        print(f"vdu: {error} (completed results are kept)", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print(
            f"vdu: out of memory ({str(error).strip().splitlines()[0] if str(error).strip() else 'no details given'}). In "
            "training lower --batch-size or raise --gradient-accumulation-steps; in sampling lower --microbatch-size; "
            "--mixed-precision bf16 helps on accelerators. Completed results are kept.",
            file=sys.stderr,
        )
        return 1
    return 0

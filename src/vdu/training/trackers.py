"""Experiment trackers: send the lines of ``log.jsonl`` to one of accelerate's trackers.

    report_to = "tensorboard"    run/tracking/vdu/                event files; nothing leaves the machine
                "wandb"          run/tracking/wandb/, and its server unless WANDB_MODE=offline
                "trackio"        trackio's own folder of data bases on this machine
                "none"           the default: no tracker is imported or started

``log.jsonl`` remains the source of truth: a tracker receives each line after it was written there, with the same values and
step, flattened; it receives NaN and infinity, which the log writes as null:

    {"step": 7, "loss": 0.2, "terms": {"mse": 0.2}, "grad_norm": 0.1} → step 7: loss 0.2, terms/mse 0.2, grad_norm 0.1

At the start of a run it receives the training settings (:class:`vdu.training.loop.TrainSettings`). No image, weight or path
is sent by this module.

A resumed run continues the same curve. For TensorBoard, the events that the interrupted process wrote after the checkpoint are
purged. The other trackers cannot step back: steps that the interrupted process already reported are repeated and logged again
in ``log.jsonl``, but not reported again.

Not guaranteed: which further data wandb sends. accelerate calls ``wandb.init`` without a mode, so that wandb's default (online)
applies: it requires a login and sends the machine's name, the command line, the commit and the printed output as well.
``WANDB_MODE=offline`` keeps all of it in the run folder; a resumed run is then a second local run with the same id. Repeated
steps on an accelerator may differ in their last bits from those reported before the interruption.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vdu.core.errors import InputError
from vdu.core.processes import is_first, say
from vdu.core.records import read_json, write_json

__all__ = ["FOLDER", "TRACKERS", "flatten", "require_tracker", "tracking"]

TRACKERS = ("none", "tensorboard", "wandb", "trackio")
FOLDER = "tracking"
_PROJECT = "vdu"
OFFLINE = ("offline", "disabled", "dryrun")  # modes of wandb without a login
_ADVICE = {"wandb": "Log in with `wandb login`, or keep its records on this machine with WANDB_MODE=offline."}


def require_tracker(report_to: Any, folder: Path | None) -> None:
    """Raise an error for a tracker that cannot be started, before any other work.

    Args:
        report_to: one of ``TRACKERS``, or an ``accelerate.tracking.GeneralTracker`` of one's own.
        folder: the run folder, where the known trackers keep their files.

    Raises:
        InputError: if the name is unknown, its package is not installed or broken, there is no folder, or wandb has no login.
    """
    if not isinstance(report_to, str):
        from accelerate.tracking import GeneralTracker

        if not isinstance(report_to, GeneralTracker):
            raise InputError(
                f"report_to: got {type(report_to).__name__}; expected one of {', '.join(TRACKERS)}, or an "
                "accelerate.tracking.GeneralTracker."
            )
        return
    if report_to not in TRACKERS:
        raise InputError(f"report_to: got {report_to!r}; expected one of {', '.join(TRACKERS)}.")
    if report_to == "none":
        return
    if find_spec(report_to) is None:  # accelerate would continue silently
        raise InputError(
            f"--report-to {report_to}: the package {report_to} is not installed; install it with `pip install {report_to}`, "
            "or leave the option out: log.jsonl has the same values."
        )
    if folder is None:
        raise InputError(f"report_to: got {report_to!r} and no run folder; expected a folder for its files. Give one.")
    if is_first():
        _require_ready(report_to)


def _require_ready(name: str) -> None:
    """Raise an error for a tracker whose package is broken, or that has no login; nothing is sent."""
    try:
        package = import_module(name)
        if name == "wandb" and os.environ.get("WANDB_MODE") not in OFFLINE:
            package.login(verify=False)  # on a terminal it lets one log in now
    except Exception as error:  # each tracker has errors of its own
        raise InputError(
            f"--report-to {name}: could not be started ({error}). {_ADVICE.get(name, '')}".strip()
        ) from error


def flatten(line: Mapping[str, Any]) -> dict[str, float]:
    """The values of a log line under flat names, without its step.

    Args:
        line: numbers, or mappings of numbers.

    Returns:
        Name → number, in the order of the line.

    Examples:
        >>> flatten({"step": 3, "loss": 0.5, "terms": {"mse": 0.5}, "observed": {}})
        {'loss': 0.5, 'terms/mse': 0.5}
    """
    found: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{inner}": each for inner, each in value.items()}
        elif name != "step":
            found[name] = value
    return found


@contextmanager
def tracking(
    accelerator: Any, folder: Path | None, start: int, *, resume: bool, config: Mapping[str, Any]
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Start the accelerator's trackers, and finish them when the block ends.

    Enter the block before the log drops the lines that a resumed run will repeat, since they show what was reported.

    Args:
        accelerator: made with ``log_with``; without, and on all processes but the first, nothing is started.
        folder: the run folder, or None.
        start: steps already done.
        resume: whether an interrupted run continues.
        config: plain settings, sent to the tracker at the start of a new run.

    Yields:
        A function that reports a line of the log.

    Raises:
        InputError: if a tracker does not start.
    """
    wanted = list(accelerator.log_with)
    if not wanted or not accelerator.is_main_process:
        yield lambda line: None
        return
    name = str(
        getattr(wanted[0], "value", None) or wanted[0].name
    )  # accelerate's enumeration, or a tracker of one's own
    marker = folder / FOLDER / f"{name}.json" if folder else None
    goes_on = resume and marker is not None and marker.exists()
    reported = _last_reported(folder / "log.jsonl") if folder and goes_on and name != "tensorboard" else start
    run_id = read_json(marker)["run"] if goes_on and marker else _new_id()
    if marker:
        write_json(marker, {"run": run_id})
    known = None if goes_on else _plain(config)  # not again for a run that has it
    try:
        accelerator.init_trackers(_PROJECT, known, _options(folder, run_id, start))
    except Exception as error:  # wandb without a login, for example: each tracker has errors of its own
        raise InputError(f"--report-to {name}: could not be started ({error}). {_ADVICE.get(name, '')}") from error

    failed = False

    def attempt(action: Callable[[], None]) -> None:
        nonlocal failed
        try:
            action()
        except Exception as error:  # the run is worth more than its copy elsewhere
            if not failed:
                say(f"vdu: warning: --report-to {name} failed ({error}). The run goes on; its log is complete.")
            failed = True

    def report(line: Mapping[str, Any]) -> None:
        if line["step"] > reported and not failed:
            attempt(lambda: accelerator.log(flatten(line), step=line["step"]))

    try:
        yield report
    finally:  # not end_training(), which would also end the process group
        for tracker in accelerator.trackers:
            attempt(tracker.finish)
        accelerator.trackers.clear()


def _options(folder: Path | None, run_id: str, start: int) -> dict[str, dict[str, Any]]:
    """Arguments of each of accelerate's trackers besides the project."""
    where, name = str(folder / FOLDER) if folder else None, folder.name if folder else None
    return {
        "tensorboard": {"purge_step": start + 1},  # a reader drops earlier events from this step on
        "wandb": {"id": run_id, "name": name, "dir": where, "resume": "allow"},
        "trackio": {"name": f"{name}-{run_id}", "resume": "allow"},
    }


def _last_reported(path: Path) -> int:
    """The last step in a log, including lines of steps that will be repeated; 0 if there is none."""
    last = 0
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            last = max(last, int(json.loads(text)["step"]))
        except (ValueError, RecursionError, KeyError, TypeError):
            break  # a line cut off by a kill was never reported
    return last


def _new_id() -> str:
    import secrets

    return secrets.token_hex(4)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The types that all trackers accept: bool, int, float and text."""
    return {name: "none" if value is None else value for name, value in config.items()}

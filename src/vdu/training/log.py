"""The run's log: one JSON line per step in ``log.jsonl``, and a progress bar on standard error."""

import json
import math
from pathlib import Path
from typing import Any, Self

from vdu.core.processes import say
from vdu.core.progress import bar
from vdu.core.records import atomic_file

__all__ = ["StepLog"]


class StepLog:
    """Writes and shows the steps of a training run.

    Args:
        folder: the run folder; None writes no file.
        start: steps already done; later lines of an interrupted run are dropped, since these steps will be repeated.
        steps: steps in all.
        title: title of the progress bar; None shows none.
        active: False on all processes but the first.
    """

    def __init__(self, folder: Path | None, start: int, steps: int, title: str | None, active: bool) -> None:
        self.path = folder / "log.jsonl" if folder and active else None
        self.start, self.steps, self.title, self.active = start, steps, title, active
        self.last: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._file = None
        if self.path:
            kept = _lines_before(self.path, self.start) if self.path.exists() else []
            with atomic_file(self.path) as temporary:
                temporary.write_text("".join(kept), encoding="utf-8")
            self.last = json.loads(kept[-1]) if kept else {}
            self._file = self.path.open("a", encoding="utf-8")
        shown = self.title is not None and self.active
        self._bar = bar(self.title or "", self.steps, "step", initial=self.start, shown=shown)
        return self

    def write(self, line: dict[str, Any]) -> None:
        """Append a line and show its terms."""
        self.last = line
        if self._file:
            self._file.write(json.dumps(_finite(line), allow_nan=False) + "\n")
            self._file.flush()
        shown = line["observed"] or line["terms"]
        self._bar.update(numbers=shown)

    def __exit__(self, *exception: object) -> None:
        self._bar.__exit__(*exception)
        if self._file:
            self._file.close()


def _finite(value: Any) -> Any:
    """A value with null for NaN and infinity, which JSON does not have: under fp16 the norm of a step that is skipped."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _lines_before(path: Path, start: int) -> list[str]:
    kept = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            if json.loads(text)["step"] > start:
                break
        except (ValueError, RecursionError, KeyError, TypeError):
            break  # a line cut off by a kill
        kept.append(text)
    if len(kept) < start:  # an interruption cannot cause this: each line is written before the checkpoint of its step
        say(f"vdu: warning: {path}: damaged after line {len(kept)}; steps up to {start} are missing.")
    return kept

"""Progress on standard error: one bar, of the whole verb where its work is known, else of the stage in hand.

On a terminal the bar disappears when a stage ends, so that messages stand between stages, and comes back with the next one. Elsewhere,
in a log file for example, there is one line per 30 seconds and none for shorter stages.

    with whole("unlearn"):                     # the verb
        expect({"generated samples": (1500, 20), "unlearn": (600, 288)})    # title → items, network evaluations of each
        with bar("unlearn", 600, "step") as steps: steps.update()

    time left = work left / (work done / time since ``expect``)

A bar counts by its items if a stage's title begins its own. Outside such bars the network evaluations themselves count (:func:`advance`).

Not guaranteed: the estimate. A stage that was skipped counts as done when a later one begins.
"""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self, TypeVar

from vdu.core.processes import is_first

__all__ = ["Bar", "Whole", "advance", "bar", "expect", "reach", "track", "whole"]

T = TypeVar("T")
EVERY = 30.0  # seconds between two lines where there is no terminal
ENOUGH = 0.05  # of the work must be timed before the rest is estimated


class Whole:
    """The work of a verb, in network evaluations.

    Args:
        title: the verb.
        shown: False shows no bars inside it, whatever their stage.

    Attributes:
        total: all work; 0 while it is unknown.
        done: work behind us, including what was skipped.
        measured: work that was done and timed.
    """

    def __init__(self, title: str, shown: bool = True) -> None:
        self.shown = shown
        self.title, self.total, self.done, self.measured = title, 0.0, 0.0, 0.0
        self.began = time.monotonic()
        self.stages: dict[str, tuple[float, float]] = {}  # title → work before it, work of one item
        self.by_items = False  # a bar of one of the stages is open

    def add(self, work: float) -> None:
        """Count some work that was done now."""
        self.measured += work
        self.done = min(self.total, self.done + work)

    def reach(self, done: float) -> None:
        """Count what lies before a point as done."""
        self.done = min(self.total, max(self.done, done))

    def left(self) -> float | None:
        """Seconds that remain, or None while too little was timed."""
        if self.measured < ENOUGH * self.total or not self.measured:
            return None
        return (time.monotonic() - self.began) * (self.total - self.done) / self.measured

    def words(self) -> str:
        """For example "unlearn: 40 % done, about 3 min left"; empty while nothing is known."""
        left = self.left() if self.total else None
        return "" if left is None else f"{self.title}: {self.done / self.total:.0%} done, {_duration(left)} left"


class Bar:
    """The bar of one stage; made by :func:`bar`.

    Args:
        title: of the stage.
        total: number of items.
        unit: what they are.
        initial: items that were done before.
        shown: False shows nothing.
    """

    def __init__(self, title: str, total: int, unit: str, initial: int, shown: bool) -> None:
        self.title, self.total, self.unit, self.n, self.shown = title, total, unit, initial, shown
        self._numbers = ""
        stages = getattr(_state.now, "stages", {}) if shown else {}
        self._stage = next((each for each in stages if title.startswith(each)), None)
        if self._stage is not None:
            before, each = stages[self._stage]
            _state.now.reach(before + initial * each)
            _state.now.by_items = True
        self._tqdm: Any = None
        if shown and _terminal():
            from tqdm import tqdm

            how: dict[str, Any] = {"total": total, "initial": initial, "desc": title, "unit": unit}
            if _state.known():
                how = {"total": _state.now.total, "initial": _state.now.done, "desc": _state.now.title}
                how |= {"bar_format": "{desc} |{bar}|", "miniters": 0}
            self._tqdm = tqdm(**how, file=sys.stderr, leave=False, mininterval=1, dynamic_ncols=True)

    def update(self, n: int = 1, numbers: Mapping[str, float] | None = None) -> None:
        """Count items.

        Args:
            n: how many were done.
            numbers: shown behind the bar.
        """
        self.n += n
        if self._stage is not None:
            _state.now.add(n * _state.now.stages[self._stage][1])
        if numbers:
            self._numbers = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        if self._tqdm is not None and _state.known():
            left = _state.now.words() or _state.now.title
            self._tqdm.n = _state.now.done
            self._tqdm.set_description_str(f"{left} ({self.title}: {self.n} of {self.total})", refresh=False)
            self._tqdm.update(0)
        elif self._tqdm is not None:
            self._tqdm.set_postfix_str(self._numbers, refresh=False)
            self._tqdm.update(n)
        elif self.shown and time.monotonic() - _state.last >= EVERY:
            _state.last = time.monotonic()
            words = f"{self.title}: {self.n} of {self.total} {self.unit}s"
            more = "; ".join(each for each in (self._numbers, _state.now.words() if _state.now else "") if each)
            print(f"{words} ({more})" if more else words, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Remove the bar."""
        if self._stage is not None:
            _state.now.by_items = False
        if self._tqdm is not None:
            self._tqdm.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
        if self.shown and exception[0] is None and self.n < self.total:
            print(f"{self.title}: ended early, at {self.unit} {self.n} of {self.total}", file=sys.stderr, flush=True)


class _State:
    """The verb in hand, and when a line was last written."""

    def __init__(self) -> None:
        self.now: Any = None
        self.last = time.monotonic()

    def known(self) -> bool:
        """Whether there is a verb and its work is known."""
        return self.now is not None and self.now.total > 0


_state = _State()


def bar(title: str, total: int, unit: str, *, initial: int = 0, shown: bool = True) -> Bar:
    """The bar of one stage, a context manager; only the first process shows it.

    Args:
        title: of the stage.
        total: number of items.
        unit: what they are, in the singular.
        initial: items that were done before.
        shown: False shows nothing.

    Returns:
        The bar; call its ``update`` after every item.
    """
    silent = _state.now is not None and not _state.now.shown
    return Bar(title, total, unit, initial, shown and not silent and is_first())


def track(items: Sequence[T], title: str, unit: str, *, shown: bool = True) -> Iterator[T]:
    """The items one by one, with a :func:`bar`.

    Args:
        items: to go through.
        title: of the stage.
        unit: what they are, in the singular.
        shown: False shows nothing.

    Yields:
        Each item.
    """
    with bar(title, len(items), unit, shown=shown) as steps:
        for item in items:
            yield item
            steps.update()


@contextmanager
def whole(title: str, *, shown: bool = True) -> Iterator[Whole]:
    """A verb, whose stages may :func:`expect` some work.

    Args:
        title: the verb.
        shown: False shows no bars inside it.

    Yields:
        The work, unknown at first.
    """
    before, _state.now, _state.last = _state.now, Whole(title, shown), time.monotonic()
    try:
        yield _state.now
    finally:
        _state.now = before


def expect(stages: Mapping[str, tuple[float, float]]) -> None:
    """State the work that is to come, in its order; without a :func:`whole` nothing happens.

    Args:
        stages: title of a stage, which begins the titles of its bars if it has any → number of items, network evaluations of each.
    """
    if _state.now is None:
        return
    work, places = 0.0, {}
    for title, (items, each) in stages.items():
        places[title] = (work, each)
        work += items * each
    _state.now.stages, _state.now.total, _state.now.began = places, work, time.monotonic()
    _state.now.done, _state.now.measured = 0.0, 0.0


def advance(work: float) -> None:
    """Count network evaluations, unless a bar counts its items instead."""
    if _state.known() and not _state.now.by_items:
        _state.now.add(work)


def reach(title: str) -> None:
    """Count all stages before one as done."""
    if _state.known() and title in _state.now.stages:
        _state.now.reach(_state.now.stages[title][0])


def _duration(seconds: float) -> str:
    return f"about {max(1, round(seconds / 60))} min" if seconds >= 45 else "less than a minute"


def _terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()

"""Progress: few lines in a log file, an estimate that follows the work, and a word where a stage ends early."""

import io
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from vdu.core import progress
from vdu.data.decode import fit_shape
from vdu.data.images import ImageSet
from vdu.data.overlap import without_copies
from vdu.data.sources import load_images
from vdu.training.batches import own_space


@pytest.fixture
def clock(monkeypatch):
    """Seconds, set by the test."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress._state, "last", 0.0)
    return now


def test_a_log_file_gets_one_line_per_half_minute_and_none_for_short_stages(clock, capsys):
    for i in range(20):  # twenty stages of a second each, like the probes' bars
        with progress.bar(f"probe {i}", 10, "image") as shown:
            for _ in range(10):
                clock[0] += 0.1
                shown.update()
    assert capsys.readouterr().err == ""
    clock[0] = 100.0
    with progress.bar("unlearn", 600, "step") as shown:
        for _ in range(600):
            clock[0] += 0.5
            shown.update(numbers={"mse": 0.25})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10 and lines[0] == "unlearn: 1 of 600 steps (mse 0.25)"  # 300 seconds


def test_the_time_left_is_work_left_at_the_speed_so_far(clock):
    with progress.whole("unlearn") as verb:
        progress.expect({"generated samples": (100, 20), "unlearn": (10, 300)})  # 2000 and 3000
        with progress.bar("generated samples (0 of 100)", 100, "image") as shown:
            clock[0] = 40.0
            shown.update(50)  # 1000 of 5000 in 40 s
            assert (verb.done, verb.left()) == (1000, pytest.approx(160))
            shown.update(50)
        with progress.bar("unlearn", 10, "step"):
            assert verb.done == 2000
        assert verb.words() == "unlearn: 40% done, about 1 min left"


def test_what_was_skipped_counts_as_done_but_not_as_speed(clock):
    with progress.whole("evaluate") as verb:
        progress.expect({"both models": (100, 20), "probes": (6000, 1)})
        progress.reach("probes")  # all samples came from the cache
        assert verb.left() is None
        clock[0] = 10.0
        progress.advance(600)
        assert (verb.done, verb.left()) == (2600, pytest.approx(90))
        with progress.bar("original", 5, "image") as shown:
            shown.update(5)  # no stage: counted by its evaluations, not twice
        assert verb.done == 2600


def test_a_stage_counts_by_its_items_and_what_is_between_stages_by_its_evaluations(clock):
    with progress.whole("evaluate") as verb:
        progress.expect({"samples for a judge": (100, 20), "both models": (50, 20)})
        with progress.bar("samples for a judge", 100, "image") as shown:
            progress.advance(1000)  # the same images
            shown.update(50)
            assert verb.done == 1000
        progress.reach("both models")
        progress.advance(400)
        assert verb.done == 2400


def test_a_stage_that_ends_early_says_so_and_one_that_fails_does_not(clock, capsys):
    with progress.bar("unlearn", 600, "step", initial=100) as shown:
        shown.update(300)
    assert capsys.readouterr().err == "unlearn: ended early, at step 400 of 600\n"
    with pytest.raises(KeyboardInterrupt), progress.bar("unlearn", 600, "step"):
        raise KeyboardInterrupt
    assert capsys.readouterr().err == ""


def test_work_that_nobody_asked_about_is_not_shown(capsys, monkeypatch):
    progress.advance(5)
    progress.reach("probes")
    progress.expect({"unlearn": (1, 1)})
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert list(progress.track([1, 2], "sets", "set", shown=False)) == [1, 2]
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]


def test_on_a_terminal_the_bar_disappears_when_a_stage_ends(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "_terminal", lambda: True)
    monkeypatch.setattr(sys, "stderr", screen)
    with progress.whole("unlearn"):
        progress.expect({"steps": (4, 10)})
        with progress.bar("steps", 4, "step") as shown:
            shown.update(4)
            assert "unlearn |" in screen.getvalue()
    assert screen.getvalue().rstrip("\r").rpartition("\r")[2].strip() == ""  # the last thing is a blank line


def test_reading_encoding_and_comparing_images_are_shown_and_a_silent_verb_shows_nothing(monkeypatch, tmp_path):
    """Each may take minutes; ``vdu.unlearn(…, progress=None)`` shows none of them."""
    Image.new("L", (8, 8), 7).save(tmp_path / "a.png")
    bars, real = [], progress.Bar.__init__

    def made(self, title, *rest):
        real(self, title, *rest)
        bars.extend([title] * self.shown)

    monkeypatch.setattr(progress.Bar, "__init__", made)
    noise = torch.randint(256, (2, 2, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model: Any = SimpleNamespace(is_latent=True, network=torch.nn.Linear(1, 1), encode=lambda images: images)

    def work():
        images = load_images(tmp_path)
        fit_shape(images, (1, 4, 4), convert=True)
        own_space(model, images)
        without_copies(ImageSet(noise[0]), ImageSet(noise[1]), "held-out images", "forget images")

    work()
    assert bars == ["reading images", "converting images", "encoding images", "looking for near copies"]
    with progress.whole("unlearn", shown=False):
        work()
    assert len(bars) == 4

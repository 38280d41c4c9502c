"""The words of three pages, kept as text: a run that forgot, a mixed one, and one with a fallback classifier.

After a change of the wording, write them anew and read the difference: ``python tests/reporting/test_golden.py``.
"""

import difflib
import json
import re
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # this file is a script as well
from conftest import interval, write_run
from vdu.reporting.render import render_report

GOLDEN = Path(__file__).parent / "golden"
PUL = interval(97.0, 92.0, 99.0) | {"n_original": 200, "n_unlearned": 6}


def gone(metrics, run):
    """Two judges that agree, 1000 images, a retrained row and all probes."""
    rows = {row["name"]: row for row in metrics["rows"]}
    rows["unlearned"]["pul"] = PUL
    rows["original"]["forget_count"] = 200
    rows["retrained"] |= {
        "status": "measured",
        "forget_count": 3,
        "note_code": "retrained",
        "u_fid": interval(6.0, 5.3, 6.8),
    }
    metrics["judge"]["second"] = metrics["judge"] | {"name": "lenet", "pul": PUL | interval(96.0, 91.0, 98.5)}
    metrics["judge"]["corrected_pul"] = interval(98.5, 94.0, 100.0)
    metrics["protocol"]["seed"] = 0
    run["stages"] = [{"stopping": {"reason": "forgotten", "step": 120, "n_left": 5, "n_seeds": 100, "aim": 10}}]


def mixed(metrics, run):
    """Some of it is left, the classes have shifted, a probe lacked images, and a sampler of the original makes none."""
    rows = {row["name"]: row for row in metrics["rows"]}
    rows["unlearned"]["pul"] = interval(70.0, 55.0, 82.0) | {"n_original": 40, "n_unlearned": 12}
    metrics["histogram"] |= {"distance": 0.12}
    metrics["probes"]["membership"] = {"status": "not run", "code": "no_held_out_images"}
    metrics["probes"]["stochastic"]["rows"][0] |= {"pul": None, "n_original": 0, "n_unlearned": 1}
    metrics["warnings"] = [{"code": "few_forget_images"}, {"code": "no_second_judge"}]
    metrics["rows"][0] |= {"recall": 0.9, "coverage": 0.3}


def fallback(metrics, run):
    """A fallback classifier gives the judge and the features; no retrained model; the run missed its aim."""
    rows = {row["name"]: row for row in metrics["rows"]}
    rows["unlearned"]["pul"] = PUL
    metrics["judge"] |= {"source": "fallback", "name": "fallback-cnn"}
    metrics["feature_network"] = "judge:fallback-cnn"
    metrics["reference"] = {
        "kind": "filtered_original",
        "description": "filtered original, 40 further samples",
        "n_images": 40,
    }
    metrics["warnings"] = [{"code": "fallback_judge"}, {"code": "python_warning", "message": "a library warns"}]
    rows["original"]["forget_count"] = 200
    metrics["probes"] = {
        "relearning": {"status": "not run", "code": "diverged", "error": "the loss is NaN at step 3."},
        "completion": {"status": "not run", "code": "no_forget_samples", "n_drawn": 600},
        "retrained": {"status": "not run", "code": "no_retrained_model"},
    }
    run["stages"] = [{"stopping": {"reason": "all_steps", "step": 300, "n_left": 20, "n_seeds": 100, "aim": 10}}]


RUNS = {
    "gone": (gone, {"n": 1000, "full": True}),
    "mixed": (mixed, {"n": 40, "full": True}),
    "fallback": (fallback, {"n": 40, "names": ["other", "forget"], "forget": 1}),
}


class Words(HTMLParser):
    """The text of a page, a line for each block, with the labels of pictures."""

    BLOCKS = frozenset("p li h1 h2 h3 tr dt dd figcaption summary caption section text".split())

    def __init__(self, html):
        super().__init__()
        self.hidden, self.text = 0, ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.hidden += tag in {"script", "style"}
        label = dict(attrs).get("aria-label")
        self.text += ("\n" if tag in self.BLOCKS else " ") + (f"[{label}] " if label else "")

    def handle_endtag(self, tag):
        self.hidden -= tag in {"script", "style"}

    def handle_data(self, data):
        self.text += "" if self.hidden else data


def page_text(name, folder):
    change, options = RUNS[name]
    run_dir = write_run(folder / name, **options)
    records = {file: json.loads((run_dir / file).read_text("utf-8")) for file in ("metrics.json", "run.json")}
    change(records["metrics.json"], records["run.json"])
    for file, value in records.items():
        (run_dir / file).write_text(json.dumps(value), "utf-8")
    lines = (" ".join(line.split()) for line in Words(render_report(run_dir).read_text("utf-8")).text.splitlines())
    pairs = re.compile(r"\[Before: |\S+ → \S+( still| new)?$")  # the pictures have tests of their own
    text = re.sub(r"\b[0-9a-f]{64}\b", "HASH", "\n".join(line for line in lines if line and not pairs.match(line)))
    return re.sub(r"(?<=\nReport\n|number, )[0-9a-f]{8}\b", "NUMBER", text) + "\n"


@pytest.mark.parametrize("name", RUNS)
def test_the_page_says_what_it_said(name, tmp_path):
    kept = (GOLDEN / f"{name}.txt").read_text("utf-8").splitlines()
    new = page_text(name, tmp_path).splitlines()
    assert new == kept, "\n".join(difflib.unified_diff(kept, new, "kept", "new", lineterm="", n=0))


if __name__ == "__main__":
    for each in RUNS:
        with tempfile.TemporaryDirectory() as place:
            (GOLDEN / f"{each}.txt").write_text(page_text(each, Path(place)), "utf-8")

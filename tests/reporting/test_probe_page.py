"""The page's sections about probes, and its first screen."""

import json
import re
import subprocess
import sys

import pytest

from vdu.core.errors import InputError
from vdu.reporting.collect import collect
from vdu.reporting.render import answers, render_report


@pytest.fixture(scope="module")
def full_dir(make_run, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("full") / "run", full=True)


def words(html):
    return " ".join(re.sub(r"<[^>]*>", " ", re.sub(r"(?s)<(style|script).*?</\1>", "", html)).split())


def section(html, name):
    return html.split(f'<section id="{name}"')[1].split("</section>")[0]


def test_the_first_screen_answers_five_questions_with_a_number_and_a_limit(full_dir):
    html = render_report(full_dir).read_text("utf-8")
    first = section(html, "verdict")
    asked = re.findall(r'<h2 id="q-\w+">([^<]*)</h2>', first)
    assert asked == [
        "Is it gone?",
        "Is the rest intact?",
        "Does it come back?",
        "What did it cost?",
        "Can I trust this page?",
    ]
    assert first.count("<b>Limit</b>") == 5
    for found in answers(collect(full_dir)).values():
        assert " ".join(found.title.split()) in words(first) and found.figure and found.limits


def test_every_probe_with_curves_has_its_charts(full_dir):
    html = render_report(full_dir).read_text("utf-8")
    assert section(html, "back").count('<svg class="lines"') == 5  # four panels of relearning, one of completion


def test_a_probe_that_did_not_run_says_why_on_the_page(make_run, tmp_path):
    probes = {"relearning": {"status": "not run", "code": "recorded", "reason": "<script>alert(1)</script> no GPU"}}
    html = render_report(make_run(tmp_path / "run", probes=probes)).read_text("utf-8")
    assert "no GPU" in words(section(html, "back")) and "no GPU" in words(section(html, "untested"))
    assert "<script>alert(1)" not in html and html.count("<script>") == 1


EVIL = "</script><script>alert(1)</script>\"'{{ 7 * 7 }}"


def test_texts_of_probes_are_escaped(make_run, tmp_path):
    folder = make_run(tmp_path / "run", full=True)
    metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    probes = metrics["probes"]
    probes["likelihood"]["unit"] = probes["likelihood"]["rows"][0]["images"] = EVIL
    probes["stochastic"]["rows"][0]["sampler"] = probes["inpainting"]["rows"][0]["hidden"] = EVIL
    probes["membership"]["rows"][0]["attack"] = probes["retrained"]["denoising"][0]["images"] = EVIL
    for probe in probes.values():
        probe["protocol"][EVIL] = EVIL
    (folder / "metrics.json").write_text(json.dumps(metrics), "utf-8")
    html = render_report(folder).read_text("utf-8")
    assert html.count("<script>") == 1 and "<script>alert" not in html and html.count("&lt;script&gt;alert(1)") > 15
    assert "{{ 7 * 7 }}" in html


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("relearning", {"curves": [{"model": "own", "shown": "forget", "n_shown": 1, "points": []}]},
         r"probes\.relearning\.curves\[0\]\.model is 'own', expected one of"),
        ("stochastic", {"status": "maybe"}, r"probes\.stochastic\.status is 'maybe', expected one of not run, measured"),
        ("membership", {"status": "not run"}, r"probes\.membership\.code is missing"),
        ("completion", {"rows": [{"handed_share": 0.5, "control_count": 1, "forget_count": 1, "n_images": 0, "low": 0, "high": 1}]},
         r"probes\.completion\.rows\[0\]\.n_images is 0, expected a whole number ≥ 1"),
    ],
)  # fmt: skip
def test_probes_that_cannot_be_shown(make_run, tmp_path, name, change, message):
    folder = make_run(tmp_path / "run", full=True)
    metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    metrics["probes"][name] |= change
    (folder / "metrics.json").write_text(json.dumps(metrics), "utf-8")
    with pytest.raises(InputError, match=message):
        collect(folder)


def test_the_floor_is_in_the_table_and_zero_is_no_target(make_run, tmp_path):
    folder = make_run(tmp_path / "run", full=True)
    metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    metrics["probes"]["retrained"]["protocol"]["floor_u_fid"] = 7.25
    (folder / "metrics.json").write_text(json.dumps(metrics), "utf-8")
    inside = words(section(render_report(folder).read_text("utf-8"), "inside"))
    assert "retrained, from other noise (target) 7.25" in inside and "0 is the target" not in inside


def test_a_probe_that_is_not_known_is_warned_of(make_run, tmp_path):
    stranger = {"status": "measured", "seconds": 1.0, "protocol": {}}
    assert "cannot show: telepathy" in " ".join(
        collect(make_run(tmp_path / "run", probes={"telepathy": stranger})).warnings
    )


def test_no_image_of_the_forget_set_is_read(full_dir, tmp_path):
    """Every file that is opened under the run and its forget set, as the interpreter itself reports it."""
    forget = tmp_path / "forget set"
    forget.mkdir()
    (forget / "unwanted.png").write_bytes(b"an image")
    record = json.loads((full_dir / "run.json").read_text("utf-8"))
    record["inputs"]["forget"] = {"source": str(forget)}
    (full_dir / "run.json").write_text(json.dumps(record), "utf-8")
    code = (
        "import sys; from vdu.reporting.render import render_report; opened = []\n"
        "sys.addaudithook(lambda name, args: opened.append(str(args[0])) if name == 'open' else None)\n"
        "render_report(sys.argv[1]); print('\\n'.join(opened))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(full_dir)], capture_output=True, text=True, check=True, timeout=120
    )
    assert str(full_dir / "metrics.json") in run.stdout
    assert str(forget) not in run.stdout
    assert "No image of the forget set is in this file" in words((full_dir / "report.html").read_text("utf-8"))

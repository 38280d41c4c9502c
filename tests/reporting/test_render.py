import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vdu.core.errors import InputError
from vdu.reporting import page_tables
from vdu.reporting.collect import collect
from vdu.reporting.provenance import provenance
from vdu.reporting.render import make_report, render_report

EVIL = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)><svg onload=alert(1)>{{ 7 * 7 }}"
VOID = {"meta", "link", "input", "br", "img"}


class Page(HTMLParser):
    """Collects elements and text and checks that tags are balanced."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.stack = "", []
        self.feed(html)
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1] not in {"script", "style"}:
            self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


def render(folder, **options):
    return render_report(folder, **options).read_text("utf-8")


def test_the_page_is_alone(run_dir):
    html = render(run_dir)
    page = Page(html)
    links = {"src", "href", "srcset", "action"}
    addresses = [value for _, attrs in page.elements for key, value in attrs.items() if key in links]
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert "http:" not in html and "https:" not in html and "@import" not in html
    assert all(url.startswith("data:image/png;base64,") for url in re.findall(r"url\(([^)]*)\)", html))
    policy = next(attrs["content"] for attrs in page.all("meta") if attrs.get("http-equiv"))
    assert policy.startswith("default-src 'none';") and "script-src 'sha256-" in policy


def test_every_text_of_the_run_is_escaped(make_run, tmp_path):
    folder = make_run(
        tmp_path / "run",
        names=[EVIL + str(i) for i in range(10)],
        warnings=[{"code": "python_warning", "message": EVIL}],
        protocol={EVIL: EVIL},
    )
    metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    metrics["forget"]["description"] = metrics["feature_network"] = metrics["reference"]["description"] = EVIL
    for row in metrics["rows"]:
        row["label"] = row["note_code"] = EVIL
    metrics["judge"].update(name=EVIL, architecture=EVIL)
    metrics["cost"][0]["stage"] = EVIL
    (folder / "metrics.json").write_text(json.dumps(metrics), "utf-8")
    (folder / "config.toml").write_text(f"method = '''{EVIL}'''\n", "utf-8")
    (folder / "log.jsonl").write_text(json.dumps({"step": 1, "loss": 1.0, "terms": {EVIL: 1.0}}), "utf-8")
    record = json.loads((folder / "run.json").read_text("utf-8")) | {
        "command": [EVIL],
        "inputs": {EVIL: EVIL},
        "verb": EVIL,
    }
    (folder / "run.json").write_text(json.dumps(record), "utf-8")
    page = Page(render(folder))
    assert len(page.all("script")) == 1 and not page.all("img")
    assert not [key for _, attrs in page.elements for key in attrs if key.startswith("on")]
    assert "{{ 7 * 7 }}" in page.text and page.text.count("<script>alert(1)</script>") > 20


def test_it_can_be_read_without_seeing(run_dir):
    page = Page(render(run_dir))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(page.all("caption")) == len(page.all("table"))
    for attrs in (*page.all("svg"), *(a for a in page.all("span") if "img" in (a.get("class") or "").split())):
        assert attrs.get("aria-hidden") == "true" or (attrs["role"] == "img" and attrs["aria-label"])
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"][1:] for attrs in page.all("a")} <= set(ids)


def luminance(colour):
    colour = colour if len(colour) == 7 else "#" + "".join(2 * c for c in colour[1:])
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(one, other):
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_contrast_in_both_themes(run_dir, theme):
    blocks = re.findall(r":root \{\s*color-scheme(.*?)\}", render(run_dir), re.S)
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", blocks[theme]))
    for text in ("ink", "muted", "link", "bad", "good", "mixed", "gold", "before-ink", "after"):
        for ground in ("bg", "panel"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    pairs = [
        ("ink", "shade"),
        ("bad", "shade"),
        ("mixed", "mixed-bg"),
        ("ink", "mixed-bg"),
        ("good", "good-bg"),
        ("bad", "bad-bg"),
    ]
    assert all(contrast(colours[text], colours[ground]) >= 4.5 for text, ground in [*pairs, ("muted", "unknown-bg")])
    assert all(
        contrast(colours[mark], colours["bg"]) >= 3 for mark in ("before", "after", "gold")
    )  # WCAG 1.4.11, graphics


def test_hiding_changes_the_pixels_and_says_so(run_dir):
    shown, hidden = render(run_dir), render(run_dir, hide_forgotten=True)
    sprites = [re.findall(r"base64,([^)\"]+)\)", page) for page in (shown, hidden)]
    assert sprites[0][0] != sprites[1][0]
    assert ", hidden" in hidden and ", hidden" not in shown
    assert "This file holds unwanted images" in shown and "This file holds unwanted images" not in hidden


def test_the_worst_case_stays_under_five_megabytes(make_run, tmp_path):
    folder = make_run(tmp_path / "run", n=150, size=8, channels=3)
    rng = np.random.default_rng(0)
    for name in ("original", "unlearned"):
        path = folder / f"samples/{name}.safetensors"
        noise = rng.integers(0, 256, (150, 3, 96, 96), dtype=np.uint8)  # noise does not compress
        save_file(load_file(path) | {"images": noise}, path)
    assert render_report(folder).stat().st_size < 5_000_000


def test_same_run_same_bytes_and_output_elsewhere(run_dir, tmp_path):
    first = render_report(run_dir)
    assert first == run_dir / "report.html"
    second = render_report(run_dir, output=tmp_path / "elsewhere" / "page.html")
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in second.parent.iterdir()) == ["evidence.json", "page.html"]
    assert (run_dir / "evidence.json").read_bytes() == second.with_name("evidence.json").read_bytes()


def test_an_output_that_is_a_folder_is_refused(run_dir, tmp_path):
    with pytest.raises(InputError, match="is a folder; expected the name of the page"):
        render_report(run_dir, output=tmp_path)
    for file in ("metrics.json", "samples/original.safetensors"):
        before = (run_dir / file).read_bytes()
        with pytest.raises(InputError, match="is there and no page, and would be lost"):
            render_report(run_dir, output=run_dir / file)
        assert (run_dir / file).read_bytes() == before
    for folder in (run_dir, tmp_path):
        with pytest.raises(InputError, match="is the name of the evidence beside the page"):
            render_report(run_dir, output=folder / "evidence.json")
    (tmp_path / "evidence.json").write_text('{"mine": 1}', encoding="utf-8")
    with pytest.raises(InputError, match="is there and no evidence, and would be lost"):
        render_report(run_dir, output=tmp_path / "page.html")
    assert (tmp_path / "evidence.json").read_text(encoding="utf-8") == '{"mine": 1}'


def test_a_failure_leaves_the_last_good_page(run_dir):
    page = render_report(run_dir)
    good = page.read_bytes()
    (run_dir / "metrics.json").write_text("{}", "utf-8")
    with pytest.raises(InputError, match="format_version None"):
        render_report(run_dir)
    assert page.read_bytes() == good


def test_many_classes_are_cut_and_the_page_says_so(make_run, tmp_path):
    names = [f"class {i}" for i in range(100)]
    folder = make_run(tmp_path / "run", n=2000, names=names)
    histogram = json.loads((folder / "metrics.json").read_text("utf-8"))["histogram"]
    off = [abs(got - want) for got, want in zip(histogram["unlearned"], histogram["expected"], strict=True)]
    shown = {row["name"] for row in page_tables.histogram(collect(folder))["rows"]}
    assert {f"class {i}" for i in np.argsort(off)[-29:]} <= shown | {"class 7"}
    text = " ".join(Page(render(folder)).text.split())
    assert "The 30 classes furthest from the expectation; 70 more are in metrics.json" in text
    assert "class 7 (to forget)" in text and "The full flip table" not in text


def test_torch_stays_out(run_dir):
    code = "import sys, vdu.reporting.render as r; r.render_report(sys.argv[1]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(run_dir)], check=True, timeout=60)


def test_hiding_drops_local_paths(run_dir):
    record = json.loads((run_dir / "run.json").read_text("utf-8"))
    record["command"] = ["vdu", "demo", "--output-dir=/home/anna/secret/run", "/home/anna/my run"]
    record["inputs"] = {"model": {"path": "/home/anna/models/m"}}
    (run_dir / "run.json").write_text(json.dumps(record), "utf-8")
    assert "anna" in render(run_dir) and "anna" in (run_dir / "evidence.json").read_text("utf-8")
    hidden = render(run_dir, hide_forgotten=True)
    assert "anna" not in hidden and "…/m" in hidden and "…/my run" in hidden
    assert "anna" not in (run_dir / "evidence.json").read_text("utf-8")


def test_a_run_that_went_on_elsewhere_names_both_machines(run_dir):
    record = json.loads((run_dir / "run.json").read_text("utf-8"))
    earlier = {
        "python": "3.12.1",
        "packages": {"torch": "2.9.9"},
        "hardware": {"accelerator": "a card", "cpu_cores": 8},
    }
    (run_dir / "run.json").write_text(json.dumps(record | {"earlier_environments": [earlier]}), "utf-8")
    page, evidence = make_report(run_dir)
    assert evidence["provenance"]["earlier_environments"] == [earlier]
    assert "on a card, 8 cores and a CPU, 2 cores." in evidence["verdicts"]["cost"]["explanation"]
    facts = provenance(collect(run_dir))["Software and machine"]
    assert ("torch", "2.13.0") in facts and ("earlier part: torch", "2.9.9") in facts
    assert ("earlier part: CPU cores", "8") in facts and b"earlier part: Python" in page

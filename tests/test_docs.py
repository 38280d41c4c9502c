"""What the documentation says can be done: its code runs, its commands parse, its links lead somewhere, its site builds."""

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from vdu.cli import SETTINGS, app
from vdu.methods import registry
from vdu.methods.options import options_of

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), ROOT / "README.md"]
LINK = re.compile(r"\]\(([^)#\s]+)")


def names(page):
    return page.name


def text_of(page):
    return page.read_text("utf-8")


@pytest.mark.parametrize("page", ["adding-a-method.md"])
def test_the_code_on_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    """With few steps of the classifiers, whose number no page names."""
    from vdu.replay import auxiliaries

    whole = auxiliaries.resemblance
    monkeypatch.setattr(
        auxiliaries, "resemblance", lambda *args, **options: whole(*args, **options | {"score_steps": 5, "steps": 5})
    )
    blocks = re.findall(r"^```python\n(.*?)^```$", text_of(DOCS / page), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 3
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "docs"}
    try:
        for number, block in enumerate(blocks):
            exec(compile(block, f"{page}, block {number + 1}", "exec"), names)
        assert registry.get("floor") is names["Floor"]
        assert not list(tmp_path.iterdir())  # nothing is written beside the reader
        registry._registered.pop("floor")
        (tmp_path / "floor.py").write_text(blocks[0], "utf-8")
        assert registry.resolve("floor.py:Floor") == "floor"
    finally:
        for name in ("floor", "tether"):
            registry._registered.pop(name, None)


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_python_on_a_page_is_python_and_names_what_is_there(page):
    import vdu

    for block in re.findall(r"^```python\n(.*?)^```$", text_of(page), re.MULTILINE | re.DOTALL):
        compile(block, page.name, "exec")
    for name in re.findall(r"\bvdu\.([A-Za-z_]+)\b(?![./\w])", text_of(page)):
        here = list((ROOT / "src/vdu").glob(f"{name}*"))
        assert name in {*vdu.__all__, "recipes", "toml", "json", "png", "html"} or here, name


# commands


def commands(text):
    """The vdu command lines of a page's code blocks, in order: (tokens, file that takes the output or None)."""
    found = []
    for block in re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words = words[1:]
            if "&&" in words:
                words = words[len(words) - words[::-1].index("&&") :]
            if words[:1] == ["torchrun"] and "vdu" in words:
                words = words[words.index("vdu") :]
            if not words or Path(words[0]).name != "vdu":
                continue
            target = None
            if ">" in words:
                words, target = words[: words.index(">")], words[words.index(">") + 1]
            found.append((words[1:], target))
    return found


def test_commands_are_found_however_they_are_written():
    text = "```\nA=1 vdu demo --digit 3   # note\na && .venv/bin/vdu demo\ntorchrun -n 2 -m vdu sample \\\n  --seed 1\n"
    text += "vdu list > x\nls\n```"
    assert commands(text) == [
        (["demo", "--digit", "3"], None),
        (["demo"], None),
        (["sample", "--seed", "1"], None),
        (["list"], "x"),
    ]


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_every_command_on_a_page_parses(page, command, capsys, tmp_path, monkeypatch, unchecked):
    """With --dry-run, which resolves and prints all settings; the files of the pages do not exist."""
    monkeypatch.chdir(tmp_path)
    for tokens, target in commands(text_of(page)):
        dry = [] if tokens[0] == "list" or "--dry-run" in tokens else ["--dry-run"]
        code = command(*tokens, *dry)
        out, err = capsys.readouterr()
        assert code == 0, f"vdu {shlex.join(tokens)}: {out}{err}"
        if target:
            Path(target).write_text(out, "utf-8")


def test_the_pages_have_commands_and_a_wrong_one_is_seen(command, capsys):
    assert sum(len(commands(text_of(page))) for page in PAGES) > 40
    assert command("unlearn", "--pipeline", "a", "--forget", "b", "--output-dir", "c", "--gama", "1", "--dry-run") != 0
    capsys.readouterr()


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_options_and_verbs_in_the_text_exist(page):
    known = {f"--{item.name.replace('_', '-')}" for settings in SETTINGS.values() for item in fields(settings)}
    known |= {"--config", "--dry-run", "--json", "--device", "--from", "--help", "--help-all", "--version"}
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL))
    for code in inline:
        words = code.split()
        if words[0] == "vdu" and len(words) > 1 and re.fullmatch(r"[a-z-]+", words[1]):
            assert words[1] in set(app), code
        if words[0] == "vdu" or words[0].startswith("--"):
            assert set(re.findall(r"--[a-z][a-z-]*", code)) <= known, code


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "adding-a-method.md"], ids=names)
def test_options_of_methods_exist(page):
    """``--option NAME=VALUE``, in the text too."""
    for given in re.findall(r"--option[ =]([a-z_]+=[^\s`)]+)", text_of(page)):
        name = given.partition("=")[0]
        assert any(name in options_of(registry.get(method)) for method in registry.names()), given


def test_the_defaults_on_the_methods_page_are_those_of_the_code():
    """Everything of the form `name` symbol = value in a method's section."""
    sections = re.split(r"^## ", text_of(DOCS / "methods.md"), flags=re.MULTILINE)
    titles = {section.splitlines()[0]: section for section in sections[1:]}
    found = 0
    for method in registry.names():
        kind = registry.get(method)
        for name, low, high in re.findall(r"`([a-z_]+)` [^\s(]+ = ([\d.e-]+)(?: to ([\d.]+))?", titles[method]):
            if name in (options := options_of(kind)):
                given = (float(low), float(high)) if high else float(low.rstrip("."))
                assert options[name].default == given, (method, name)
                found += 1
    assert found >= 10


def test_every_method_has_a_section_and_a_source():
    sections = re.split(r"^## ", text_of(DOCS / "methods.md"), flags=re.MULTILINE)
    titles = {section.splitlines()[0]: section for section in sections[1:]}
    assert set(registry.names()) <= set(titles)
    for name in set(registry.names()) - {"auto", "ascent", "finetune"}:
        assert "Source" in titles[name] and "\n    " in titles[name], name  # and a formula


def test_the_ten_complaints_are_answered_each_with_a_command():
    sections = re.split(r"^### (?=\d+\. )", text_of(DOCS / "faq.md"), flags=re.MULTILINE)[1:]
    assert [section.split(".")[0] for section in sections] == [str(n) for n in range(1, 11)]
    assert [bool(commands(section)) for section in sections] == [True] * 9 + [False]


# links and the site


@pytest.mark.parametrize("path", [*PAGES, *sorted(DOCS.glob("api/*.md"))], ids=names)
def test_links_between_pages_lead_somewhere(path):
    for target in LINK.findall(text_of(path)):
        generated = path.parent == DOCS / "api" and (ROOT / "src/vdu" / Path(target).stem).is_dir()
        generated |= path.parent == DOCS / "api" and target in {"vdu.md"}
        if "://" not in target and not generated:
            assert (path.parent / target).exists(), target


@pytest.mark.slow  # 40 s: it reads every docstring
def test_the_site_builds_without_warnings_and_asks_nobody_else(tmp_path, caplog, monkeypatch):
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True)
    config.plugins.on_startup(command="build", dirty=False)
    build(config)  # strict: a warning is an error
    assert [record.message for record in caplog.records if record.levelname in {"WARNING", "ERROR"}] == []
    pages = {
        page.relative_to(tmp_path / "site").as_posix(): text_of(page) for page in (tmp_path / "site").rglob("*.html")
    }
    assert {"index.html", "faq.html", "api/methods.html", "repository/results/paper/small/leaderboard.html"} <= set(
        pages
    )
    for name, text in pages.items():
        assert not re.search(r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//", text), (
            name
        )
    modules = [path for path in (ROOT / "src/vdu").glob("*/*.py") if path.stem != "__init__"]
    reference = "".join(text for name, text in pages.items() if name.startswith("api/"))
    for path in modules:
        assert f'id="vdu{path.parent.name}{path.stem}"' in reference, path

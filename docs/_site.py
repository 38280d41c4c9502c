"""What MkDocs is told besides ``mkdocs.yml``: the reference pages, and files outside ``docs/`` that pages link to.

1. One page for each room of the package, made from the source tree, so that no module is forgotten.
2. A page may link to a file of the repository (``../results/…``) as it does when it is read there. Such a file, and what
   a Markdown file among them links to in turn, is copied into the site below ``repository/``. A link to a folder becomes
   plain text, as a site has no folders to look into.
"""

import ast
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
DOCS, SOURCE = ROOT / "docs", ROOT / "src" / "vdu"
OUTSIDE = "repository"
FOLDER = "folder:"
LINK = re.compile(r"(?P<before>\]\()(?P<target>[^)#\s]+)(?P<after>(?:#[^)\s]*)?\))")


def reference() -> dict[str, tuple[str, str]]:
    """The pages of the reference: path in the site → (title, Markdown)."""
    pages = {
        "api/vdu.md": ("Top level", "# vdu\n\n::: vdu\n    options:\n      show_root_toc_entry: false\n"),
    }
    for init in sorted(SOURCE.glob("*/__init__.py")):
        room = init.parent.name
        modules = sorted(path.stem for path in init.parent.glob("*.py") if path != init)
        if modules:
            about = ast.get_docstring(ast.parse(init.read_text("utf-8"))) or ""
            pages[f"api/{room}.md"] = (room, f"# {room}\n\n{about}\n\n" + _directives(f"vdu.{room}", modules))
    return pages


def _directives(package: str, modules: Any) -> str:
    return "\n".join(
        f"## {package}.{name}\n\n::: {package}.{name}\n    options:\n      show_root_heading: false\n      show_root_toc_entry: false\n"
        for name in modules
    )


def place(path: Path) -> str:
    """Where a file of the repository is in the site, as a path with slashes."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    return f"{OUTSIDE}/{path.relative_to(ROOT).as_posix()}"


def linked(page: Path) -> set[Path]:
    """Files outside ``docs/`` that a Markdown file links to, directly or through others of them."""
    found: set[Path] = set()
    queue = [page]
    while queue:
        for match in LINK.finditer(queue[0].read_text("utf-8")):
            target = (queue[0].parent / match["target"]).resolve()
            if (
                target.is_file()
                and target.is_relative_to(ROOT)
                and not target.is_relative_to(DOCS)
                and target not in found
            ):
                found.add(target)
                queue += [target] if target.suffix == ".md" else []
        queue.pop(0)
    return found


def moved_links(text: str, page: Path) -> str:
    """A page's links as they must be in the site."""

    def moved(match: re.Match[str]) -> str:
        target = (page.parent / match["target"]).resolve()
        if "://" in match["target"] or not target.is_relative_to(ROOT) or not target.exists():
            return match[0]
        if target.is_dir():
            return f"]({FOLDER})"
        return match["before"] + os.path.relpath(place(target), os.path.dirname(place(page)) or ".") + match["after"]

    text = LINK.sub(moved, text)
    return re.sub(rf"\[([^\]]*)\]\({FOLDER}\)", r"\1", text)


def on_config(config: Any) -> Any:
    """Put the reference pages into the navigation's last section."""
    config.nav[-1]["Reference"] += [{title: name} for name, (title, _) in reference().items()]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the reference and what pages link to."""
    for name, (_, text) in reference().items():
        files.append(File.generated(config, name, content=text))
    wanted = {path for page in DOCS.rglob("*.md") for path in linked(page)}
    for path in sorted(wanted):
        files.append(File.generated(config, place(path), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Move the links of pages that are files of the repository."""
    name = page.file.src_uri
    source = ROOT / name.removeprefix(f"{OUTSIDE}/") if name.startswith(f"{OUTSIDE}/") else DOCS / name
    return moved_links(markdown, source) if source.is_file() else markdown

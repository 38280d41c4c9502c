#!/usr/bin/env python3
"""Make the emoji canvas: pictures of the same objects in three styles, with captions, to train a small text-to-image model.

Usage: make_emoji_canvas.py OUT_FOLDER [SIZE]     (needs npm and ``pip install resvg-py==0.5.0``; SIZE is in pixels, 32)

The drawings come from three npm packages, verified by SHA-256: noto (Apache-2.0), fluent-emoji-flat (MIT) and twemoji (CC BY 4.0).
``emoji_names.toml`` lists the objects. A name that is only another name of a drawing is refused, and so are two
names of one set that look alike. Every drawing is rendered on white once as it is and several times shifted, scaled
and turned a little; these draws depend on the drawing's name alone, so the folder is the same bits every time.

    OUT_FOLDER/metadata.jsonl               one line per picture: file_name, text, name, group, words, style, licence, version
    OUT_FOLDER/objects/train/GROUP/…png     the pictures; in test/ are two further versions of each drawing
    OUT_FOLDER/styles/train/STYLE/…png      the same files (hard links), by style

Both folders are data sets of ``vdu judge``. There is one drawing per object and style: a model trained on them memorises
drawings, and the test pictures are new versions of the training drawings, not new drawings.
"""

import hashlib
import io
import json
import math
import os
import random
import subprocess
import sys
import tarfile
import tomllib
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from PIL import Image

SETS = {
    "noto": ("noto", "1.2.9", "Apache-2.0", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
    "fluent": (
        "fluent-emoji-flat", "1.2.6", "MIT", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    ),
    "twemoji": ("twemoji", "1.2.5", "CC-BY-4.0", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"),
}  # fmt: skip
TRAIN_VERSIONS, TEST_VERSIONS = 16, 2
ALIKE = 0.5  # two drawings of a set whose pixels differ by less than this on average (0…255) are one drawing


def main(out: Path, size: int) -> None:
    """Fetch, check, render and describe all pictures."""
    groups = tomllib.loads((Path(__file__).parent / "emoji_names.toml").read_text("utf-8"))
    lines = []
    for style, (package, version, licence, sha256) in SETS.items():
        icons = fetch(out / "packages", package, version, sha256)
        plain = {}
        for group, entry in groups.items():
            for name in entry["names"].split():
                if name not in icons["icons"]:
                    sys.exit(f"{style}: {name!r} is no drawing of its own; choose another name in emoji_names.toml.")
                pictures = [render(icons, name, size, k) for k in range(TRAIN_VERSIONS + TEST_VERSIONS)]
                plain[name] = pictures[0]
                for k, picture in enumerate(pictures):
                    split = "train" if k < TRAIN_VERSIONS else "test"
                    file = write(out, split, group, style, f"{name}-{k:02}.png", picture)
                    lines.append({
                        "file_name": file, "text": f"{name.replace('-', ' ')}, {style} style", "name": name.replace("-", " "),
                        "group": group, "words": entry["words"], "style": style, "licence": licence, "version": k,
                    })  # fmt: skip
        refuse_twins(style, plain)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (out / "metadata.jsonl").write_text(text, "utf-8")
    print(f"{len(lines)} pictures; SHA-256 of metadata and pixels: {checksum(out, lines)}")


def fetch(folder: Path, package: str, version: str, sha256: str) -> dict[str, Any]:
    """The icons of an npm package (see iconify.design), after its checksum was verified; downloaded if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"iconify-json-{package}-{version}.tgz"
    if not archive.is_file():
        subprocess.run(
            ["npm", "pack", f"@iconify-json/{package}@{version}", "--pack-destination", str(folder)],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != sha256:
        sys.exit(f"{archive}: SHA-256 is {found}, expected {sha256}. Delete it and try again.")
    with tarfile.open(archive) as files:
        return json.load(files.extractfile("package/icons.json"))  # pyright: ignore[reportArgumentType]


def render(icons: dict[str, Any], name: str, size: int, version: int) -> Image.Image:
    """One picture: version 0 is the drawing as it is, the others are shifted, scaled and turned.

    Args:
        icons: a set in iconify's format.
        name: of the drawing.
        size: width and height in pixels.
        version: number of the picture.

    Returns:
        The picture on white, RGB.
    """
    icon = icons["icons"][name]
    width, height = (icon.get(side, icons[side]) for side in ("width", "height"))
    draw = random.Random(f"{name} {version}")
    moved = version > 0
    x, y = ((0.5 + moved * draw.uniform(-0.04, 0.04)) * size for _ in range(2))
    scale = size / max(width, height) * (0.94 * math.exp(moved * draw.uniform(-0.1, 0.05)))
    angle = moved * draw.uniform(-8, 8)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {size} {size}">'
        f'<g transform="translate({x:.4f} {y:.4f}) rotate({angle:.4f}) scale({scale:.6f}) '
        f'translate({-width / 2} {-height / 2})">{icon["body"]}</g></svg>'
    )
    made = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, background="#ffffff", skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(made))).convert("RGB")


def write(out: Path, split: str, group: str, style: str, name: str, picture: Image.Image) -> str:
    """Write a picture under its group, link it under its style, and return its path below OUT_FOLDER."""
    file = Path("objects", split, group, f"{style}-{name}")
    link = Path("styles", split, style, name)
    for path in (file, link):
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).unlink(missing_ok=True)
    picture.save(out / file)
    os.link(out / file, out / link)
    return file.as_posix()


def refuse_twins(style: str, plain: dict[str, Image.Image]) -> None:
    """Stop if two names show one drawing: forgetting one and keeping the other would contradict each other."""
    pixels = {name: np.asarray(picture, dtype=np.float32) for name, picture in plain.items()}
    twins = [pair for pair in combinations(pixels, 2) if np.abs(pixels[pair[0]] - pixels[pair[1]]).mean() < ALIKE]
    if twins:
        sys.exit(f"{style}: look alike: {', '.join(' = '.join(pair) for pair in twins)}. Keep one name of each.")


def checksum(out: Path, lines: list[dict[str, Any]]) -> str:
    """SHA-256 over every line and its pixels, independent of the PNG encoder."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(json.dumps(line).encode() + Image.open(out / line["file_name"]).tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 32)

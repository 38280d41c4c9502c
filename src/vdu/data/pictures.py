"""Pixels as PNG files: one per image, or a grid. No stretching: the stored values are the model's output."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from vdu.core.records import atomic_file, atomic_folder

__all__ = ["save_grid", "save_pngs"]


def _picture(pixels: Tensor) -> Image.Image:
    """One image, uint8 [channels, height, width] with 1 or 3 channels."""
    return Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).contiguous().numpy())


def save_pngs(images: Tensor, folder: Path) -> None:
    """Write uint8 images [N, C, H, W] as ``00000.png``, ``00001.png`` and so on."""
    with atomic_folder(folder) as temporary:
        for i, pixels in enumerate(images):
            _picture(pixels).save(temporary / f"{i:05d}.png")


def save_grid(images: Tensor, path: Path, *, columns: int = 16, scale: int = 1, gap: int = 2) -> None:
    """Write uint8 images [N, C, H, W] as one grid, row by row, on grey.

    Args:
        images: the images.
        path: the PNG file.
        columns: images per row.
        scale: pixels per pixel.
        gap: pixels between images.
    """
    n, channels, height, width = images.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    canvas = torch.full((channels, rows * (height + gap) + gap, columns * (width + gap) + gap), 128, dtype=torch.uint8)
    for i, pixels in enumerate(images):
        top, left = gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap)
        canvas[:, top : top + height, left : left + width] = pixels
    picture = _picture(canvas)
    with atomic_file(path) as temporary:
        picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST).save(
            temporary, format="PNG"
        )

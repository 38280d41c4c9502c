"""Image files to pixels: strictly as they are, or optionally converted to one shape.

Strict: 8-bit grey (mode L) gives one channel, 8-bit RGB three; any other mode is an error, and so is a transparent colour
(the tRNS chunk of a PNG). Converted: transparent pixels over white, 16-bit grey divided by 257, any other mode as Pillow does, but for
16-bit colours, of which Pillow reads the high byte: they are an error in both cases;
then resized (bicubic with antialiasing) until the image covers the shape, and cropped at the centre. An EXIF orientation is
applied in both cases.

Only the formats of ``FORMATS`` are opened, whatever a file's name: Pillow passes others, such as EPS, to external programs.
An image of the wrong size, or of more than 2²⁶ pixels, is rejected by its header, before memory is allocated.

All images are decoded before an error is raised, so that one message names all that do not fit.

Not guaranteed: colour management. Embedded profiles are ignored.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps
from torch import Tensor

from vdu.core.errors import InputError
from vdu.core.progress import track
from vdu.data.images import ImageSet

__all__ = ["FORMATS", "Shape", "complaint", "decode_all", "fit_shape", "is_image", "is_text", "open_image", "to_pixels"]

Shape = tuple[int, int, int]
_CHANNELS = {"L": 1, "RGB": 3}
_MODES = {1: "L", 3: "RGB"}
_GREY_BITS = {"L;2": 2, "L;4": 4}
_LISTED = 10
_FIT = (
    "Resize them, or have it done: `vdu unlearn --convert` for images to forget and to keep (in Python convert=True); where Python takes "
    "images as an object, those of vdu.load_images(…, shape=(channels, height, width), convert=True)."
)
_MOST_PIXELS = 1 << 26  # a photograph of 67 megapixels
_SHORT_SIGNATURES = {"BMP", "PPM"}  # two letters, with which a text may begin
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "MPO", "PNG", "PPM", "TIFF", "WEBP")


def open_image(source: Path | BinaryIO) -> Image.Image:
    """Open an image of one of ``FORMATS``, identified by its content.

    Args:
        source: a file, or a path to one.

    Returns:
        The image, not yet decoded.
    """
    Image.init()
    return Image.open(source, formats=[name for name in FORMATS if name in Image.OPEN])  # older versions lack AVIF


def is_image(path: Path) -> bool:
    """Whether a file is an image by its content, whatever its name; a cut one counts where its first bytes are unmistakable."""
    try:
        with open_image(path):
            return True
    except Image.DecompressionBombError:
        return True
    except Exception:  # Pillow's readers raise many kinds of errors
        head = _head(path, 16)
        signed = (Image.OPEN[name][1] for name in FORMATS if name in Image.OPEN and name not in _SHORT_SIGNATURES)
        return any(accept is not None and accept(head) is True for accept in signed)


def is_text(path: Path) -> bool:
    """Whether a file looks like text: no zero byte at its beginning, or the mark of UTF-16."""
    head = _head(path, 1 << 12)
    return b"\0" not in head or head.startswith((b"\xff\xfe", b"\xfe\xff"))


@contextmanager
def _own_pillow() -> Iterator[None]:
    """Pillow's global settings as in a fresh process inside the block: a cut image is an error, and the limit of pixels is ours."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
    ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = False, _MOST_PIXELS
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = before


def _head(path: Path, n_bytes: int) -> bytes:
    with open(path, "rb") as file:
        return file.read(n_bytes)


def to_pixels(image: Image.Image, shape: Shape | None, convert: bool = False) -> np.ndarray:
    """One opened image to pixels.

    Args:
        image: as opened; its pixels are read here.
        shape: channels, height and width that it must have; None takes them as they are.
        convert: convert it to ``shape``, which must then be given.

    Returns:
        uint8 [channels, height, width].

    Raises:
        InputError: if it is animated, or does not fit.
    """
    if getattr(image, "is_animated", False) and image.format != "MPO":  # MPO: a photograph with a preview beside it
        raise InputError("several frames, expected one still image")
    _require_size(image, None if convert else shape)
    _require_8_bits(image)
    key, tiles = image.info.get("transparency"), getattr(image, "tile", ())
    depth = _GREY_BITS.get(str(tiles[0][3])) if tiles else None
    image = ImageOps.exif_transpose(image)
    if depth and isinstance(
        key, int
    ):  # Pillow scales the pixels of such a PNG to 8 bits, and not their transparent level
        image.info["transparency"] = key * 255 // (2**depth - 1)
    if convert and shape is not None:
        image = _converted(image, shape)
    transparent = " with a transparent colour" if "transparency" in image.info else ""
    if image.mode not in _CHANNELS or transparent:
        raise InputError(f"mode {image.mode}{transparent}, expected 8-bit grey (L) or RGB")
    got = (_CHANNELS[image.mode], image.height, image.width)
    if shape is not None and got != tuple(shape):
        raise InputError(f"channels, height, width {got}, expected {tuple(shape)}")
    array = np.array(image, dtype=np.uint8)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _require_size(image: Image.Image, shape: Shape | None) -> None:
    """Reject an image by its header, without decoding it.

    Args:
        image: as opened.
        shape: that it must have; None allows any of at most 2²⁶ pixels.

    Raises:
        InputError: if it is too large, or has a wrong size even when rotated by 90° (as EXIF may require).
    """
    width, height = image.size
    if width * height > _MOST_PIXELS:
        raise InputError(f"{width} × {height} pixels, expected at most {_MOST_PIXELS}: make it smaller")
    if shape is not None and sorted((height, width)) != sorted(shape[1:]):
        got = (_CHANNELS.get(image.mode, len(image.getbands())), height, width)
        raise InputError(f"channels, height, width {got}, expected {tuple(shape)}")


def _require_8_bits(image: Image.Image) -> None:
    """Reject an image of more than 8 bits per colour, which Pillow would cut; grey ones have modes of their own.

    Args:
        image: as opened: the raw mode of its pixels is forgotten when they are read.

    Raises:
        InputError: if it is one.
    """
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    bits = tags.get(258, 8)  # its raw mode does not tell where colours lie apart
    if image.mode.startswith("I;16") and tags and (bits not in (16, (16,)) or tags.get(262) != 1):
        raise InputError("grey of 9 to 15 bits, or of 16 with white as 0, which Pillow misreads: save it with 8 bits")
    if image.mode.startswith(("I", "F")):
        return
    deep = max(bits if isinstance(bits, tuple) else (bits,)) > 8
    for tile in getattr(image, "tile", ()):
        raw, *rest = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        deep |= isinstance(raw, str) and ";16" in raw and not raw.startswith("BGR")  # BGR;16: 5 or 6 bits each
        deep |= tile[0].startswith("ppm") and bool(rest) and rest[-1] > 255  # the largest value
    if deep:
        raise InputError(f"mode {image.mode} of 16 bits per colour, expected 8: save it with 8 bits")


def _converted(image: Image.Image, shape: Shape) -> Image.Image:
    channels, height, width = shape
    if image.mode.startswith("I;16"):  # Pillow's own conversion to L clips at 255: nearly white
        levels = np.asarray(image).astype(np.float64)
        clear = image.info.get("transparency")  # one level, where there is a tRNS chunk
        image = Image.fromarray(np.where(levels == clear, 255, np.rint(levels / 257)).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise InputError(f"mode {image.mode} has no known range: save it with 8 bits")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")  # dropping alpha would show the colours hidden under transparent pixels
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return ImageOps.fit(image.convert(_MODES[channels]), (width, height), Image.Resampling.BICUBIC)


def decode_all(
    source: str,
    names: Sequence[str],
    openers: Sequence[Callable[[], Image.Image]],
    shape: Shape | None,
    convert: bool,
) -> Tensor:
    """Decode many images of one shape.

    Args:
        source: where they come from, for the message.
        names: name of each image.
        openers: functions that open each.
        shape: as in ``to_pixels``; None means that of the first image that can be read.
        convert: as in ``to_pixels``.

    Returns:
        uint8 [images, channels, height, width].

    Raises:
        InputError: if there are none, or some cannot be used; the message names them.
    """
    pixels, problems = None, []
    for i, (name, opener) in enumerate(track([*zip(names, openers, strict=True)], "reading images", "image")):
        try:
            with _own_pillow(), opener() as image:
                array = to_pixels(image, shape, convert)
        except InputError as error:
            problems.append(f"{name}: {error}")
        except Exception as error:  # Pillow's readers raise many kinds of errors on damaged files
            problems.append(f"{name}: unreadable or cut short ({error})")
        else:
            if pixels is None:
                shape = array.shape
                pixels = np.empty((len(names), *array.shape), np.uint8)
            pixels[i] = array
    if problems or pixels is None:
        hint = "Repair or remove them" + (
            "." if convert else f"; where only size or colours differ: {_FIT[0].lower()}{_FIT[1:]}"
        )
        raise InputError(complaint(source, problems, len(names), "images cannot be used", hint))
    return torch.from_numpy(pixels)


def complaint(source: str, problems: Sequence[str], total: int, what: str, hint: str) -> str:
    """One message for many problems.

    Args:
        source: where they occurred.
        problems: one line each.
        total: number of items checked.
        what: the problem.
        hint: the remedy.

    Returns:
        The message, with the first ten problems and the number of the rest.
    """
    rest = [f"… and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else []
    lines = "".join(f"\n  {line}" for line in [*problems[:_LISTED], *rest])
    return f"{source}: {len(problems)} of {total} {what}:{lines}\n{hint}"


def fit_shape(images: ImageSet, shape: Shape | None, convert: bool) -> ImageSet:
    """Convert a set whose images share one shape to another shape.

    Args:
        images: the set.
        shape: channels, height and width wanted; None takes any.
        convert: convert if they differ.

    Returns:
        The set, converted if need be.

    Raises:
        InputError: if the shapes differ and ``convert`` is false.
    """
    if shape is None or images.shape == tuple(shape):
        return images
    if not convert:
        raise InputError(
            f"{images.description}: all {len(images)} images have channels, height, width {images.shape}, expected "
            f"{tuple(shape)}. {_FIT}"
        )
    arrays = [array[0] if images.shape[0] == 1 else array.transpose(1, 2, 0) for array in images.images.numpy()]
    pixels = np.empty((len(arrays), *shape), np.uint8)
    for i, array in enumerate(track(arrays, "converting images", "image")):
        pixels[i] = to_pixels(Image.fromarray(np.ascontiguousarray(array)), shape, convert=True)
    return replace(images, images=torch.from_numpy(pixels), description=f"{images.description}, converted")

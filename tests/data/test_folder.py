import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vdu.core.errors import InputError
from vdu.data.folder import left_out
from vdu.data.forget_source import forgetting
from vdu.data.sources import load_images

RNG = np.random.default_rng(0)


def noise(*size: int) -> np.ndarray:
    return RNG.integers(0, 256, size, dtype=np.uint8)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return array


def test_pixels_are_those_of_the_files_in_order_of_name(tmp_path):
    arrays = {name: save(tmp_path / name, noise(5, 7, 3)) for name in ("b.png", "a.bmp", "z/y/c.PNG", "B.png")}
    images = load_images(str(tmp_path))
    assert images.names == ("B.png", "a.bmp", "b.png", "z/y/c.PNG")
    assert images.labels is None and images.shape == (3, 5, 7)
    for i, name in enumerate(images.names):
        assert np.array_equal(images.images[i].numpy(), np.moveaxis(arrays[name], 2, 0))
    assert load_images(str(tmp_path)).sha256 == images.sha256


def test_class_folders_become_labels(tmp_path):
    for name in ("dog/1.png", "cat/deep/er/2.png", "cat/1.png"):
        save(tmp_path / name, noise(4, 4))
    (tmp_path / ".hidden").mkdir()
    images = load_images(str(tmp_path), shape=(1, 4, 4))
    assert images.class_names == ("cat", "dog")
    assert images.names == ("cat/1.png", "cat/deep/er/2.png", "dog/1.png")
    assert images.labels is not None and images.labels.tolist() == [0, 0, 1]


def test_split_folders_are_entered_and_not_taken_for_classes(tmp_path):
    save(tmp_path / "train/cat/1.png", noise(4, 4))
    save(tmp_path / "test/1.png", noise(4, 4))
    assert load_images(str(tmp_path), split="train").class_names == ("cat",)
    with pytest.raises(InputError, match=r"holds the splits test, train; expected one of them, such as .*/test"):
        load_images(str(tmp_path))
    assert load_images(str(tmp_path), split="test").names == ("1.png",)
    (tmp_path / "test/1.png").unlink()
    (tmp_path / "test").rmdir()
    assert load_images(str(tmp_path)).class_names == ("cat",)  # the only one
    with pytest.raises(InputError, match=r"holds the splits train, but not 'test'"):
        load_images(str(tmp_path), split="test")
    with pytest.raises(InputError, match=r"has no test split"):
        load_images(str(tmp_path / "train"), split="test")


def damage(folder):
    """One good file, and one of each kind that cannot be used."""
    save(folder / "a_good.png", noise(6, 6))
    save(folder / "b_size.png", noise(6, 5))
    save(folder / "c_rgb.png", noise(6, 6, 3))
    save(folder / "d_rgba.png", noise(6, 6, 4))
    save(folder / "e_16bit.png", noise(6, 6).astype(np.uint16))
    Image.fromarray(noise(6, 6)).convert("P").save(folder / "f_palette.png")
    save(folder / "g_cut.png", noise(6, 6))
    (folder / "g_cut.png").write_bytes((folder / "g_cut.png").read_bytes()[:60])
    (folder / "h_text.jpg").write_text("not an image")
    frames = [Image.fromarray(noise(6, 6)) for _ in range(2)]
    frames[0].save(folder / "i_animated.gif", save_all=True, append_images=frames[1:])


def test_all_offenders_are_named_at_once(tmp_path):
    damage(tmp_path)
    with pytest.raises(InputError, match=r"8 of 9 images cannot be used") as caught:
        load_images(str(tmp_path), shape=(1, 6, 6))
    lines = str(caught.value).splitlines()[1:9]
    expected = [
        ("b_size.png", "(1, 6, 5), expected (1, 6, 6)"), ("c_rgb.png", "(3, 6, 6), expected (1, 6, 6)"),
        ("d_rgba.png", "mode RGBA"), ("e_16bit.png", "mode I"), ("f_palette.png", "mode P"),
        ("g_cut.png", "unreadable"), ("h_text.jpg", "unreadable"), ("i_animated.gif", "several frames"),
    ]  # fmt: skip
    for line, (name, reason) in zip(lines, expected, strict=True):
        assert name in line and reason in line


def test_converting_leaves_only_the_unreadable(tmp_path):
    damage(tmp_path)
    with pytest.raises(InputError, match=r"3 of 9 images cannot be used:\n  g_cut.*\n  h_text.*\n  i_animated"):
        load_images(str(tmp_path), shape=(1, 6, 6), convert=True)


def test_ten_offenders_are_listed_and_the_rest_counted(tmp_path):
    for i in range(13):
        save(tmp_path / f"{i:02}.png", noise(3, 3 if i == 0 else 4))
    with pytest.raises(InputError, match=r"(?s)12 of 13 .*01\.png.*10\.png.*… and 2 more") as caught:
        load_images(str(tmp_path))
    assert "11.png" not in str(caught.value)


def test_conversion_resizes_and_keeps_the_centre(tmp_path):
    array = noise(12, 20, 3)
    save(tmp_path / "a.png", array)
    got = load_images(str(tmp_path), shape=(3, 6, 6), convert=True).images[0].numpy()
    whole = Image.fromarray(array).resize((10, 6), Image.Resampling.BICUBIC)  # antialiased, as Pillow always does
    assert np.array_equal(got, np.moveaxis(np.asarray(whole)[:, 2:8], 2, 0))
    assert np.array_equal(  # an image that fits already is left alone
        load_images(str(tmp_path), shape=(3, 12, 20), convert=True).images[0].numpy(), np.moveaxis(array, 2, 0)
    )


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.full((2, 2), 257 * 100, np.uint16), 100),  # Pillow alone clips this to 255
        (np.full((2, 2), 65535, np.uint16), 255),
        (np.full((2, 2, 4), (10, 20, 30, 0), np.uint8), 255),  # transparent: white, not the hidden colour
        (np.full((2, 2, 4), (0, 0, 0, 255), np.uint8), 0),
        (np.full((2, 2, 3), (255, 0, 0), np.uint8), round(0.299 * 255)),  # luma of ITU-R 601-2
    ],
)
def test_conversion_of_modes(tmp_path, array, expected):
    save(tmp_path / "a.png", array)
    assert load_images(str(tmp_path), shape=(1, 2, 2), convert=True).images.unique().tolist() == [expected]


def test_exif_orientation_is_obeyed(tmp_path):
    array = noise(2, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90° clockwise
    Image.fromarray(array).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(load_images(str(tmp_path)).images[0, 0].numpy(), np.rot90(array, -1))


def test_unknown_files_stop_the_load_and_companions_do_not(tmp_path):
    save(tmp_path / "a.png", noise(2, 2))
    for name in ("a.txt", "LICENSE", ".DS_Store", "metadata.jsonl"):
        (tmp_path / name).write_text("x")
    assert len(load_images(str(tmp_path))) == 1
    (tmp_path / "b.heic").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match=r"2 of 3 files are of a kind that cannot be read:\n  b.heic\n  link"):
        load_images(str(tmp_path))


def test_empty_missing_and_half_empty_folders(tmp_path):
    with pytest.raises(InputError, match=r"holds no image files .*\.png"):
        load_images(str(tmp_path))
    with pytest.raises(InputError, match=r"no such source, folder or file; expected mnist"):
        load_images(str(tmp_path / "none"))
    save(tmp_path / "cat" / "a.png", noise(2, 2))
    (tmp_path / "dog").mkdir()
    with pytest.raises(InputError, match=r"class folders dog hold no images"):
        load_images(str(tmp_path))


def test_a_list_file_is_relative_to_itself_and_sorted(tmp_path):
    first, second = save(tmp_path / "im/b.png", noise(3, 3)), save(tmp_path / "im/a.png", noise(3, 3))
    (tmp_path / "list.txt").write_text("im/b.png\r\n\n./im/a.png\n")
    images = load_images(str(tmp_path / "list.txt"))
    assert images.names == ("im/a.png", "im/b.png")
    assert np.array_equal(images.images.numpy(), np.stack([second, first])[:, None])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"im/x.png\nim/a.png\nim/y.png",
            r"2 of 3 images do not exist:\n  im/x.png\n  im/y.png\nPaths are relative to",
        ),
        (b"im/a.png\n./im/a.png", r"1 of 1 images are named more than once:\n  im/a.png"),
        (b"\n \n", r"names no images"),
        (b"\xff\xfe\x00", r"is not a text file"),
        (b"a\0b", r"names no images"),
    ],
)
def test_bad_lists(tmp_path, content, message):
    save(tmp_path / "im/a.png", noise(3, 3))
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_images(str(tmp_path / "list.txt"))


def test_one_image_is_no_list(tmp_path):
    save(tmp_path / "a.png", noise(3, 3))
    with pytest.raises(InputError, match=r"is one image; expected a folder"):
        load_images(str(tmp_path / "a.png"))


def test_files_are_images_by_their_content_and_the_rest_is_counted(tmp_path):
    """Whatever the names: a hash, a second suffix, a dot at the end, none that anybody knows."""
    names = ("0.png", "1.png.txt", "d41d8cd98f00b204", "img.dat", "photo.", "v.jfif")
    for name in names:
        save(tmp_path / "any.png", noise(4, 4))
        (tmp_path / "any.png").rename(tmp_path / name)
    (tmp_path / "0.txt").write_text("BMW and P1 are words", encoding="utf-8")
    (tmp_path / "utf16.txt").write_text("a caption", encoding="utf-16")
    for name in ("Thumbs.db", "desktop.ini", ".hidden.png", "._0.png"):
        (tmp_path / name).write_bytes(b"\0" * 9)
    found = load_images(str(tmp_path))
    assert found.names == tuple(sorted(names))
    assert found.passed_over == {"hidden": 2, "of the operating system": 2, "text": 2}
    assert found.select([0]).passed_over == found.passed_over


def test_the_files_in_hidden_folders_are_counted_one_by_one(tmp_path):
    """Five images; 30 in a hidden folder, 12 in that of an archive and 1 deeper in it, 1 hidden file, and a folder without any."""
    folders = {".": 5, ".review": 30, "__MACOSX": 12, "__MACOSX/deep/er": 1}
    for folder, n in folders.items():
        for i in range(n):
            save(tmp_path / folder / f"{i}.png", noise(4, 4))
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    (tmp_path / ".cache").mkdir()
    found = load_images(tmp_path)
    assert len(found) == 5 and found.passed_over == {"hidden": 44}
    assert forgetting(found).endswith("; 44 files passed over (44 hidden)")


@pytest.mark.parametrize("name", ["scan", "scan.txt", "scan.json"])
def test_what_is_named_like_a_text_and_holds_none_stops_the_load(tmp_path, name):
    save(tmp_path / "a.png", noise(2, 2))
    (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic\0\0")  # a photograph of a kind that cannot be read
    with pytest.raises(InputError, match=rf"1 of 2 files are of a kind that cannot be read:\n  {name}"):
        load_images(str(tmp_path))


@pytest.mark.parametrize("cut", [10, 40])
def test_a_cut_image_under_another_name_is_missed_by_nobody(tmp_path, cut):
    save(tmp_path / "a.png", noise(9, 9))
    (tmp_path / "b.txt").write_bytes((tmp_path / "a.png").read_bytes()[:cut])
    with pytest.raises(InputError, match=r"1 of 2 images cannot be used:\n  b.txt"):
        load_images(str(tmp_path))


@pytest.mark.parametrize(
    ("array", "colour", "shown"),
    [
        (np.stack([np.full((2, 2), 7, np.uint8)] * 3, -1), (7, 7, 7), [255]),
        (np.array([[0, 9], [9, 9]], np.uint8), 9, [0, 255]),
        (np.array([[0, 257 * 9], [0, 0]], np.uint16), 0, [9, 255]),
    ],
)
def test_a_transparent_colour_is_refused_like_an_alpha_channel(tmp_path, array, colour, shown):
    Image.fromarray(array).save(tmp_path / "a.png", transparency=colour)
    shape = (3 if array.ndim == 3 else 1, 2, 2)
    with pytest.raises(InputError, match=r"a.png: mode .* with a transparent colour, expected 8-bit grey \(L\) or RGB"):
        load_images(str(tmp_path), shape=shape)
    assert load_images(str(tmp_path), shape=shape, convert=True).images.unique().tolist() == shown


@pytest.mark.parametrize(
    "names", [("train", "test", "val"), ("Train", "TEST"), ("training", "testing"), ("dev", "eval")]
)
def test_splits_are_asked_about_also_beside_a_readme(tmp_path, names):
    for name in names:
        save(tmp_path / name / "1.png", noise(3, 3))
    (tmp_path / "README.md").write_text("splits", encoding="utf-8")
    with pytest.raises(InputError, match=rf"holds the splits {', '.join(sorted(names))}; expected one of them"):
        load_images(str(tmp_path))
    assert len(load_images(str(tmp_path / names[0]))) == 1


def test_folders_that_are_no_splits_are_classes(tmp_path):
    for name in ("train", "tram"):
        save(tmp_path / name / "1.png", noise(3, 3))
    assert load_images(str(tmp_path)).class_names == ("train", "tram")
    save(tmp_path / "2.png", noise(3, 3))  # an image beside them: all of it is one set
    assert load_images(str(tmp_path)).class_names is None


@pytest.mark.parametrize(
    ("held", "read", "missed"),
    [
        (("a.png", "b/c.png"), ("a.png", "b/c.png"), []),
        (("b/c.png", "a.png", "d.heic"), ("a.png",), ["b/c.png", "d.heic"]),
        (
            ("train/a.png", "train/b.png", "test/c.png"),
            ("train/a.png",),
            ["train/b.png"],
        ),  # the other split was not asked for
        (("train/a.png", "test/c.png", "b.png"), ("train/a.png",), ["b.png"]),
        (("train/a.png", "other/c.png"), ("train/a.png",), ["other/c.png"]),  # no split
    ],
)
def test_what_another_reader_left_out_is_found(tmp_path, held, read, missed):
    for name in (*held, ".hidden/1.png"):
        save(tmp_path / "any.png", noise(3, 3))
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / "any.png").rename(tmp_path / name)
    (tmp_path / "metadata.csv").write_text("file_name")
    heic = tmp_path / "d.heic"
    if heic.exists():
        heic.write_bytes(b"\0\0\0\x18ftypheic\0\0")
    assert left_out(tmp_path, read) == (missed, {"hidden": 1, "text": 1})


@pytest.mark.parametrize("split", [None, "train", "test"])
def test_images_beside_splits_are_refused_and_never_mix_them(tmp_path, split):
    for name in ("train/a", "train/b", "test/a", "test/b"):
        save(tmp_path / name / "1.png", noise(3, 3))
    save(tmp_path / "example.png", noise(3, 3))
    expected = rf"holds 1 image \(example\.png\) beside the splits test, train; expected splits alone.*such as .*/{split or 'test'};"
    with pytest.raises(InputError, match=expected):
        load_images(tmp_path, split=split)
    save(tmp_path / "more.png", noise(3, 3))
    with pytest.raises(InputError, match=r"holds 2 images \(example\.png, …\) beside the splits"):
        load_images(tmp_path, split=split)
    for name in ("example.png", "more.png"):
        (tmp_path / name).unlink()
    assert load_images(tmp_path, split=split or "train").class_names == ("a", "b")


def test_files_beside_a_split_are_counted_or_refused_as_beside_images(tmp_path):
    save(tmp_path / "elsewhere" / "0.png", noise(3, 3))
    root = tmp_path / "set"
    root.mkdir()
    (root / "train").symlink_to(tmp_path / "elsewhere")  # a split may be a link
    save(root / ".h" / "x.png", noise(3, 3))
    (root / "notes.txt").write_text("words")
    found = load_images(root)
    assert len(found) == 1 and found.passed_over == {"hidden": 1, "text": 1}
    (root / "clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42\0\0")
    (root / "gone.png").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"2 of 2 files are of a kind that cannot be read:\n  clip\.mp4\n  gone\.png"):
        load_images(root)


def test_splits_inside_class_folders_are_refused(tmp_path):
    """They would turn training and test images into one set."""
    for name in ("cat/train/1.png", "cat/test/2.png", "dog/train/1.png", "dog/test/2.png"):
        save(tmp_path / "both" / name, noise(4, 4))
    with pytest.raises(
        InputError,
        match=r"its class folders hold the splits test, train, such as cat/test; .*Move the images to test/cat",
    ):
        load_images(str(tmp_path / "both"))
    for name in ("cat/train/1.png", "cat/test/2.png", "dog/3.png", "dog/more/4.png"):  # nor where a class has none
        save(tmp_path / "partly" / name, noise(4, 4))
    with pytest.raises(InputError, match=r"hold the splits test, train"):
        load_images(str(tmp_path / "partly"))
    for name in ("cat/train/1.png", "dog/train/1.png"):  # one split: nothing is mixed
        save(tmp_path / "one" / name, noise(4, 4))
    assert load_images(str(tmp_path / "one")).class_names == ("cat", "dog")


def sixteen_bit(path, array):
    """A PNG of 16 bits per channel, which Pillow cannot write: [height, width, 3] of uint16."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", *array.shape[1::-1], 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def grey_tiff(path, bits, photometric, rows):
    """A grey TIFF of 4 × 2 pixels; 12 bits are packed, two values in three bytes."""
    if bits == 12:
        text = "".join(f"{value:03x}" for row in rows for value in row)
        pixels = bytes.fromhex(text)
    else:
        pixels = np.array(rows, "<u2").tobytes()
    one = {256: 4, 257: 2, 258: bits, 259: 1, 262: photometric, 273: 122, 277: 1, 278: 2, 279: len(pixels)}
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, one[tag], 0) for tag in sorted(one))
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(one)) + entries + b"\0" * 4 + pixels)


@pytest.mark.parametrize(("bits", "photometric"), [(12, 1), (16, 0)])
def test_grey_levels_that_pillow_misreads_are_refused(tmp_path, bits, photometric):
    """Of 12 bits Pillow gives 4095 for white, and of 16 bits with white as 0 a negative."""
    rows = [[0, 1000, 2000, 3000], [4000, 4095, 1, 2]]
    for name, kind in (("a.tif", (16, 1)), ("b.tif", (bits, photometric))):
        grey_tiff(tmp_path / name, *kind, rows)
    with pytest.raises(
        InputError, match=r"1 of 2 images cannot be used:\n  b.tif: grey of 9 to 15 bits, or of 16 with white as 0"
    ):
        load_images(tmp_path, shape=(1, 2, 4), convert=True)
    (tmp_path / "b.tif").unlink()
    expected = [[round(value / 257) for value in row] for row in rows]
    assert load_images(tmp_path, shape=(1, 2, 4), convert=True).images[0, 0].tolist() == expected


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_transparent_level_of_few_bits_is_white(tmp_path, bits):
    """Two pixels of the levels 0 and 1, of which 1 is transparent."""
    row = bytes([0, 1]) if bits == 8 else bytes([1 << (8 - 2 * bits)])
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 2, 1, bits, 0, 0, 0, 0)),
        (b"tRNS", struct.pack(">H", 1)),
        (b"IDAT", zlib.compress(b"\0" + row)),
        (b"IEND", b""),
    ]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    assert load_images(tmp_path, shape=(1, 1, 2), convert=True).images.flatten().tolist() == [0, 255]


def deep_planes(path, level):
    """A TIFF of 4 × 4 pixels of 16 bits whose colours lie apart; Pillow names them R, G and B, as if they had 8."""
    many = {
        258: ("H", (16, 16, 16)),
        273: ("I", (170, 202, 234)),
        279: ("I", (32, 32, 32)),
    }  # of 10 entries: 134 bytes and 30 here
    one = {256: 4, 257: 4, 259: 1, 262: 2, 277: 3, 278: 4, 284: 2}
    entries, values = b"", b""
    for tag in sorted({*many, *one}):
        kind, of = many.get(tag, ("H", None))
        place = struct.pack("<I", 134 + len(values)) if of else struct.pack("<HH", one[tag], 0)
        values += struct.pack(f"<3{kind}", *of) if of else b""
        entries += struct.pack("<HHI", tag, 3 if kind == "H" else 4, len(of or "1")) + place
    pixels = np.full(48, level, "<u2").tobytes()
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, 10) + entries + b"\0" * 4 + values + b"\0" * 6 + pixels)


@pytest.mark.parametrize("convert", [False, True])
def test_colours_of_16_bits_are_not_cut_to_their_high_byte(tmp_path, convert):
    """128 of 255 is 32896 of 65535; the byte above 4095, which 12 bits reach, is 15."""
    sixteen_bit(tmp_path / "a.png", np.full((4, 4, 3), 4095, np.uint16))
    (tmp_path / "b.ppm").write_bytes(b"P6 4 4 65535\n" + np.full((4, 4, 3), 32896, ">u2").tobytes())
    deep_planes(tmp_path / "c.tif", 4095)
    save(tmp_path / "d.png", noise(4, 4, 3))
    with pytest.raises(
        InputError,
        match=r"3 of 4 images cannot be used:\n  a.png: mode RGB of 16 bits .*\n  b.ppm: mode RGB of 16.*\n  c.tif: mode RGB of 16 bits",
    ):
        load_images(tmp_path, shape=(3, 4, 4), convert=convert)


def test_a_bitmap_of_16_bits_for_three_colours_has_8_or_fewer_for_each(tmp_path):
    """5 + 6 + 5 bits: red alone is 31 of 31."""
    head = struct.pack("<2sIHHI", b"BM", 14 + 40 + 12 + 16, 0, 0, 14 + 40 + 12)
    about = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 16, 3, 16, 0, 0, 0, 0) + struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    (tmp_path / "a.bmp").write_bytes(head + about + b"\x00\xf8" * 4 + b"\0" * 8)
    found = load_images(tmp_path).images[0]
    assert found[0].unique().tolist() == [255] and found[1:].unique().tolist() == [0]


def test_folders_that_are_no_classes_are_said_to_be_none(tmp_path, capsys):
    for name in (
        "tree/3/a.png",
        "tree/8/b.png",
        "wrap/images/3/a.png",
        "wrap/images/8/b.png",
        "deep/cat/1/a.png",
        "deep/dog/2/b.png",
    ):
        save(tmp_path / name, noise(3, 3))
    assert load_images(tmp_path / "tree").class_names == ("3", "8") and load_images(tmp_path / "deep").class_names == (
        "cat",
        "dog",
    )
    assert load_images(tmp_path / "tree" / "3").labels is None
    assert capsys.readouterr().err == ""
    assert load_images(tmp_path / "wrap").class_names == ("images",)
    said = capsys.readouterr().err
    assert "all images are of one class, images, the only folder in it; the folders 3, 8 below are no classes" in said
    assert said.endswith(f"give {tmp_path / 'wrap' / 'images'}.\n")
    save(tmp_path / "tree" / "cover.png", noise(3, 3))
    assert load_images(tmp_path / "tree").labels is None
    assert "cover.png lies beside the folders 3, 8, so that these are no classes" in capsys.readouterr().err

"""Image folders and configurations as they come, made up by hypothesis: read, or refused with every culprit named."""

import io
import os
import shutil
import string
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vdu.cli import SETTINGS, main
from vdu.commands.options import to_toml
from vdu.core.errors import InputError
from vdu.data.sources import load_images

QUICK = settings(
    max_examples=60 * int(os.environ.get("VDU_CASES", "1")), deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
SHAPE = (1, 8, 8)


def picture(mode: str, size: tuple[int, int], kind: str) -> bytes:
    content = io.BytesIO()
    pixels = np.arange(size[0] * size[1], dtype=np.uint8).reshape(size[1], size[0])
    Image.fromarray(pixels).convert(mode).save(content, kind)
    return content.getvalue()


def transparent() -> bytes:
    content = io.BytesIO()
    Image.new("L", (8, 8), 3).save(content, "PNG", transparency=3)
    return content.getvalue()


FITS, CONVERTS, BROKEN, PASSED_OVER, STRANGER = "fits", "converts", "broken", "passed over", "stranger"
# ending, content, what it is to a model of 1×8×8
CONTENTS = {
    "grey": (".png", picture("L", (8, 8), "PNG"), FITS),
    "photograph": (".jpg", picture("L", (8, 8), "JPEG"), FITS),
    "bitmap": (".BMP", picture("L", (8, 8), "BMP"), FITS),
    "colour": (".png", picture("RGB", (8, 8), "PNG"), CONVERTS),
    "alpha": (".png", picture("RGBA", (8, 8), "PNG"), CONVERTS),
    "two levels": (".png", picture("1", (8, 8), "PNG"), CONVERTS),
    "palette": (".png", picture("P", (8, 8), "PNG"), CONVERTS),
    "grey GIF": (".gif", picture("L", (8, 8), "GIF"), FITS),
    "larger": (".png", picture("L", (9, 8), "PNG"), CONVERTS),
    "other name": (".png", picture("L", (8, 8), "TIFF"), FITS),
    "cut": (".png", picture("L", (8, 8), "PNG")[:50], BROKEN),
    "empty": (".png", b"", BROKEN),
    "text": (".jpeg", b"not a picture", BROKEN),
    "caption": (".txt", b"a cat", PASSED_OVER),
    "table": (".csv", b"a,b", PASSED_OVER),
    "bare text": ("", b"P5 BMW GIF", PASSED_OVER),
    "archive": (".zip", b"PK", STRANGER),
    "program": (".exe", b"MZ", STRANGER),
    "bare program": ("", b"MZ\0\0", STRANGER),
    "no suffix": ("", picture("L", (8, 8), "PNG"), FITS),
    "two suffixes": (".png.txt", picture("L", (8, 8), "PNG"), FITS),
    "another suffix": (".dat", picture("L", (8, 8), "JPEG"), FITS),
    "a dot": (".", picture("RGB", (8, 8), "PNG"), CONVERTS),
    "cut under another name": (".json", picture("L", (8, 8), "PNG")[:30], BROKEN),
    "transparent colour": (".png", transparent(), CONVERTS),
}
NAMES = st.text(st.sampled_from("aé猫🐈 '%[]*~$&;-_ß\u202e" + string.ascii_letters), min_size=1, max_size=12).filter(
    lambda name: name.strip() and not name.startswith("__MACOSX")
)
FILES = st.dictionaries(NAMES, st.tuples(st.sampled_from(sorted(CONTENTS)), st.booleans()), max_size=6)


@QUICK
@given(files=FILES, convert=st.booleans(), linked=st.booleans())
def test_a_folder_is_read_whole_or_refused_with_all_its_culprits(tmp_path, files, convert, linked):
    root, target = tmp_path / "images", tmp_path / "elsewhere.png"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    target.write_bytes(CONTENTS["grey"][1])
    kinds: dict[str, str] = {}
    for name, (content, hidden) in files.items():
        ending, data, kind = CONTENTS[content]
        path = root / f"{'.' if hidden else ''}{name}{ending}"
        path.write_bytes(data)
        if not hidden:
            kinds[path.name] = kind
    if linked:  # a link to an image is followed, to nothing or to a folder not
        (root / "link to an image.png").symlink_to(target)
        kinds["link to an image.png"] = FITS
    passed_over = list(kinds.values()).count(PASSED_OVER)
    hidden = sum(hidden for _, hidden in files.values())
    good = {FITS, CONVERTS} if convert else {FITS}
    images = sorted(name for name, kind in kinds.items() if kind in {FITS, CONVERTS, BROKEN})
    strangers = [name for name, kind in kinds.items() if kind == STRANGER]
    culprits = strangers or [name for name in images if kinds[name] not in good]
    if culprits or not images:
        with pytest.raises(InputError, match="cannot be read|cannot be used|holds no image files") as refused:
            load_images(str(root), shape=SHAPE, convert=convert)
        for name in culprits:
            assert name in str(refused.value)
    else:
        found = load_images(str(root), shape=SHAPE, convert=convert)
        assert list(found.names or ()) == images and found.shape == SHAPE
        assert found.passed_over == {kind: n for kind, n in (("hidden", hidden), ("text", passed_over)) if n}


@pytest.mark.parametrize("target", ["nowhere.png", "."])
def test_a_link_to_nothing_or_to_a_folder_is_refused(tmp_path, target):
    (tmp_path / "a.png").write_bytes(CONTENTS["grey"][1])
    (tmp_path / "b.png").symlink_to(target)
    with pytest.raises(InputError, match=r"(?s)b\.png.*a link to a folder, or to nothing, is not followed"):
        load_images(str(tmp_path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path):
    (tmp_path / "a.png").write_bytes(CONTENTS["grey"][1])
    os.mkfifo(tmp_path / "b.png")
    with pytest.raises(InputError, match=r"(?s)1 of 2 files are of a kind that cannot be read.*b\.png"):
        load_images(str(tmp_path))


@pytest.mark.skipif(
    not os.supports_bytes_environ or (not os.path.supports_unicode_filenames and os.name == "nt"), reason="POSIX"
)
def test_a_name_that_is_no_text_is_kept_apart(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(CONTENTS["grey"][1])
    assert len(load_images(str(tmp_path))) == 1


# configurations

REQUIRED = {
    "demo": 'output_dir = "o"\n', "pretrain": 'data = "digits"\noutput_dir = "o"\n', "judge": 'data = "digits"\noutput_dir = "o"\n',
    "unlearn": 'pipeline = "p"\nforget = "f"\noutput_dir = "o"\n', "sample": 'pipeline = "p"\noutput_dir = "o"\n',
}  # fmt: skip
VALUES = st.one_of(
    st.integers(), st.floats(), st.booleans(), st.text(max_size=8), st.lists(st.integers(), max_size=2), st.just({"a": 1}),
    st.sampled_from([-1, 0, 2**63, "nan", "latest", [["a"]], "", "\n"]),
)  # fmt: skip


def run_config(verb: str, text: str, folder: Path, capsys) -> tuple[int, str, str]:
    (folder / "c.toml").write_text(text, encoding="utf-8")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([verb, "--config", str(folder / "c.toml"), "--dry-run"])
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out, said.err


@pytest.mark.usefixtures("unchecked")
@QUICK
@given(data=st.data())
def test_a_setting_is_taken_as_it_is_or_refused_by_name(tmp_path, capsys, data):
    import tomli_w

    verb = data.draw(st.sampled_from(sorted(REQUIRED)))
    known = [name for name in SETTINGS[verb].__dataclass_fields__ if name not in tomllib.loads(REQUIRED[verb])]
    name = data.draw(st.one_of(st.sampled_from(known), st.text("abcxyz_", min_size=1, max_size=9)))
    value = data.draw(VALUES)
    code, out, err = run_config(verb, REQUIRED[verb] + tomli_w.dumps({name: value}), tmp_path, capsys)
    assert code in {0, 2} and "Traceback" not in err
    if code == 2:
        assert out == "" and err
    else:
        assert name in known
        shown = tomllib.loads(out)  # what is accepted can be given again
        assert run_config(verb, out, tmp_path, capsys)[0] == 0
        if isinstance(value, int | float) and isinstance(shown.get(name), int | float) and value == value:  # not a NaN
            same = (
                float if isinstance(value, float) or isinstance(shown[name], float) else int
            )  # beyond 2**53 a float rounds
            assert same(shown[name]) == same(value)


@pytest.mark.parametrize("verb", sorted(REQUIRED))
@pytest.mark.parametrize(
    "text", ["9" * 5000, "a = " + "9" * 5000, "a = " + "[" * 3000, "\0", "a = 1\na = 2", "[[a]]\n[a]"]
)
def test_what_is_no_toml_is_refused(tmp_path, capsys, verb, text):
    code, out, err = run_config(verb, text, tmp_path, capsys)
    assert (code, out) == (2, "") and "not a TOML file" in err


def test_the_settings_that_a_run_keeps_are_read_back_as_they_were(tmp_path):
    name = SETTINGS["unlearn"](
        pipeline=Path('p "q" \\ é'), forget="猫\n", output_dir=Path("o"), option=("a='b'", 'c="d"')
    )
    values = tomllib.loads(to_toml(name))
    assert (values["pipeline"], values["forget"], values["option"]) == ('p "q" \\ é', "猫\n", ["a='b'", 'c="d"'])

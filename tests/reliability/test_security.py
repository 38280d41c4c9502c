"""What a hostile file or folder could try: run code, escape its folder, reach a program outside."""

import ast
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest

import vdu
from vdu.core.errors import InputError
from vdu.data.cifar import fetch_cifar10
from vdu.data.sources import load_images
from vdu.models.pipelines import load_pipeline

SOURCES = sorted(Path(vdu.__file__).parent.rglob("*.py"))
FORBIDDEN_IMPORTS = {"dill", "joblib", "cloudpickle", "shelve", "marshal"}
FORBIDDEN_CALLS = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "torch.jit.load", "torch.hub.load", "pd.read_pickle", "eval", "exec",
    "os.system", "tar.extractall", "tar.extract", "archive.extractall", "zipfile.ZipFile", "yaml.load", "yaml.unsafe_load",
}  # fmt: skip


def loads_of_code(source: str) -> list[str]:
    """Calls and imports that could run what a file holds."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [name for name in names if name.split(".")[0] in FORBIDDEN_IMPORTS]
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name in FORBIDDEN_CALLS or name.endswith((".extractall", ".load_module")):
            found.append(name)
        if name == "torch.load" and options.get("weights_only") != "True":
            found.append("torch.load without weights_only=True")
        if options.get("allow_pickle", "False") != "False" or options.get("trust_remote_code", "False") != "False":
            found.append(f"{name} with {options}")
        if options.get("shell", "False") != "False":
            found.append(f"{name} through a shell")
        tensors = "tokenizer" not in name  # these are read from JSON and text
        if tensors and name.endswith("from_pretrained") and options.get("use_safetensors") != "True":
            found.append(f"{name} without use_safetensors=True")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_source_loads_code(path):
    assert loads_of_code(path.read_text("utf-8")) == []


def test_torch_load_is_called_by_explicit_importers_alone():
    calling = [path.stem for path in SOURCES if "torch.load" in calls(path.read_text("utf-8"))]
    assert set(calling) <= {"importers", "inception", "feature_networks"}  # each names its files


def calls(source: str) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)}


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(p)", "torch.load(p, weights_only=False)", "pickle.loads(b)", "np.load(p, allow_pickle=True)", "import joblib",
        "subprocess.run(c, shell=True)", "DDPMPipeline.from_pretrained(p)", "tar.extractall(p)", "eval(s)",
        "datasets.load_dataset(n, trust_remote_code=True)",
    ],
)  # fmt: skip
def test_the_scan_sees_what_is_forbidden(source):
    assert loads_of_code(source)


# archives


def archive(members: list[tuple[str, bytes, str]]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, kind, target in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            data = b"evil" if kind == tarfile.REGTYPE else b""
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return content.getvalue()


@pytest.mark.parametrize(
    ("name", "kind", "target"),
    [
        ("../../escaped", tarfile.REGTYPE, ""),
        ("/tmp/vdu-escaped", tarfile.REGTYPE, ""),
        ("a/../../data_batch_1.bin", tarfile.REGTYPE, ""),
        ("data_batch_1.bin", tarfile.SYMTYPE, "/etc/passwd"),
        ("data_batch_1.bin", tarfile.LNKTYPE, "/etc/passwd"),
        ("data_batch_1.bin", tarfile.CHRTYPE, ""),
        ("data_batch_1.bin", tarfile.FIFOTYPE, ""),
        ("data_batch_1.bin", tarfile.DIRTYPE, ""),
    ],
)
def test_nothing_of_an_archive_escapes(tmp_path, name, kind, target):
    place = tmp_path / "in"
    place.mkdir()
    (place / "a.tar.gz").write_bytes(archive([(name, kind, target)]))
    out = tmp_path / "deep" / "er" / "out"
    with pytest.raises(InputError, match=r"the archive lacks data_batch_1\.bin|this is not the published batch"):
        fetch_cifar10(out, [(place / "a.tar.gz").as_uri()], {"data_batch_1.bin": "0" * 32})
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar.gz", "deep", "er", "in", "out"]
    assert not Path("/tmp/vdu-escaped").exists()


# images


def test_no_outside_program_is_called_for_an_image(tmp_path, monkeypatch):
    """Pillow gives EPS to Ghostscript; here gs is a program that would leave a trace."""
    (tmp_path / "bin").mkdir()
    for name in ("gs", "gswin64c"):
        program = tmp_path / "bin" / name
        program.write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "images").mkdir()
    text = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "images" / "a.png").write_text(text)
    for convert in (False, True):
        with pytest.raises(InputError, match=r"a\.png: unreadable or cut short"):
            load_images(str(tmp_path / "images"), shape=(1, 8, 8), convert=convert)
    assert not (tmp_path / "called").exists()


def test_an_image_folder_does_not_lead_outside(tmp_path):
    from PIL import Image

    (tmp_path / "outside").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "outside" / "secret.png")
    (tmp_path / "images").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match="a link to a folder, or to nothing, is not followed"):
        load_images(str(tmp_path / "images"))


# pipelines

MARK = "open({marker!r}, 'w').write('ran')\nfrom diffusers import UNet2DModel as Evil\n"


def hostile(kind: str, path: Path, marker: Path) -> None:
    """Change a sound pipeline folder so that a careless loader would run its code or leave the folder."""
    code, index = MARK.format(marker=str(marker)), json.loads((path / "model_index.json").read_text())
    if kind == "code beside the weights":
        (path / "unet" / "evil.py").write_text(code)
        index["unet"] = ["evil", "Evil"]
    elif kind == "a module on the path":
        (path / "evilmodule.py").write_text(code)
        index["unet"] = ["evilmodule", "Evil"]
    elif kind == "a class of the standard library":
        index["unet"] = ["subprocess", "Popen"]
    elif kind == "a pipeline of its own":
        (path / "pipeline.py").write_text(code)
        index["_class_name"] = ["pipeline", "Evil"]
    elif kind == "a part outside":
        index["../../outside"] = index.pop("unet")
    elif kind == "a shard outside":
        weights = path / "unet" / "diffusion_pytorch_model.safetensors"
        shutil.move(weights, path.parent / "secret.safetensors")
        table = {"weight_map": {"conv_in.weight": "../../secret.safetensors"}, "metadata": {}}
        (path / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(table))
    elif kind == "pickled weights":
        import pickle

        class Evil:
            def __reduce__(self):
                return open, (str(marker), "w")

        (path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
        (path / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    (path / "model_index.json").write_text(json.dumps(index))


KINDS = [
    "code beside the weights", "a module on the path", "a class of the standard library", "a pipeline of its own", "a part outside",
    "a shard outside", "pickled weights",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_pipeline_is_refused_and_runs_nothing(make_pipeline, tmp_path, monkeypatch, kind):
    path, marker = tmp_path / "pipeline", tmp_path / "ran"
    make_pipeline().save_pretrained(path)
    load_pipeline(path)  # sound so far
    hostile(kind, path, marker)
    monkeypatch.syspath_prepend(path)
    with pytest.raises(InputError, match="pipeline"):
        load_pipeline(path)
    assert not marker.exists()


def test_a_judge_that_is_a_link_to_a_stranger_is_checked_like_any_other(tmp_path):
    from vdu.judges.classifier import load_judge

    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "judge.json").symlink_to("/etc/passwd")
    with pytest.raises(InputError, match=r"judge\.json: not valid JSON") as refused:
        load_judge(tmp_path / "judge")
    assert "root:" not in str(refused.value)  # and says nothing of what is there


# names


@pytest.mark.parametrize("name", ["../escaped", "/tmp/vdu-escaped", "a/../../escaped", "..", "with\nnewline"])
def test_names_in_a_table_do_not_lead_outside_the_output(command, tmp_path, name, capsys):
    """Names in a table become paths of cells; the table is the user's own, but may come from elsewhere."""
    from killing import TABLE

    out = tmp_path / "deep" / "out"
    for text in (
        TABLE.replace('"smoke"', '"smoke"').replace("digits", json.dumps(name)[1:-1]),
        TABLE.replace('forget = ["3"]', f"forget = [{json.dumps(name)}]").replace(
            'forget = "3"', f"forget = {json.dumps(name)}"
        ),
    ):
        (tmp_path / "t.toml").write_text(text.replace("PIPELINE", "train"), encoding="utf-8")
        assert command("reproduce", tmp_path / "t.toml", "--scale", "smoke", "--output-dir", out) == 2
        assert "Traceback" not in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*")) in (
        ["t.toml"],
        ["deep", "out", "t.toml"],
        ["cells", "deep", "out", "t.toml"],
    )
    assert not Path("/tmp/vdu-escaped").exists()

"""Who may import whom: the allow table of the house, read from the source with ``ast``."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import vdu

ROOT = Path(vdu.__file__).parent
ALLOWED = {
    "core": set(),
    "data": {"core"},
    "diffusion": {"core"},
    "models": {"core", "diffusion", "zoo"},
    "posterior": {"core", "diffusion"},
    "methods": {"core", "diffusion", "posterior"},
    "metrics": {"core", "data"},
    "training": {"core", "data", "diffusion", "models"},  # models: the identity of what is trained
    "zoo": {"core"},
    "replay": {"core", "data", "diffusion", "models", "training"},
    # report: a new pipeline is saved with its model card, from the command line and from Python alike
    "unlearning": {"core", "data", "diffusion", "methods", "models", "posterior", "replay", "reporting", "training"},
    "judges": {"core", "data", "diffusion", "metrics", "models", "replay", "training", "zoo"},
    "probes": {"core", "data", "diffusion", "metrics", "models", "training"},
    "reporting": {"core"},
    # the report: evidence has its five answers and its page; methods and unlearning: methods are compared by what they make
    "evaluation": {
        "core", "data", "diffusion", "judges", "methods", "metrics", "models", "probes", "replay", "reporting", "training",
        "unlearning",
    },
    "commands": {
        "core", "data", "diffusion", "evaluation", "judges", "methods", "metrics", "models", "posterior", "probes", "replay",
        "reporting", "training", "unlearning", "zoo",
    },
    "paper": {
        "commands", "core", "data", "diffusion", "evaluation", "judges", "methods", "metrics", "models", "posterior",
        "replay", "training", "unlearning", "zoo",
    },
    "explore": {"commands", "core", "data", "diffusion", "evaluation", "judges", "metrics", "models", "reporting", "training"},
    "api": {"commands", "core", "diffusion", "models"},
    "cli": {"commands", "core", "explore", "paper"},
    "__main__": {"cli"},
}  # fmt: skip
CORE = {
    "errors": set(),
    "paths": {"errors"},
    "records": {"errors"},
    "runs": {"errors", "paths", "processes", "records"},
}  # inside core: no third-party library, and only these
TORCH = {"torch", "torchvision", "torchmetrics", "diffusers", "accelerate", "transformers"}
HEAVY = TORCH | {"numpy", "sklearn", "matplotlib", "scipy", "PIL", "datasets", "jinja2"}
DIFFUSERS_ROOMS = {"diffusion", "models", "commands"}


def imports(source: str, module: str, *, top_only: bool = False) -> set[str]:
    """Every module that a source file imports, as absolute dotted names; ``module`` is its own, for relative imports."""
    found: set[str] = set()
    tree = ast.parse(source)
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(module.split(".")[: -node.level]) if node.level else ""
            origin = ".".join(part for part in (base, node.module) if part)
            found.add(origin)
            if origin.count(".") < 2:  # "from vdu.commands import pretrain" imports a module
                found |= {f"{origin}.{alias.name}" for alias in node.names}
    return found


def room(module: str) -> str:
    return module.split(".")[1] if module.startswith("vdu.") else module.split(".")[0]


def complaints(source: str, module: str) -> list[str]:
    """What a file imports against the table."""
    own, names = room(module), imports(source, module)
    inside = {room(name) for name in names if name.startswith("vdu.")} | ({"vdu"} & names)
    wrong = [f"{module} imports vdu.{other}" for other in sorted(inside - ALLOWED[own] - {own})]
    libraries = {name.split(".")[0] for name in names if not name.startswith("vdu")}
    if module in {f"vdu.core.{name}" for name in CORE}:
        wrong += [f"{module} imports {name}" for name in sorted(libraries - sys.stdlib_module_names)]
        inner = {name.split(".")[2] for name in names if name.startswith("vdu.core.")}
        wrong += [f"{module} imports vdu.core.{name}" for name in sorted(inner - CORE[module.split(".")[2]])]
    if own in {"reporting", "cli"}:
        wrong += [f"{module} imports {name}" for name in sorted(libraries & TORCH)]
        wrong += [f"{module} imports {name}" for name in names if name.startswith("safetensors.torch")]
    if own not in DIFFUSERS_ROOMS and "diffusers" in libraries:
        wrong.append(f"{module} imports diffusers")
    return wrong


def modules() -> dict[str, str]:
    """Module name → source, without the package's own ``__init__`` (which imports lazily, by name)."""
    files = {path.relative_to(ROOT.parent).with_suffix(""): path for path in ROOT.rglob("*.py")}
    names = {".".join(key.parts).removesuffix(".__init__"): path.read_text("utf-8") for key, path in files.items()}
    return {name: source for name, source in names.items() if name != "vdu"}


MODULES = modules()


def test_every_room_is_in_the_table():
    assert {room(name) for name in MODULES} <= set(ALLOWED)
    assert len(MODULES) > 30


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_follow_the_table(name):
    assert complaints(MODULES[name], name) == []


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("vdu.posterior.fisher", "from vdu.data.images import ImageSet", "imports vdu.data"),
        ("vdu.methods.vdu", "def f():\n    from vdu.training.loop import train", "imports vdu.training"),
        ("vdu.diffusion.sampling", "from ..models import denoiser", "imports vdu.models"),
        ("vdu.data.images", "import vdu", "imports vdu.vdu"),
        ("vdu.cli", "from vdu.models.pipelines import load_pipeline", "imports vdu.models"),
        ("vdu.reporting.charts", "import torch.nn", "imports torch"),
        ("vdu.reporting.charts", "from safetensors.torch import load_file", "imports safetensors.torch"),
        ("vdu.core.records", "import numpy as np", "imports numpy"),
        ("vdu.core.records", "from vdu.core.runs import Run", "imports vdu.core.runs"),
        ("vdu.commands.evaluate", "from vdu.paper.tables import Row", "imports vdu.paper"),
        ("vdu.training.loop", "def f():\n    from diffusers import DDPMPipeline", "imports diffusers"),
    ],
)
def test_the_reader_sees_what_is_forbidden(module, source, complaint):
    assert any(complaint in line for line in complaints(source, module))


def test_the_table_has_no_cycle():
    order = list(TopologicalSorter(ALLOWED).static_order())
    assert order.index("core") < order.index("diffusion") < order.index("methods") < order.index("commands")
    with pytest.raises(CycleError, match="cycle"):
        list(TopologicalSorter(ALLOWED | {"diffusion": {"methods"}}).static_order())


def test_modules_do_not_import_each_other_in_a_circle():
    graph = {name: imports(source, name, top_only=True) & set(MODULES) for name, source in MODULES.items()}
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_init_files_hold_nothing_but_a_docstring():
    """But of metrics, whose functions are public under one name: ``vdu.metrics.frechet_distance``."""
    for path in set(ROOT.glob("*/__init__.py")) - {ROOT / "metrics" / "__init__.py"}:
        tree = ast.parse(path.read_text("utf-8"))
        assert ast.get_docstring(tree) and len(tree.body) == 1, path


def test_one_place_steps_an_optimiser():
    steps = []
    for name, source in MODULES.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "step":
                steps += [name] if "optim" in ast.unparse(node.func.value) else []
    assert steps == ["vdu.training.loop"]


def test_importing_the_package_and_the_command_line_is_light():
    program = (
        "import sys, vdu, vdu.core.errors, vdu.core.records, vdu.commands.settings, vdu.cli\n"
        f"print(sorted(set({sorted(HEAVY)!r}) & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"

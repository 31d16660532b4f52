"""Who may know whom, checked on the source text, so that it holds without any accelerator."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BACKEND = {"torch", "numpy", "unipruning_core", "unipruning_kernels"}
CORE = {
    "torch",
    "transformers",
    "datasets",
    "safetensors",
    "pluggy",
    "numpy",
    "tqdm",
    "huggingface_hub",
    "unipruning_core",
}
# the rooms of the core and who may know whom; every room knows the contract, the modules beside the rooms
ROOMS: dict[str, set[str]] = {
    "storage": set(),
    "distributed": set(),
    "selection": {"distributed"},
    "sparsity": {"storage"},
    "models": {"storage", "distributed"},
    "data": {"storage", "models", "distributed"},
    "search": {"storage", "distributed", "selection", "sparsity", "models", "data"},
    "projection": {"storage", "distributed", "selection", "sparsity", "search"},
    "jobs": {"storage", "distributed", "sparsity", "models", "data", "search", "projection"},
    "tuning": {"storage", "models", "projection"},
    "evaluation": {"storage", "models", "data", "jobs"},
    "sharing": {"storage", "models", "projection", "export"},
    "export": {"storage", "sparsity", "models", "projection"},
    "tools": {"storage", "sparsity", "models", "data", "search", "projection", "jobs"},
    "compare": {
        *("storage", "distributed", "selection", "sparsity", "models", "data", "search", "projection", "jobs", "tools")
    },
    "report": {"storage", "search", "projection", "tools"},
    "testing": set(),
    "cli": {
        *("storage", "distributed", "sparsity", "models", "data", "search", "projection", "jobs", "tools", "compare"),
        *("evaluation", "export", "report", "sharing", "testing"),
    },
}
CORE_PACKAGES = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "unipruning_core").rglob("__init__.py")}
ALLOWED = {
    "unipruning": {"unipruning_core"},
    **dict.fromkeys(sorted(CORE_PACKAGES), CORE),
    "unipruning_core/testing": CORE | {"pytest", "unipruning_kernels"},
    "kernels/unipruning_kernels": {"torch", "triton", "unipruning_kernels"},
    "backends/cpu/unipruning_cpu": BACKEND | {"unipruning_cpu"},
    "backends/cuda/unipruning_cuda": BACKEND | {"triton", "unipruning_cuda"},
    "backends/npu/unipruning_npu": BACKEND | {"torch_npu", "unipruning_npu"},
}
# one module each may import what the rest of its package may not
EXTRA = {
    # the demonstration's model arrives in the format that gguf reads; its download is locked as huggingface_hub's are
    "unipruning_core/tools/demo/assets.py": {"gguf", "filelock"},
    # results in GGUF are read only where somebody has one
    "unipruning_core/tools/zeros/gguf_file.py": {"gguf"},
    # and written only where somebody asks for one
    "unipruning_core/export/gguf_file.py": {"gguf"},
    "unipruning_core/export/gguf_model.py": {"gguf"},
    "unipruning_core/export/gguf_tokenizer.py": {"gguf"},
    # only a recipe needs it
    "unipruning_core/cli/recipe.py": {"yaml"},
    # only the picture of a benchmark needs it, and says so where it is missing
    "unipruning_core/tools/bench/plot.py": {"matplotlib"},
    # what datasets reads tables with; a local one needs no more of datasets, whose import takes far longer
    "unipruning_core/data/tables.py": {"pyarrow"},
    # the one library at hand that decompresses zstd
    "unipruning_core/data/files.py": {"pyarrow"},
    # and that compresses it
    "unipruning_core/tools/size.py": {"pyarrow"},
    # tasks are those of lm-eval, which only they need
    "unipruning_core/evaluation/harness.py": {"lm_eval"},
    # cards begin with YAML
    "unipruning_core/projection/card.py": {"yaml"},
    # whose own arithmetic makes its codes
    "unipruning_core/export/compressed.py": {"compressed_tensors"},
    # results as tables, where one is asked for
    "unipruning_core/frames.py": {"pandas"},
    # what fills the page in, and is installed with torch
    "unipruning_core/report/page.py": {"jinja2", "markupsafe"},
    # figures as PNG, where it is installed
    "unipruning_core/report/png.py": {"matplotlib"},
    # only a model over several devices needs it
    "unipruning_core/models/placement.py": {"accelerate"},
}
VENDOR = re.compile(r"\b(cuda|npu|triton|torch_npu)\b", re.IGNORECASE)
# string literals of the core in which a vendor's word is not a device
VENDOR_LITERALS: dict[str, set[str]] = {}
CONTAINERS = ["backends", "backends/cpu", "backends/cuda", "backends/npu", "kernels"]
LARGEST = 300


def modules_of(package: str) -> list[Path]:
    return sorted((ROOT / package).glob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


ALL = [path for package in ALLOWED for path in modules_of(package)]
IN_CORE = [path for path in ALL if path.is_relative_to(ROOT / "unipruning_core")]
every_module = pytest.mark.parametrize("path", ALL, ids=name_of)
every_core_module = pytest.mark.parametrize("path", IN_CORE, ids=name_of)


def is_command_line(path: Path) -> bool:
    return room_of(path) == "cli"


def room_of(path: Path) -> str:
    """The room of a module of the core; "" for the contract, the modules beside the rooms."""
    inner = path.relative_to(ROOT / "unipruning_core").parts
    if inner == ("__main__.py",):
        return "cli"
    return inner[0] if len(inner) > 1 else ""


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path, *, at_run_time: bool = False) -> Iterator[str]:
    """Dotted names of all modules imported anywhere in the file; ``from a import b`` counts as a.b.

    ``at_run_time`` leaves out what only a type checker reads.
    """
    tree = tree_of(path)
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
        if at_run_time
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno} imports relatively; write the whole name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant))


def core_modules_behind(names: Iterable[str]) -> Iterator[Path]:
    """The modules of the core that these imports reach; a package counts as its ``__init__.py``."""
    for name in names:
        if name.split(".")[0] != "unipruning_core":
            continue
        for dotted in (name, name.rpartition(".")[0]):
            path = ROOT.joinpath(*dotted.split("."))
            if (module := path.with_suffix(".py")) in IN_CORE or (module := path / "__init__.py") in IN_CORE:
                yield module
                break


def literals_of(path: Path) -> Iterator[ast.Constant]:
    """Every string constant that is no docstring."""
    tree = tree_of(path)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node


def test_every_package_has_modules_to_check():
    assert all(modules_of(package) for package in ALLOWED)
    packages = {path.parent for top in CONTAINERS for path in (ROOT / top).rglob("__init__.py")}
    assert {ROOT / package for package in ALLOWED if not package.startswith("unipruning")} == packages


@pytest.mark.parametrize("package", ALLOWED)
def test_package_imports_only_what_it_may(package):
    for path in modules_of(package):
        imported = {name.partition(".")[0] for name in imports_of(path)} - sys.stdlib_module_names
        strangers = imported - ALLOWED[package] - EXTRA.get(name_of(path), set())
        assert not strangers, f"{name_of(path)} may not import {sorted(strangers)}"


@every_core_module
def test_core_names_no_vendor(path):
    allowed = VENDOR_LITERALS.get(name_of(path), set())
    found = [node for node in literals_of(path) if VENDOR.search(node.value) and node.value not in allowed]
    assert not found, f"{name_of(path)}:{found[0].lineno} names a vendor: {found[0].value!r}"


@every_core_module
def test_core_reaches_for_no_vendor_attribute(path):
    found = [
        node
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and node.attr in {"cuda", "npu", "is_cuda", "is_npu"}
    ]
    assert not found, f"{name_of(path)}:{found[0].lineno} reaches for .{found[0].attr}; ask torch.accelerator"


@every_core_module
def test_room_knows_only_the_rooms_below_it(path):
    room = room_of(path)
    reached = {room_of(module) for module in core_modules_behind(imports_of(path))} - {"", room}
    strangers = reached - ROOMS.get(room, set())
    assert not strangers, f"{name_of(path)} is in {room or 'the contract'!r} and may not know {sorted(strangers)}"


def test_every_room_has_its_rule():
    assert {path.parent.name for path in (ROOT / "unipruning_core").glob("*/__init__.py")} == set(ROOMS)


def test_rooms_lie_on_floors():
    assert list(TopologicalSorter(ROOMS).static_order())[-1] == "cli"


def test_no_module_of_the_core_is_in_a_circle():
    graph = {path: set(core_modules_behind(imports_of(path, at_run_time=True))) - {path} for path in IN_CORE}
    assert len(list(TopologicalSorter(graph).static_order())) == len(IN_CORE)


@pytest.mark.parametrize("package", ALLOWED)
def test_only_the_core_knows_its_command_line(package):
    if not package.startswith("unipruning_core"):
        reaches = {name for path in modules_of(package) for name in imports_of(path) if ".cli" in name}
        assert not reaches


@every_module
def test_no_module_prints_but_the_command_line(path):
    prints = [
        node.lineno
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not prints or is_command_line(path), f"{name_of(path)}:{prints} prints"


@every_module
def test_module_says_in_its_first_line_what_it_is(path):
    assert path.read_text(encoding="utf-8").startswith(('"""', 'r"""')), f"{name_of(path)} starts without a docstring"


@every_module
def test_module_is_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LARGEST


@pytest.mark.parametrize("folder", CONTAINERS)
def test_container_is_no_package(folder):
    assert (ROOT / folder).is_dir()
    assert not (ROOT / folder / "__init__.py").exists(), f"{folder}/ would take the name of somebody else's package"


@pytest.mark.parametrize(
    "code",
    [
        "import unipruning, unipruning_core; assert 'prune' in dir(unipruning)",
        "import unipruning_core.cli.main",
        "import unipruning_core.registry",
        "import unipruning_core.testing.runner",
        "from unipruning_core.registry import Catalogue; assert {'cpu', 'cuda', 'npu'} <= set(Catalogue().specs)",
    ],
    ids=["core", "cli", "registry", "runner", "discovery"],
)
def test_starting_up_imports_nothing_heavy(code):
    heavy = "{'torch', 'triton', 'torch_npu', 'transformers', 'datasets', 'pyarrow', 'numpy'}"
    program = f"import sys; {code}; sys.exit(', '.join({heavy} & set(sys.modules)) or None)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr

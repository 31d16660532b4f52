"""The wheel holds our packages and nothing else, and asks for no more than it needs."""

from __future__ import annotations

import configparser
import email
import json
from collections.abc import Iterator
from email.message import Message
from zipfile import ZipFile

import pytest
from _wheels import ROOT, call
from packaging.requirements import Requirement

pytestmark = pytest.mark.packaging

PACKAGES = {
    **{
        path.parent.relative_to(ROOT).as_posix(): path.parent.relative_to(ROOT).as_posix()
        for top in ("unipruning", "unipruning_core")
        for path in (ROOT / top).rglob("__init__.py")
    },
    "unipruning_cpu": "backends/cpu/unipruning_cpu",
    "unipruning_cuda": "backends/cuda/unipruning_cuda",
    "unipruning_npu": "backends/npu/unipruning_npu",
    "unipruning_kernels": "kernels/unipruning_kernels",
}


@pytest.fixture(scope="module")
def archive(wheel) -> Iterator[ZipFile]:
    with ZipFile(wheel) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(archive) -> Message:
    (path,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_string(archive.read(path).decode())


@pytest.fixture(scope="module")
def requirements(metadata) -> list[Requirement]:
    return [Requirement(text) for text in metadata.get_all("Requires-Dist")]


@pytest.fixture(scope="module")
def entry_points(archive) -> configparser.ConfigParser:
    (path,) = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
    parser = configparser.ConfigParser()
    parser.read_string(archive.read(path).decode())
    return parser


def test_wheel_holds_exactly_the_sources_of_its_packages(archive, wheel):
    sources = {
        f"{package}/{path.name}"
        for package, folder in PACKAGES.items()
        for path in (wheel.parent / "source" / folder).iterdir()
        if path.suffix in {".py", ".c", ".json", ".html", ".css", ".js"} or path.name == "py.typed"
    }
    held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == sources
    assert {f"{package}/py.typed" for package in PACKAGES if "/" not in package} <= held
    assert {".c", ".html", ".css", ".js"} <= {name[name.rindex(".") :] for name in held if "py.typed" not in name}


def test_wheel_installs_no_top_level_name_of_others(archive):
    tops = {name.partition("/")[0] for name in archive.namelist()}
    names = {top for top in tops if not top.endswith(".dist-info")}
    assert names == {package for package in PACKAGES if "/" not in package}


def test_installed_wheel_prints_what_the_kernels_cost(scratch_python, tmp_path):
    printed = call(scratch_python, "-m", "unipruning_core.cli", "bench", "--static", cwd=tmp_path)
    assert printed.returncode == 0, printed.stdout
    assert "mirror_step" in printed.stdout
    assert "spills 0" in printed.stdout


def test_wheel_is_pure(wheel):
    assert wheel.name.endswith("-py3-none-any.whl")


def test_torch_is_not_pinned(requirements):
    (torch,) = (requirement for requirement in requirements if requirement.name == "torch")
    assert torch.marker is None
    assert {specifier.operator for specifier in torch.specifier} == {">="}


def test_no_vendor_package_is_a_base_requirement(requirements):
    base = {requirement.name for requirement in requirements if "extra" not in str(requirement.marker)}
    assert "torch" in base
    assert not base & {"triton", "torch-npu", "torch_npu", "lm-eval", "pytest", "gguf"}


@pytest.mark.parametrize(
    ("extra", "name"), [("cuda", "triton"), ("npu", "torch-npu"), ("eval", "lm-eval"), ("dev", "pytest")]
)
def test_extra_brings_its_package(metadata, requirements, extra, name):
    assert extra in metadata.get_all("Provides-Extra")
    brought = {
        requirement.name
        for requirement in requirements
        if requirement.marker and requirement.marker.evaluate({"extra": extra, "platform_system": "Linux"})
    }
    assert name in brought


def test_console_script_is_the_command_line(entry_points):
    assert dict(entry_points["console_scripts"]) == {"unipruning": "unipruning_core.cli.main:main"}


def test_entry_points_name_the_three_backends(entry_points):
    expected = {"cpu": "unipruning_cpu", "cuda": "unipruning_cuda", "npu": "unipruning_npu"}
    assert dict(entry_points["unipruning.backends"]) == expected


def test_entry_points_of_formats_name_what_the_core_describes(entry_points, scratch_python, tmp_path):
    expected = {"compressed-tensors", "gguf", "packed", "safetensors", "semi-structured"}
    assert set(entry_points["unipruning.exporters"]) == expected
    listed = call(scratch_python, "-m", "unipruning_core.cli", "export", "--json", cwd=tmp_path)
    formats = json.loads(listed.stdout)
    assert ({row["name"] for row in formats["formats"]}, formats["broken"]) == (expected, {})


def test_suite_is_not_loaded_into_every_pytest_run(entry_points):
    assert not entry_points.has_section("pytest11")

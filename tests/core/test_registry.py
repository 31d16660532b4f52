"""Finding and choosing a backend."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from unipruning_core import Backend, BackendSpec, Probe, hookimpl, registry
from unipruning_core.errors import BackendNotFoundError, BackendUnavailableError
from unipruning_core.registry import BACKEND_ENV, ENTRY_POINT_GROUP, Catalogue
from unipruning_kernels import reference


class Here(reference.Operations, Backend):
    name = "here"
    device_type = "cpu"


class There(Here):
    name = "there"


@dataclass
class Point:
    """An entry point that names ``plugin``, or fails to load with it."""

    name: str
    plugin: object = None
    value: str = ""
    loads: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.value = self.value or f"package_of_{self.name}"

    def load(self) -> object:
        self.loads.append(self.name)
        if isinstance(self.plugin, Exception):
            raise self.plugin
        return self.plugin


def plugin(name: str, priority: int = 0, probe: Probe | Exception | None = None, backend: str = "Here"):
    def ask() -> Probe:
        if isinstance(probe, Exception):
            raise probe
        return probe or Probe(True, f"device of {name}")

    spec = BackendSpec(name, "cpu", priority, f"{__name__}:{backend}", ask)
    return SimpleNamespace(unipruning_backend=hookimpl(lambda: spec))


@pytest.fixture
def catalogue(monkeypatch: pytest.MonkeyPatch):
    """Make a catalogue of the given entry points, in an environment that asks for nothing."""
    monkeypatch.delenv(BACKEND_ENV, raising=False)

    def make(*points: Point) -> Catalogue:
        def entry_points(*, group: str) -> list[Point]:
            assert group == ENTRY_POINT_GROUP
            return list(points)

        monkeypatch.setattr(registry, "entry_points", entry_points)
        return Catalogue()

    return make


@pytest.fixture
def two(catalogue) -> Catalogue:
    return catalogue(Point("here", plugin("here", 1)), Point("there", plugin("there", 2, backend="There")))


def test_auto_takes_the_highest_priority(two):
    assert isinstance(two.select(), There)


def test_environment_goes_before_auto(two, monkeypatch):
    monkeypatch.setenv(BACKEND_ENV, "here")
    assert type(two.select()) is Here


def test_argument_goes_before_environment(two, monkeypatch):
    monkeypatch.setenv(BACKEND_ENV, "here")
    assert isinstance(two.select("there"), There)


def test_argument_auto_overrides_the_environment(two, monkeypatch):
    monkeypatch.setenv(BACKEND_ENV, "here")
    assert isinstance(two.select("auto"), There)


def test_empty_environment_asks_for_nothing(two, monkeypatch):
    monkeypatch.setenv(BACKEND_ENV, "")
    assert isinstance(two.select(), There)


def test_equal_priorities_go_by_name(catalogue):
    points = Point("there", plugin("there", backend="There")), Point("here", plugin("here"))
    assert type(catalogue(*points).select()) is Here


@pytest.mark.parametrize("probe", [Probe(False, "no device"), OSError("no driver")], ids=["says no", "raises"])
def test_auto_passes_over_what_cannot_run(catalogue, probe):
    found = catalogue(Point("here", plugin("here", 0)), Point("there", plugin("there", 9, probe)))
    assert type(found.select()) is Here


def test_auto_says_which_backend_it_took_and_why_not_the_others(catalogue, caplog):
    found = catalogue(Point("here", plugin("here", 0)), Point("there", plugin("there", 9, Probe(False, "no device"))))
    with caplog.at_level("INFO", logger=registry.__name__):
        found.select()
    assert caplog.messages == ["skipping backend there: no device", "backend here (device of here)"]


def test_auto_without_any_backend_that_runs_gives_every_reason(catalogue):
    found = catalogue(
        Point("here", plugin("here", probe=Probe(False, "no device"))),
        Point("there", plugin("there", probe=OSError("no driver"))),
    )
    with pytest.raises(BackendUnavailableError, match="here: no device; there: its probe failed: no driver"):
        found.select()


def test_auto_without_plugins_says_so(catalogue):
    with pytest.raises(BackendUnavailableError, match="no backend is installed"):
        catalogue().select()


@pytest.mark.parametrize("by_environment", [False, True], ids=["argument", "environment"])
def test_named_backend_that_cannot_run_is_an_error_with_the_remedy(catalogue, monkeypatch, by_environment):
    found = catalogue(Point("here", plugin("here")), Point("there", plugin("there", 9, Probe(False, "buy a device"))))
    if by_environment:
        monkeypatch.setenv(BACKEND_ENV, "there")
    with pytest.raises(BackendUnavailableError, match="backend 'there' cannot run here: buy a device"):
        found.select(None if by_environment else "there")


def test_named_backend_whose_probe_raises_is_an_error(catalogue):
    found = catalogue(Point("here", plugin("here", probe=RuntimeError("no runtime"))))
    with pytest.raises(BackendUnavailableError, match="'here' cannot run here: its probe failed: no runtime"):
        found.select("here")


def test_unknown_name_lists_what_is_installed(two):
    with pytest.raises(BackendNotFoundError, match="no backend is called 'nowhere'; installed: here, there"):
        two.select("nowhere")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (ModuleNotFoundError("No module named 'vendor'"), "No module named 'vendor'"),
        (RuntimeError("beside the wrong torch"), "beside the wrong torch"),
        (SimpleNamespace(), "implements no unipruning_backend hook"),
        (SimpleNamespace(unipruning_backend=lambda: None), "implements no unipruning_backend hook"),
        (SimpleNamespace(unipruning_backend=hookimpl(lambda: 1 / 0)), "division by zero"),
    ],
    ids=["import error", "runtime error", "without hook", "unmarked hook", "hook that raises"],
)
def test_broken_plugin_is_listed_and_fatal_only_when_asked_for(catalogue, broken, reason):
    found = catalogue(Point("faulty", broken), Point("here", plugin("here")))
    assert list(found.specs) == ["here"]
    assert reason in str(found.broken["faulty"])
    assert type(found.select()) is Here
    with pytest.raises(BackendUnavailableError, match="'faulty' cannot run here: its plugin failed to load") as raised:
        found.select("faulty")
    assert reason in str(raised.value)


def test_two_plugins_of_one_name_are_an_error(catalogue):
    points = Point("here", plugin("here"), "first"), Point("here", plugin("here"), "second")
    with pytest.raises(BackendUnavailableError, match="'here' cannot run here: two installed plugins provide it"):
        catalogue(*points)


def test_entry_point_listed_twice_counts_once(catalogue):
    loads: list[str] = []
    points = [Point("here", plugin("here"), loads=loads) for _ in range(2)]
    assert list(catalogue(*points).specs) == ["here"]
    assert loads == ["here"]


def test_backend_is_called_what_its_manifest_says(catalogue):
    found = catalogue(Point("point", plugin("here")))
    assert list(found.specs) == ["here"]


def test_target_is_imported_only_once_selected(catalogue):
    spec = BackendSpec("late", "cpu", 0, "no_such_module:Class", lambda: Probe(True, "here"))
    found = catalogue(Point("late", SimpleNamespace(unipruning_backend=hookimpl(lambda: spec))))
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        found.select("late")


def test_catalogues_share_nothing(catalogue):
    first = catalogue(Point("here", plugin("here")))
    second = catalogue(Point("there", plugin("there", backend="There")))
    assert (list(first.specs), list(second.specs)) == (["here"], ["there"])


def test_backends_of_the_project_are_installed():
    found = Catalogue()
    assert {"cpu", "cuda", "npu"} <= set(found.specs)
    assert found.select("cpu").device_type == "cpu"

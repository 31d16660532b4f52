"""Jobs at the limits of the card: memory that runs out, a model that needs two devices, a chip that is too old."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from _jobs import prune, same_files

Simulated = Callable[..., str]

FAILS = """
import contextlib, io, json
from unipruning_core.jobs import opened
from unipruning_core.cli.main import main

load = opened.load_model
def load_and_fill(*arguments, **options):
    loaded = load(*arguments, **options)
    loaded.filled = torch.empty(torch.npu.mem_get_info()[0] - (1 << 20), dtype=torch.uint8, device="npu")
    return loaded
if {fill}:
    opened.load_model = load_and_fill
with contextlib.redirect_stderr(io.StringIO()) as said:
    status = main(json.loads({words!r}))
OUT.write_text(json.dumps([status, said.getvalue().splitlines()[-1]]))
"""
# the search is told that it does not fit the first device, and has two
SPREADS = """
import json
from unipruning_core.jobs import on_disk
from unipruning_core.search import memory
from unipruning_core.cli.main import main

memory.free_bytes = lambda *_: 1000
find, found = on_disk.search, set()
def search(task, model, *rest, **options):
    found.update(str(p.device) for p in model.parameters())
    return find(task, model, *rest, **options)
on_disk.search = search
assert main(json.loads({words!r})) == 0
OUT.write_text(json.dumps(sorted(found)))
"""


@pytest.fixture(scope="module")
def home(simulated: Simulated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    simulated(f"from _jobs import make_tiny\nmake_tiny(Path({str(folder)!r}), blocks=8)\nOUT.write_text('')")
    return folder


def words(home: Path, out: str, mode: str = "drift") -> list[str]:
    return prune(home, out, mode, "stochria", "--samples", "2", "--seq-len", "32", "--backend", "npu")


@pytest.mark.parametrize(
    ("fill", "megabytes", "total"),
    [(False, "1", "1024.00 KiB"), (True, "64", "64.00 MiB")],
    ids=["at once", "in the search"],
)
def test_memory_that_runs_out_is_said_with_numbers_and_nothing_is_left(
    simulated: Simulated, home: Path, fill: bool, megabytes: str, total: str
) -> None:
    before = sorted(home.iterdir())
    code = FAILS.format(fill=fill, words=json.dumps(words(home, "failed", "frozen")))
    status, said = json.loads(simulated(code, NPUSIM_MEM_MB=megabytes))
    assert status == 2
    assert said.startswith("error: the npu device ran out of memory (")
    assert f"{total} total capacity" in said
    assert sorted(home.iterdir()) == before


@pytest.mark.parametrize("mode", ["frozen", "feedback"])
def test_a_search_over_two_devices_gives_the_bytes_of_one(simulated: Simulated, home: Path, mode: str) -> None:
    one, two = f"{mode}-one", f"{mode}-two"
    imports = "import json\nfrom unipruning_core.cli.main import main\n"
    run = imports + "assert main(json.loads({words!r})) == 0\nOUT.write_text('')"
    simulated(run.format(words=json.dumps(words(home, one, mode))))
    devices = json.loads(simulated(SPREADS.format(words=json.dumps(words(home, two, mode)))))
    assert devices == ["npu:0", "npu:1"]
    assert same_files(home / one, home / two)
    assert (home / f"{one}-run/dual.safetensors").read_bytes() == (home / f"{two}-run/dual.safetensors").read_bytes()


def test_a_chip_without_bfloat16_is_refused_before_anything_is_done(simulated: Simulated, home: Path) -> None:
    code = FAILS.format(fill=False, words=json.dumps(words(home, "refused")))
    status, said = json.loads(simulated(code, NPUSIM_SOC="Ascend310P3"))
    assert (status, said) == (
        2,
        "error: backend 'npu' cannot run here: torch_npu's chip number 202 is not supported; "
        "use an Ascend910B or a later chip",
    )
    assert not (home / "refused-run").exists()

"""What a benchmark leaves behind: its command, its files, its picture, and what its environment does not tell."""

from __future__ import annotations

import contextlib
import csv
import getpass
import io
import json
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from _checkpoints import save_llama

from unipruning_core.cli import choose_bench as bench_words
from unipruning_core.cli.main import main
from unipruning_core.errors import ConfigError
from unipruning_core.storage.documents import sealed
from unipruning_core.testing import oracle
from unipruning_core.tools.bench import plot as bench_plot
from unipruning_core.tools.bench.report import compare, read_earlier, to_csv, to_json
from unipruning_core.tools.bench.run import BenchLine, known_operations
from unipruning_core.tools.environment import environment, without_paths

TIMES = {"median": 2e-3, "p20": 1e-3, "p80": 3e-3, "copy": 1e-3, "baseline": 8e-3}
LINE = BenchLine("cpu", "nm_mask", "4x8", "bfloat16", 1, 32, 5.0, **TIMES)
DOCUMENT = to_json([LINE], {"date": "2026-01-01T00:00Z", "devices": {"cpu": "a CPU"}}, model=None, baseline=None)


@pytest.mark.parametrize(
    ("now", "says"),
    [
        (replace(LINE, median=2.5e-3), "0.80x, no difference shown"),
        (replace(LINE, p20=4e-3, median=4e-3, p80=5e-3), "0.50x, slower"),
        (replace(LINE, p20=1e-4, median=2e-4, p80=3e-4), "10.00x, faster"),
        (replace(LINE, layers=3, median=6e-3, p20=3e-3, p80=9e-3), "1.00x, no difference shown"),
        (replace(LINE, dtype="float32"), "has no earlier time"),
        (replace(LINE, shape="sum"), "has no earlier time"),
        (replace(LINE, median=None), "wrong now"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_difference_is_claimed_only_where_the_spreads_are_apart(tmp_path, now, says):
    (tmp_path / "old.json").write_text(json.dumps(DOCUMENT))
    (said,) = compare([now], read_earlier(tmp_path / "old.json"))
    assert says in said


def test_csv_has_a_row_a_line_with_every_figure():
    header, row = csv.reader(io.StringIO(to_csv([LINE])))
    read = dict(zip(header, row, strict=True))
    assert read["operation"] == "nm_mask"
    assert float(read["gb_per_second"]) == LINE.gb_per_second
    assert read["wrong"] == ""


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("/usr/bin/cc 12", "cc 12"),
        ("no 'libx.so' in '/home/ann/lib/libx.so'", "no 'libx.so' in 'libx.so'"),
        ("path=/opt/x/y, (/root/a.c:3)", "path=y, (a.c:3)"),
        (r"C:\Users\ann\cl.exe", "cl.exe"),
        ("3/4 of https://example.org/page", "3/4 of https://example.org/page"),
    ],
)
def test_paths_are_cut_down_to_their_last_part(text, short):
    assert without_paths(text) == short


def test_the_environment_names_no_host_no_user_and_no_path(monkeypatch):
    monkeypatch.setenv("UNIPRUNING_CPU_CACHE", "/home/ann/cache")
    around = environment({"cpu": "a processor, /home/ann/driver.so"})
    text = json.dumps(around)
    assert around["settings"]["UNIPRUNING_CPU_CACHE"] == "cache"
    assert around["devices"]["cpu"] == "a processor, driver.so"
    assert around["packages"]["torch"] == torch.__version__
    for private in (socket.gethostname(), str(Path.home()), str(Path.cwd()), f"/{getpass.getuser()}/"):
        assert f'"{private}"' not in text
        assert private not in text or len(private) < 4


class Axes:
    """Remembers what was drawn."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *arguments, **options: self.calls.append((name, arguments, options))


def test_the_plot_has_a_bar_for_each_right_line():
    axes, other = Axes(), replace(LINE, backend="other", median=1e-3)
    bench_plot.draw(axes, [LINE, other, replace(LINE, operation="topk_mask", median=None, copy=None)], "title")
    bars = [arguments for name, arguments, _ in axes.calls if name == "barh"]
    assert [bar[1] for bar in bars] == [[LINE.gb_per_second], [other.gb_per_second]]
    assert [arguments[1] for name, arguments, _ in axes.calls if name == "set_yticks"] == [["nm_mask 4x8 bfloat16"]]


def test_without_the_drawing_library_nothing_is_measured(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["bench", "--shape", "4x8", "--plot", "x.png"]) == 2
    printed = capsys.readouterr()
    assert "--plot needs matplotlib" in printed.err
    assert printed.out == ""


def test_the_command_prints_and_writes_what_it_measured(tmp_path, capsys):
    words = ["bench", "nm_mask", "step ria", "--backend", "cpu", "--repeat", "2", "--baseline", "released"]
    folder = save_llama(tmp_path / "model")
    words += ["--model", str(folder), "--json", str(tmp_path / "a.json"), "--csv", str(tmp_path / "a.csv")]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "released / this" in printed
    assert "14 layers" in printed
    written = json.loads((tmp_path / "a.json").read_text())
    assert written["schema"] == "unipruning-bench-1"
    sums = [line for line in written["lines"] if line["shape"] == "sum"]
    assert [line["layers"] for line in sums] == [14, 14]
    assert all(line["speedup"] > 0 for line in written["lines"])
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 1 + len(written["lines"])
    assert main([*words, "--compare", str(tmp_path / "a.json")]) == 0
    compared = capsys.readouterr().out
    assert compared.count("ms before") == len(written["lines"])
    (device,) = written["environment"]["devices"].items()
    assert f"compared with {written['environment']['date']}, {device[0]}: {device[1]}\n" in compared


def test_all_backends_are_those_that_can_run_here(capsys):
    backends, devices = bench_words.choose_backends("all")
    assert [backend.name for backend in backends] == list(devices)
    assert "cpu" in devices


def test_the_list_tells_every_operation(capsys):
    assert main(["bench", "--list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in known_operations())


def test_the_static_table_has_every_kernel(capsys):
    assert main(["bench", "--static"]) == 0
    printed = capsys.readouterr().out
    for section, kernels in oracle.perf_bar().items():
        assert section in printed
        assert all(kernel in printed for kernel in kernels)
    assert "bytes 5  ratio 1" in printed
    assert "spills 0" in printed


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["luck"], "operation 'luck' cannot be measured; choose from step ria"),
        (["--shape", "4096"], "--shape must be rows x columns, such as 4096x11008, not '4096'"),
        (["--shape", "4x6"], "a multiple of 4 columns for its N:M masks, not 6"),
        (["--dtype", "bfloat16,int8"], "--dtype must be one of float32, bfloat16, float16, not 'int8'"),
        (["--baseline", "luck"], "--baseline must be one of eager, released, compile, not 'luck'"),
        (["--repeat", "1"], "--repeat 2 or more, not 1"),
        (["--backend", "cpu,abacus"], "no backend is called 'abacus'"),
        (["--model", "./nowhere"], "has no usable config"),
        (["--compare", "nowhere.json"], "'nowhere.json' cannot be compared with"),
        (["--compare", __file__], "cannot be compared with"),
        (["nm_mask", "--shape", "4x8", "--repeat", "2", "--json", "nowhere/a.json"], "could not be written"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_a_word_that_means_nothing_costs_one_sentence(capsys, words, says):
    assert main(["bench", *words]) == 2
    assert says in capsys.readouterr().err


def test_a_file_of_another_kind_is_not_compared_with(tmp_path):
    (tmp_path / "other.json").write_text('{"schema": "other"}')
    with pytest.raises(ConfigError, match="does not have the schema 'unipruning-bench-1'"):
        read_earlier(tmp_path / "other.json")


def refusal_of(path, content):
    path.write_text(json.dumps(content) if isinstance(content, dict) else content)
    with pytest.raises(ConfigError, match=r"cannot be compared with|does not have the schema"):
        read_earlier(path)


def test_a_flipped_bit_in_an_earlier_file_is_noticed(tmp_path):
    original = json.dumps(DOCUMENT, indent=1)
    for position in range(len(original)):
        changed = original[:position] + chr(ord(original[position]) ^ 1 << position % 7) + original[position + 1 :]
        # white space, or 2e-3 for 2E-3, may say the same
        if not says_the_same(changed):
            refusal_of(tmp_path / "old.json", changed)


def says_the_same(text):
    with contextlib.suppress(ValueError):
        return json.loads(text) == DOCUMENT
    return False


LINES = ("lines", 0)


@pytest.mark.parametrize(
    ("path", "values"),
    [
        (("environment",), ["REMOVED", None, [], {}, 3]),
        (("environment", "date"), ["REMOVED", None, 3]),
        (("environment", "devices"), ["REMOVED", None, [], {"cpu": None}]),
        (("lines",), ["REMOVED", None, {}, [3], [[]], ["x"]]),
        *(((*LINES, key), ["REMOVED", None, 3, []]) for key in ("backend", "operation", "shape", "dtype")),
        ((*LINES, "layers"), ["REMOVED", None, 0, -1, 1.5, True, "1"]),
        *(((*LINES, key), ["REMOVED", None, 0, -1.0, "x", True, []]) for key in ("median", "p20", "p80")),
        (("more",), [1]),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_an_earlier_file_that_no_benchmark_wrote_is_refused_with_a_right_checksum_or_with_none(path, values, tmp_path):
    for value in values:
        content = json.loads(json.dumps(DOCUMENT))
        del content["checksum"]
        inner = content
        for key in path[:-1]:
            inner = inner[key]
        if value == "REMOVED":
            del inner[path[-1]]
        else:
            inner[path[-1]] = value
        refusal_of(tmp_path / "old.json", content)
        refusal_of(tmp_path / "old.json", sealed(content))


def test_an_earlier_file_without_a_checksum_is_read(tmp_path):
    content = {key: value for key, value in DOCUMENT.items() if key != "checksum"}
    (tmp_path / "old.json").write_text(json.dumps(content))
    assert read_earlier(tmp_path / "old.json") == content

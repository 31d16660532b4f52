"""Packed masks: what they weigh, that they come back, and that a damaged file is refused."""

from __future__ import annotations

import itertools
import json
from math import ceil, comb, log2

import pytest
import torch
from _checkpoints import FakeScores, parsed, write_raw
from safetensors.torch import load_file

from unipruning_core.errors import CheckpointError
from unipruning_core.progress import Progress
from unipruning_core.projection import mask_file as masks
from unipruning_core.projection.mask_file import MASK_FILE, mask_stream, pack, packed_bytes, read_masks, unpack
from unipruning_core.projection.project import project
from unipruning_core.projection.report import EMPTY, MASKS, REPORT_FILE, read_report
from unipruning_core.sparsity.forms import SemiStructured
from unipruning_core.sparsity.parse import parse_sparsity
from unipruning_core.storage.checkpoint import Checkpoint, Target
from unipruning_core.storage.documents import sealed
from unipruning_core.storage.tensorfile import digest_of
from unipruning_cpu.backend import CpuBackend
from unipruning_kernels import reference

HALF = parse_sparsity("50%")
EVERY_PATTERN = [(n, m) for m in range(2, 33) for n in range(1, m)]


def random_mask(shape, sparsity, seed=0):
    score = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return reference.nm_mask(score, sparsity.n, sparsity.m) if isinstance(sparsity, SemiStructured) else score > 0


@pytest.mark.parametrize(("n", "m"), EVERY_PATTERN, ids=lambda value: str(value))
def test_every_pattern_comes_back(n, m):
    sparsity = SemiStructured(n, m)
    mask = random_mask((7, 3 * m), sparsity)
    packed = pack(mask, sparsity)
    assert packed.dtype == torch.uint8
    assert len(packed) == packed_bytes(mask.shape, sparsity) == ceil(21 * ceil(log2(comb(m, n))) / 8)
    assert torch.equal(unpack(packed, mask.shape, sparsity), mask)


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (1, 4), (3, 4), (4, 8), (5, 9), (16, 32), (1, 32), (31, 32)])
def test_the_first_and_last_ways_to_keep_come_back(n, m):
    sparsity = SemiStructured(n, m)
    mask = torch.zeros(2, m, dtype=torch.bool)
    mask[0, :n] = mask[1, m - n :] = True
    assert torch.equal(unpack(pack(mask, sparsity), (2, m), sparsity), mask)


def test_ranks_of_two_of_four_are_the_numbers_below_six():
    ways = sorted(itertools.combinations(range(4), 2), key=lambda kept: kept[::-1])
    mask = torch.tensor([[position in kept for position in range(4)] for kept in ways])
    stream = "".join(f"{rank:03b}"[::-1] for rank in range(6)).ljust(24, "0")
    expected = [int(stream[start : start + 8][::-1], 2) for start in range(0, 24, 8)]
    assert pack(mask, SemiStructured(2, 4)).tolist() == expected


def test_a_bit_mask_has_its_first_weight_in_the_lowest_bit():
    mask = torch.tensor([[True, False, True], [False, False, False], [False, False, True]])
    assert pack(mask, HALF).tolist() == [0b00000101, 0b1]


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (8, 8), (7, 9), (1, 1000), (129, 65)])
@pytest.mark.parametrize("text", ["50%", "60%/row", "70%/global"])
def test_a_bit_mask_of_any_size_comes_back(shape, text):
    sparsity = parse_sparsity(text)
    mask = random_mask(shape, sparsity)
    packed = pack(mask, sparsity)
    assert len(packed) == packed_bytes(shape, sparsity) == ceil(mask.numel() / 8)
    assert torch.equal(unpack(packed, shape, sparsity), mask)


@pytest.mark.parametrize("chunk", [8, 16, 1 << 16])
@pytest.mark.parametrize("text", ["2:4", "3:7", "16:32"])
def test_the_size_of_a_chunk_leaves_no_trace(chunk, text, monkeypatch):
    sparsity = parse_sparsity(text)
    mask = random_mask((27, 5 * sparsity.m), sparsity)
    whole = pack(mask, sparsity)
    monkeypatch.setattr(masks, "CHUNK", chunk)
    assert torch.equal(pack(mask, sparsity), whole)
    assert torch.equal(unpack(whole, mask.shape, sparsity), mask)


@pytest.mark.parametrize("row", [[True, True, True, False], [True, False, False, False]])
def test_a_mask_that_breaks_its_pattern_is_not_packed(row):
    with pytest.raises(ValueError, match="does not keep 2 of every 4"):
        pack(torch.tensor([row]), SemiStructured(2, 4))


TARGETS = (Target("b", (6, 8)), Target("a", (3, 16), transposed=True), Target("format", (1, 8)))


def write(folder, text):
    sparsity = parse_sparsity(text)
    written = [random_mask(target.shape, sparsity, seed) for seed, target in enumerate(TARGETS)]
    with mask_stream(folder, TARGETS, text, dict.fromkeys((target.name for target in TARGETS), sparsity)) as stream:
        for mask in written:
            stream.append(pack(mask, sparsity))
    return written


@pytest.mark.parametrize("text", ["50%", "37.5%/row", "70%/global", "2:4", "5:8"])
def test_masks_written_one_by_one_are_read_one_by_one(text, tmp_path):
    written = write(tmp_path, text)
    found = read_masks(tmp_path)
    assert found.sparsity == text
    assert found.targets == TARGETS
    for target, mask in zip(TARGETS, written, strict=True):
        assert torch.equal(found.read(target.name), mask)


def test_the_safetensors_library_reads_the_file_too(tmp_path):
    written = write(tmp_path, "2:4")
    packed = load_file(tmp_path / MASK_FILE)
    assert packed["a"].tolist() == pack(written[1], SemiStructured(2, 4)).tolist()
    assert [len(packed[target.name]) for target in TARGETS] == [ceil(0.75 * numel / 8) for numel in (48, 48, 8)]


def test_a_folder_without_masks_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no unipruning\.masks"):
        read_masks(tmp_path)


LAYER = {"shape": [1, 8], "transposed": False, "pattern": "bits"}


def layers_with(pattern):
    return json.dumps({"w": {"shape": [2, 8], "transposed": False, "pattern": pattern}})


@pytest.mark.parametrize(
    ("metadata", "fault"),
    [
        ({}, "has format None"),
        ({"format": "another"}, "has format 'another'"),
        ({"format": masks.FORMAT}, "is damaged"),
        ({"format": masks.FORMAT, "sparsity": "1:1", "layers": layers_with("1:1")}, "is damaged"),
        ({"format": masks.FORMAT, "sparsity": "2:4", "layers": "[3]"}, "is damaged"),
        (
            {"format": masks.FORMAT, "sparsity": "2:4", "layers": '{"w": {"shape": [2]}}'},
            "is damaged",
        ),
        (
            {"format": masks.FORMAT, "sparsity": "2:4", "layers": layers_with("2:4")},
            "its tensors are not those of its metadata",
        ),
        *(
            (
                {"format": masks.FORMAT, "sparsity": "50%", "layers": json.dumps({"w": {**LAYER, **changed}})},
                "is damaged",
            )
            for changed in (
                {"shape": [1]},
                {"shape": [True, 8]},
                {"shape": [-1, -8]},
                {"shape": [1, 10**30]},
                {"shape": {}},
                {"transposed": 1},
                {"transposed": None},
                {"pattern": 3},
                {"pattern": "60%"},
                {"pattern": "3:5"},
            )
        ),
        ({"format": masks.FORMAT, "sparsity": "50%", "layers": json.dumps({"w": LAYER, "v": LAYER})}, "is damaged"),
        ({"format": masks.FORMAT, "sparsity": "50%", "layers": "{}"}, "its tensors are not those of its metadata"),
    ],
)
def test_a_file_of_something_else_is_refused(metadata, fault, tmp_path):
    header = {"__metadata__": metadata, "w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    write_raw(tmp_path / MASK_FILE, header, b"x")
    with pytest.raises(CheckpointError, match=fault):
        read_masks(tmp_path)


@pytest.mark.parametrize(("shape", "pattern", "byte"), [([1, 5], "bits", 0b100001), ([1, 8], "2:4", 0b1000000)])
def test_a_bit_beyond_the_last_weight_is_refused(shape, pattern, byte, tmp_path):
    layers = json.dumps({"w": {"shape": shape, "transposed": False, "pattern": pattern}})
    metadata = {"format": masks.FORMAT, "sparsity": "50%", "layers": layers}
    header = {"__metadata__": metadata, "w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    write_raw(tmp_path / MASK_FILE, header, bytes([byte]))
    with pytest.raises(CheckpointError, match="a bit is set beyond the last weight"):
        read_masks(tmp_path).read("w")


@pytest.mark.parametrize("rank", [6, 7])
def test_a_rank_that_is_none_is_refused(rank, tmp_path):
    layers = json.dumps({"w": {"shape": [1, 4], "transposed": False, "pattern": "2:4"}})
    metadata = {"format": masks.FORMAT, "sparsity": "2:4", "layers": layers}
    header = {"__metadata__": metadata, "w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    write_raw(tmp_path / MASK_FILE, header, bytes([rank]))
    with pytest.raises(CheckpointError, match=r"the mask of 'w' is damaged: a rank is not below C\(4, 2\)"):
        read_masks(tmp_path).read("w")


class Notes(Progress):
    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


@pytest.fixture
def pruned(single, tmp_path):
    checkpoint = Checkpoint.open(single)
    project(checkpoint, FakeScores(checkpoint), parsed("60%", "2:4"), tmp_path / "out", CpuBackend())
    return tmp_path / "out"


@pytest.mark.parametrize("slug", ["60", "2-4"])
@pytest.mark.parametrize("name", [MASK_FILE, REPORT_FILE])
def test_a_flipped_bit_anywhere_is_noticed(slug, name, pruned):
    path = pruned / slug / name
    original = path.read_bytes()
    for position in range(0, len(original), 11):
        changed = bytearray(original)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"damaged|stored as|has format"):
            read_masks(pruned / slug)


def test_a_report_that_calls_itself_earlier_is_not_spared_its_checksum(pruned):
    path = pruned / "60" / REPORT_FILE
    path.write_text(path.read_text().replace("unipruning-checkpoint-3", "unipruning-checkpoint-2"))
    with pytest.raises(CheckpointError, match="which had no checksum"):
        read_masks(path.parent)


@pytest.mark.parametrize("known", ["nothing", "an earlier report"])
def test_masks_that_nothing_vouches_for_are_read_after_a_note(known, pruned):
    path, notes = pruned / "60" / REPORT_FILE, Notes()
    assert read_masks(path.parent, notes).kept
    assert notes.notes == []
    report = json.loads(path.read_text())
    path.unlink()
    if known == "an earlier report":
        report["format"] = "unipruning-checkpoint-2"
        path.write_text(json.dumps({key: value for key, value in report.items() if key not in ("checksum", MASKS)}))
    found = read_masks(path.parent, notes)
    assert [bool(found.read(target.name).any()) for target in found.targets] == [True] * len(found.targets)
    assert "nothing tells whether" in notes.notes[0]
    assert bool(found.kept) == (known == "an earlier report")


def test_a_mask_that_keeps_another_number_than_was_reported_is_refused(pruned):
    path = pruned / "60" / REPORT_FILE
    report = json.loads(path.read_text())
    name = next(iter(report["matrices"]))
    for counts in (report["matrices"][name], report["overall"]):
        counts["kept"] -= 1
        counts["sparsity"] = (counts["total"] - counts["kept"]) / counts["total"]
    del report["checksum"], report["overall"]["model"]  # which would tell of it before
    path.write_text(json.dumps(sealed(report)))
    with pytest.raises(CheckpointError, match=rf"the mask of '{name}' is damaged: it keeps \d+ weights, but"):
        read_masks(pruned / "60").read(name)


def test_the_report_knows_the_bytes_of_every_pruned_weight(pruned):
    checkpoint, report = Checkpoint.open(pruned / "2-4"), read_report(pruned / "2-4")
    assert len(report["matrices"]) == 14
    for name, counts in report["matrices"].items():
        assert counts["sha256"] == digest_of(checkpoint.read(name))


@pytest.mark.parametrize(
    "path",
    [("format",), ("sparsity",), ("provenance",), ("matrices",), ("overall",), (MASKS,), ("matrices", "NAME")]
    + [("overall", key) for key in ("asked", "kept", "total", "sparsity", "zero_share", *EMPTY)]
    + [("matrices", "NAME", key) for key in ("asked", "kept", "total", "sparsity", "zero_share", "sha256", *EMPTY)],
    ids=".".join,
)  # fmt: skip
def test_a_report_that_no_projection_wrote_is_refused_even_with_a_right_checksum(path, pruned):
    file = pruned / "60" / REPORT_FILE
    original = json.loads(file.read_text())
    del original["checksum"]
    for value in (None, True, -1, 2.5, [], {}, "REMOVED", 10**30, ["x"]):
        report = json.loads(json.dumps(original))
        *above, last = [next(iter(report["matrices"])) if key == "NAME" else key for key in path]
        content = report
        for key in above:
            content = content[key]
        if value == "REMOVED":
            del content[last]
        else:
            content[last] = value
        if value == {} and path == ("provenance",):
            continue
        file.write_text(json.dumps(sealed(report)))
        with pytest.raises(CheckpointError, match=r"is damaged.*; project again"):
            read_masks(file.parent)

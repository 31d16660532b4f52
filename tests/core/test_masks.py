"""Packed masks: what they weigh, that they come back, and that a damaged file is refused."""

from __future__ import annotations

import itertools
import json
from math import ceil, comb, log2

import pytest
import torch
from _checkpoints import write_raw
from safetensors.torch import load_file

from unipruning_core.errors import CheckpointError
from unipruning_core.projection import mask_file as masks
from unipruning_core.projection.mask_file import MASK_FILE, mask_stream, pack, packed_bytes, read_masks, unpack
from unipruning_core.sparsity.forms import SemiStructured
from unipruning_core.sparsity.parse import parse_sparsity
from unipruning_core.storage.checkpoint import Target
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
    with pytest.raises(CheckpointError, match=r"has no masks\.safetensors"):
        read_masks(tmp_path)


def layers_with(pattern):
    return json.dumps({"w": {"shape": [2, 8], "transposed": False, "pattern": pattern}})


@pytest.mark.parametrize(
    ("metadata", "fault"),
    [
        ({}, "has format None"),
        ({"format": "another"}, "has format 'another'"),
        ({"format": masks.FORMAT}, "has invalid metadata"),
        ({"format": masks.FORMAT, "sparsity": "1:1", "layers": layers_with("1:1")}, "has invalid metadata"),
        ({"format": masks.FORMAT, "sparsity": "2:4", "layers": "[3]"}, "has invalid metadata"),
        (
            {"format": masks.FORMAT, "sparsity": "2:4", "layers": '{"w": {"shape": [2]}}'},
            "has invalid metadata",
        ),
        (
            {"format": masks.FORMAT, "sparsity": "2:4", "layers": layers_with("2:4")},
            "does not match its metadata",
        ),
        ({"format": masks.FORMAT, "sparsity": "50%", "layers": "{}"}, "does not match its metadata"),
    ],
)
def test_a_file_of_something_else_is_refused(metadata, fault, tmp_path):
    header = {"__metadata__": metadata, "w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    write_raw(tmp_path / MASK_FILE, header, b"x")
    with pytest.raises(CheckpointError, match=fault):
        read_masks(tmp_path)


@pytest.mark.parametrize("rank", [6, 7])
def test_a_rank_that_is_none_is_refused(rank, tmp_path):
    layers = json.dumps({"w": {"shape": [1, 4], "transposed": False, "pattern": "2:4"}})
    metadata = {"format": masks.FORMAT, "sparsity": "2:4", "layers": layers}
    header = {"__metadata__": metadata, "w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}
    write_raw(tmp_path / MASK_FILE, header, bytes([rank]))
    with pytest.raises(CheckpointError, match=r"the mask of 'w' is damaged: a rank is not below C\(4, 2\)"):
        read_masks(tmp_path).read("w")

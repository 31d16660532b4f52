"""What holds for any input: what is written reads back, and what is wrong is refused in our own words."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

import pytest
import torch
from _checkpoints import FakeScores, parsed, write_raw
from _drawn import numbers, quick, texts, values, words
from hypothesis import example, given
from hypothesis import strategies as st

from unipruning_core.errors import UnipruningError
from unipruning_core.projection.mask_file import pack, packed_bytes, read_masks, unpack
from unipruning_core.projection.project import project
from unipruning_core.sparsity.budget import Budget
from unipruning_core.sparsity.forms import SemiStructured
from unipruning_core.sparsity.parse import parse_sparsity
from unipruning_core.storage.checkpoint import Checkpoint
from unipruning_core.storage.tensorfile import DTYPES, header_for, read_header, read_tensor
from unipruning_cpu.backend import CpuBackend

sparsities = st.one_of(
    st.from_regex(r"[0-9]{1,3}(\.[0-9]{0,4})?%(/(matrix|row|global))?", fullmatch=True),
    st.from_regex(r"[0-9]{1,2}:[0-9]{1,2}(\+dense@[0-9]{1,2}%)?", fullmatch=True),
    words.filter(lambda text: not text.startswith("@")),
)


@quick
@given(sparsities)
@example("٦٠%")
@example("1e99999%")
def test_a_sparsity_is_refused_or_reads_back_as_itself(text):
    try:
        sparsity = parse_sparsity(text)
    except UnipruningError:
        return
    assert parse_sparsity(str(sparsity)) == sparsity
    assert "/" not in sparsity.slug


@quick
@given(
    st.dictionaries(
        texts,
        st.tuples(
            st.sampled_from(sorted(DTYPES.values(), key=str)), st.lists(st.integers(0, 5), max_size=3).map(tuple)
        ),
        max_size=5,
    ),
    st.dictionaries(texts, texts, max_size=3),
    st.binary(min_size=64, max_size=64),
)
def test_tensors_read_back_as_they_were_written(tmp_path, contents, metadata, pattern):
    sizes = {name: math.prod(shape) * dtype.itemsize for name, (dtype, shape) in contents.items()}
    data = (pattern * (sum(sizes.values()) // len(pattern) + 1))[: sum(sizes.values())]
    (tmp_path / "file").write_bytes(header_for(contents, metadata) + data)
    found, described = read_header(tmp_path / "file")
    assert described == metadata
    assert {name: (info.dtype, info.shape) for name, info in found.items()} == contents
    for name, info in found.items():
        start = info.start - min(info.start for info in found.values())
        read = read_tensor(info)
        assert read.contiguous().flatten().view(torch.uint8).numpy().tobytes() == data[start : start + sizes[name]]


sides = st.one_of(st.integers(-1, 4), st.booleans(), numbers)
entry = st.fixed_dictionaries(
    {"dtype": st.sampled_from(["F32", "BF16", "U8", "X"]), "shape": st.lists(sides, max_size=3)},
    optional={"data_offsets": st.lists(st.sampled_from([0, 0, 4, 16, -1, 2**63, False]), min_size=2, max_size=2)},
)


@quick
@given(st.one_of(values, st.dictionaries(words, entry, max_size=2)), st.sampled_from([b"", bytes(4), bytes(16)]))
@example({"t": {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}}, b"")
@example({"t": {"dtype": "F32", "shape": [False], "data_offsets": [0, 0]}}, b"")
def test_a_header_of_anything_is_refused_or_read(tmp_path, header, data):
    path = write_raw(tmp_path / "file", header, data)
    with contextlib.suppress(UnipruningError):
        for info in read_header(path)[0].values():
            assert read_tensor(info).nbytes == info.nbytes


@st.composite
def masks(draw):
    pattern = draw(st.one_of(st.none(), st.tuples(st.integers(1, 8), st.integers(2, 9)).filter(lambda p: p[0] < p[1])))
    group = pattern[1] if pattern else 1
    shape = (draw(st.integers(1, 6)), draw(st.integers(1, 6)) * group)
    order = torch.rand(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 2**31)))).view(-1, group)
    if pattern is None:
        return (order < draw(st.floats(0, 1))).view(shape), None
    kept = torch.zeros(order.shape, dtype=torch.bool).scatter_(1, order.topk(pattern[0], dim=1).indices, True)
    return kept.view(shape), SemiStructured(*pattern)


@quick
@given(masks())
def test_a_mask_reads_back_as_it_was_packed(drawn):
    mask, pattern = drawn
    packed = pack(mask, pattern)
    assert packed.numel() == packed_bytes(tuple(mask.shape), pattern)
    assert torch.equal(unpack(packed, tuple(mask.shape), pattern), mask)


@quick
@given(values)
@example({"sparsity": {"*": {"keep": True}}})
@example({"sparsity": {"*": {"keep_rows": [10**400]}}})
@example({"overall": "60%", "sparsity": {"*": "1e999999%"}})
def test_a_budget_of_anything_is_refused_or_reads_back(tmp_path, content):
    path = tmp_path / "budget.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    try:
        budget = Budget.read(path)
    except UnipruningError:
        return
    assert Budget.from_json(path.name, budget.to_json()) == budget


@pytest.fixture(scope="module")
def pruned(single, tmp_path_factory) -> Path:
    checkpoint = Checkpoint.open(single)
    out = tmp_path_factory.mktemp("properties") / "pruned"
    project(checkpoint, FakeScores(checkpoint), parsed("2:4"), out, CpuBackend())
    return out


@quick
@given(st.sampled_from(["byte", "cut", "more"]), st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4))
def test_masks_that_changed_are_refused_or_of_the_same_shape(pruned, how, where, new):
    path = pruned / "unipruning.masks"
    whole = path.read_bytes()
    at = int(where * len(whole))
    path.write_bytes({"byte": whole[:at] + new + whole[at + len(new) :], "cut": whole[:at], "more": whole + new}[how])
    try:
        with contextlib.suppress(UnipruningError):
            found = read_masks(pruned)
            for target in found.targets:
                assert found.read(target.name).shape == target.shape
    finally:
        path.write_bytes(whole)

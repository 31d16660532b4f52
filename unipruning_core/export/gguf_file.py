"""The format GGUF: one file that llama.cpp opens, with weights in floats or in blocks of codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from unipruning_core.errors import ConfigError
from unipruning_core.export.contract import Choice, Exporter
from unipruning_core.export.gguf_model import Described, in_pairs
from unipruning_core.export.gguf_tokenizer import CONVERTER, TOKENIZER_FILE, add_tokenizer, check_tokenizer
from unipruning_core.models.borders import library_errors_as
from unipruning_core.storage.tensorfile import is_copy

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from unipruning_core.export.source import Source
    from unipruning_core.progress import Progress
    from unipruning_core.storage.tensorfile import TensorInfo

AS_STORED = "auto"
FLOATS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
ALL_FLOATS = "F32"
FALLBACK = "F16"  # for rows that do not divide into blocks
EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"  # in a checkpoint
EMBEDDINGS = frozenset(("token_embd.weight", "output.weight"))  # not pruned, and in more bits where codes are short
OF_EMBEDDINGS = "Q8_0"
FREQUENCIES = "rope_freqs.weight"
LEFT_OUT = ".rotary_emb.inv_freq"  # which llama.cpp computes
PIECE = 1 << 22  # elements that are quantised together


@dataclass(frozen=True)
class Entry:
    """One tensor of the file."""

    name: str
    source: str  # its name in the checkpoint, or "" for one that is computed
    shape: tuple[int, ...]
    kind: Any  # gguf.GGMLQuantizationType

    @property
    def is_matrix(self) -> bool:
        return len(self.shape) > 1

    @property
    def nbytes(self) -> int:
        import gguf

        block, size = gguf.GGML_QUANT_SIZES[self.kind]
        return prod(self.shape) // int(block) * int(size)


class Gguf(Exporter):
    """A file of gguf's own writer."""

    def size(self, source: Source, choice: Choice) -> int:
        described = _checked(source)
        check_tokenizer(source.folder)
        tokens = source.folder / TOKENIZER_FILE
        return sum(entry.nbytes for entry in _entries(source, described, choice)) + (
            tokens.stat().st_size if tokens.is_file() else 0
        )

    def write(self, source: Source, choice: Choice, folder: Path, progress: Progress) -> Mapping[str, Any]:
        import gguf

        described = _checked(source)
        entries = list(_entries(source, described, choice))
        name = _type_of(source, choice)
        unfit = [entry.source for entry in entries if entry.is_matrix and entry.kind.name not in (name, OF_EMBEDDINGS)]
        with closing(gguf.GGUFWriter(folder / f"model-{name}.gguf", described.family.name)) as writer:
            described.add_to(writer, f"{source.config['model_type']} pruned {source.masks.sparsity}")
            sizes = "ALL" if name == ALL_FLOATS else "MOSTLY"
            writer.add_file_type(getattr(gguf.LlamaFileType, f"{sizes}_{name}", gguf.LlamaFileType.GUESSED))
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
            with _library(source, "tokenizer"):
                add_tokenizer(writer, source.folder, described.config.vocab_size)
            for entry in entries:
                shape = gguf.quant_shape_to_byte_shape(entry.shape, entry.kind)
                writer.add_tensor_info(entry.name, shape, np.dtype(np.uint8), entry.nbytes, raw_dtype=entry.kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            with progress.task("writing", len(entries), "tensors") as task:
                for entry in entries:
                    writer.write_tensor_data(_codes(_values(source, described, entry), entry))
                    task.advance()
        return {"type": name, **({"unfit": unfit} if unfit else {})}


def _checked(source: Source) -> Described:
    source.check_floats("GGUF")
    return Described.of(source)


def _type_of(source: Source, choice: Choice) -> str:
    if choice.type != AS_STORED:
        return choice.type
    return FLOATS[source.checkpoint.tensors[source.masks.targets[0].tensor].dtype]


def _entries(source: Source, described: Described, choice: Choice) -> Iterator[Entry]:
    """Yield what the file holds, in the order of the checkpoint.

    Raises:
        ConfigError: gguf has no name for a tensor.
    """
    import gguf

    known = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    blocks = gguf.get_tensor_name_map(known[described.family.name], described.config.num_hidden_layers)
    types = gguf.GGMLQuantizationType
    if (asked := getattr(types, name := _type_of(source, choice), None)) is None:
        raise ConfigError(f"the installed package gguf has no type {name}; pip install --upgrade gguf")
    left_out = {name for name in source.checkpoint.tensors if name.endswith(LEFT_OUT)}
    if described.config.tie_word_embeddings and _is_one(source.checkpoint.tensors):
        left_out.add(OUTPUT)
    for name, info in source.checkpoint.tensors.items():
        if name in left_out:
            continue
        if (mapped := blocks.get_name(name, try_suffixes=(".weight", ".bias"))) is None:
            raise ConfigError(f"gguf has no name for the tensor {name!r} of {described.family.name!r}; {CONVERTER}")
        if len(info.shape) < 2:
            kind = types.F32
        elif mapped in EMBEDDINGS and _bits(asked) < _bits(types[OF_EMBEDDINGS]):
            kind = types[OF_EMBEDDINGS]
        else:
            kind = asked
        if len(info.shape) > 1 and info.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
            kind = types[FALLBACK]
        yield Entry(mapped, name, info.shape, kind)
    if (frequencies := described.frequencies()) is not None:
        yield Entry(FREQUENCIES, "", tuple(frequencies.shape), types.F32)


def _is_one(tensors: Mapping[str, TensorInfo]) -> bool:
    """Return whether the output layer is the embedding a second time; where it is not, transformers ties nothing."""
    return OUTPUT in tensors and EMBEDDING in tensors and is_copy(tensors[EMBEDDING], tensors[OUTPUT])


def _bits(kind: Any) -> float:
    import gguf

    block, size = gguf.GGML_QUANT_SIZES[kind]
    return 8 * float(size) / float(block)


def _values(source: Source, described: Described, entry: Entry) -> Tensor:
    if not entry.source:
        frequencies = described.frequencies()
        assert frequencies is not None
        return frequencies
    values = source.tensor(entry.source)
    heads = described.heads_of(entry.source)
    return values if heads is None else in_pairs(values, heads)


def _codes(values: Tensor, entry: Entry) -> NDArray[Any]:
    """Return a tensor in the type of its entry, a piece at a time: (out, bytes of a row), uint8.

    Raises:
        ConfigError: a weight is too large for float16.
    """
    import gguf

    rows = values.reshape(-1, values.shape[-1])
    pieces = []
    for piece in rows.split(max(1, PIECE // rows.shape[1])):
        # what is too large becomes infinite, which is looked for
        with np.errstate(over="ignore"):
            codes = gguf.quants.quantize(piece.float().numpy(), entry.kind)
        if codes.dtype == np.float16 and not np.isfinite(codes).all():
            raise ConfigError(f"weight {entry.source!r} does not fit in float16; choose --type BF16 or F32")
        pieces.append(codes.view(np.uint8))
    return np.concatenate(pieces)


def _library(source: Source, what: str) -> AbstractContextManager[None]:
    return library_errors_as(ConfigError, f"the {what} of {str(source.folder)!r} cannot be written in GGUF", CONVERTER)

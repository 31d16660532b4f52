"""Perplexity, by the protocol that published pruning results use."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unipruning_core.data.encoding import joined_ids
from unipruning_core.data.text import SEPARATOR, Text
from unipruning_core.data.token_ids import id_tensor
from unipruning_core.distributed.world import ALONE
from unipruning_core.errors import ConfigError, DataError
from unipruning_core.frames import Tabular
from unipruning_core.models.decoder import text_model
from unipruning_core.models.loading import dtype_name, dtype_remedy
from unipruning_core.models.passes import pass_errors
from unipruning_core.models.positions import check_seq_len, positions_of
from unipruning_core.progress import Progress

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from unipruning_core.distributed.world import World

LOGITS_AT_ONCE = 2**25  # 128 MiB of fp32, whatever the vocabulary
PROBE_TOKENS = 8


@dataclass(frozen=True)
class Perplexity(Tabular):
    """One measurement, with what is needed to repeat it; a row of a table."""

    perplexity: float  #: exp(nll); infinite if that overflows
    nll: float  #: mean over windows, in nats per token
    tokens: int  #: predicted tokens, seq_len - 1 per window
    windows: int
    seq_len: int
    source: str
    data_sha256: str
    dtype: str  #: in which the weights were loaded
    per_window_nll: list[float]
    tokenizer: str | None = None  #: where it is from, unless it came with the model

    def records(self) -> list[dict[str, Any]]:
        return [{name: value for name, value in vars(self).items() if name != "per_window_nll"}]


@dataclass(frozen=True)
class Windows:
    """A text cut into windows, ready for any model of one tokenizer."""

    ids: Tensor  # (windows, 1, seq_len), int64, on the CPU
    source: str
    data_sha256: str
    tokenizer: str | None = None  # where it is from, unless it came with the model


def cut(
    text: Text,
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig,
    *,
    seq_len: int = 2048,
    windows: int | None = None,
    join: str = SEPARATOR,
    progress: Progress | None = None,
) -> Windows:
    """Join the documents, tokenise them once, as far as the windows go, and cut them; no model is needed.

    Raises:
        ConfigError: a number is out of range for the model.
        DataError: the text does not fill one window, or the tokenizer gives no ids for it.
    """
    check_seq_len(positions_of(config), seq_len)
    if windows is not None and windows < 1:
        raise ConfigError(f"perplexity needs at least 1 window, not {windows!r}")
    if text.parts:
        raise ConfigError(f"a perplexity is that of one text, not of {text.source!r}; measure each by itself")
    needed = None if windows is None else windows * seq_len
    ids = id_tensor(joined_ids(tokenizer, text.documents, join, needed, progress), text.source)
    available = ids.numel() // seq_len
    if not available:
        raise DataError(
            f"one window needs {seq_len} tokens, but {text.source!r} has only {ids.numel()}; "
            "pass a shorter --seq-len or more text"
        )
    if windows is not None and windows > available and progress is not None:
        progress.note(f"{text.source!r} fills only {available} windows of {seq_len} tokens, not {windows}; using all")
    count = min(windows or available, available)
    return Windows(ids[: count * seq_len].view(count, 1, seq_len), text.source, text.sha256)


def perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: Text,
    *,
    seq_len: int = 2048,
    windows: int | None = None,
    join: str = SEPARATOR,
    progress: Progress | None = None,
) -> Perplexity:
    """Measure a model on a text; see ``cut`` and ``measured``."""
    made = cut(text, tokenizer, model.config, seq_len=seq_len, windows=windows, join=join, progress=progress)
    return measured(model, made, progress)


def measured(
    model: PreTrainedModel, windows: Windows, progress: Progress | None = None, world: World = ALONE
) -> Perplexity:
    r"""Return exp of the mean negative log-likelihood of the text, over windows that do not overlap.

    The model is put into evaluation mode.  Of several ranks, which all have the model, each takes every nth window; the
    losses are added in the order of the windows, however many ranks there are.

    .. math:: \exp \frac{1}{K} \sum_{k=1}^{K} \frac{1}{L-1} \sum_{t=2}^{L} -\log p(x_{k,t} \mid x_{k,1..t-1})

    Raises:
        DataError: the loss of a window is not finite.
    """
    progress = progress or Progress()
    count, _, seq_len = windows.ids.shape
    model.eval()
    text = text_model(model)
    mine: list[float] = []  # up to the first that is not finite
    own = windows.ids[world.rank :: world.size]
    with pass_errors(model), torch.inference_mode(), progress.task("perplexity", len(own), "windows") as task:
        head = _separable_head(text, windows.ids[0, :, :PROBE_TOKENS])
        for window in own:
            mine.append(_window_nll(text, head, window.to(text.device)))
            if not math.isfinite(mine[-1]):
                break
            task.advance(1, perplexity=exp_of(sum(mine) / len(mine)))
    by_rank = world.each(mine)
    losses: list[float] = []
    for number in range(count):
        losses.append(by_rank[number % world.size][number // world.size])
        if not math.isfinite(losses[-1]):
            raise DataError(
                f"the loss of window {number + 1} of {count} of {windows.source!r} is {losses[-1]}, so there is no "
                f"perplexity; {dtype_remedy(model.dtype) or 'use a model whose outputs are finite'}"
            )
    nll = sum(losses) / count
    return Perplexity(
        exp_of(nll),
        nll,
        count * (seq_len - 1),
        count,
        seq_len,
        windows.source,
        windows.data_sha256,
        dtype_name(model.dtype),
        losses,
        windows.tokenizer,
    )


def _separable_head(model: PreTrainedModel, ids: Tensor) -> torch.nn.Module | None:
    """Return the head if it alone turns hidden states into logits, so that they can be computed a few at a time.

    A probe of a few tokens reveals models that do more, such as capping or scaling their logits.
    """
    head = model.get_output_embeddings()
    if head is None or model.base_model is model:
        return None
    ids = ids.to(model.device)
    logits = head(_hidden_states(model, ids))
    return head if torch.equal(logits, model(ids, use_cache=False).logits[0]) else None


def _window_nll(model: PreTrainedModel, head: torch.nn.Module | None, ids: Tensor) -> float:
    """Return the mean negative log-likelihood, in fp32, of ids (1, L) after the first."""
    make_logits: Callable[[Tensor], Tensor] = torch.nn.Identity() if head is None else head
    states = model(ids, use_cache=False).logits[0] if head is None else _hidden_states(model, ids)
    rows = max(1, LOGITS_AT_ONCE // model.get_input_embeddings().weight.shape[0])
    losses = []
    for chunk, targets in zip(states[:-1].split(rows), ids[0, 1:].split(rows), strict=True):
        logits = make_logits(chunk).float()  # (rows, vocabulary)
        losses.append(F.cross_entropy(logits, targets.to(logits.device), reduction="none"))
    return torch.cat(losses).mean().item()


def _hidden_states(model: PreTrainedModel, ids: Tensor) -> Tensor:
    hidden: Tensor = model.base_model(ids, use_cache=False)[0]
    return hidden[0]  # (L, hidden)


def exp_of(nll: float) -> float:
    """Return exp, or infinity beyond the largest float."""
    try:
        return math.exp(nll)
    # the loss of a model pruned too far can overflow exp
    except OverflowError:
        return math.inf

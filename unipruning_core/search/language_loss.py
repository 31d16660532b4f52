"""The loss of a causal language model, without the logits of all tokens in memory at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy, log_softmax, pad

from unipruning_core.errors import CheckpointError
from unipruning_core.models.decoder import decoder_blocks, text_model
from unipruning_core.models.held import gathered, is_divided
from unipruning_core.models.passes import name_of
from unipruning_core.models.replaced_forward import replaced_forward

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

LOGITS = 1 << 24  # that are in memory at a time
PREFIX = 16  # tokens on which the loss in chunks is compared with that of all logits at once
NOTHING = -100  # what the last token predicts, to ``cross_entropy``
# relative differences that are rounding, of the loss and of the norm of its gradient
IN_FLOAT32, IN_HALF_PRECISION = (1e-5, 1e-4), (1e-3, 1e-2)


class LanguageLoss:
    r"""The mean of :math:`-\log p(x_t \mid x_{<t})` over a sample, whatever loss the model itself is trained with.

    The logits and the gradient with respect to the last hidden states are made for one chunk of tokens at a time, in
    the forward pass: what comes after the decoder is not pruned, so no other gradient is needed.  It is run by the
    model's own forward, which is given the hidden states of the chunk in place of the decoder's result.  A short
    sample, and a model that makes other logits from chunks, goes through the model as it is.
    """

    def __init__(self, model: PreTrainedModel, targets: Iterable[str] = ()) -> None:
        self.model = text_model(model)
        parent = decoder_blocks(model)[0].rpartition(".")[0]
        self._decoder = model.get_submodule(parent)  # the model itself if it has no part for it
        inside = f"{parent}." if parent else ""
        self._outside = [name for name in targets if not name.startswith(inside)]  # targets that need a gradient too
        self._vocabulary = getattr(model.config.get_text_config(), "vocab_size", 0)
        self.agrees: bool | None = None  # the loss of chunks with that of all logits; None before ``compare``

    def compare(self, input_ids: Tensor, note: Callable[[str], None]) -> None:
        """Find out, before the first long sample, whether chunks give the loss; this runs a few tokens."""
        if self.agrees is None and self._is_long(input_ids):
            chunked = self._decoder is not self.model and not self._outside
            self.agrees = chunked and self._agree(input_ids[:, :PREFIX])
            if self._outside:
                note(f"the logits of a sample are in memory all at once, since {self._outside[0]!r} is a target")
            elif not self.agrees:
                note(
                    "the logits of a sample are in memory all at once, since this model does not make those of a token "
                    "from its last hidden state alone"
                )

    def __call__(self, input_ids: Tensor) -> Tensor:
        """Return the loss of a sample, (1, tokens) int64, as a scalar that has a backward pass."""
        if not self.agrees or not self._is_long(input_ids):
            return self._of_output(self.model(input_ids=input_ids, use_cache=False), input_ids)
        decoded, _ = self._decoded(input_ids)
        loss, gradient = self._of_chunks(decoded, input_ids, chunk_of(input_ids.numel(), self._vocabulary))
        known: Tensor = _Known.apply(decoded[0], loss, gradient)  # type: ignore[no-untyped-call]
        return known

    def _is_long(self, input_ids: Tensor) -> bool:
        return not fits_whole(input_ids.numel(), self._vocabulary)

    def _of_output(self, output: Any, input_ids: Tensor) -> Tensor:
        """Return the loss, 0-D float32, from all logits of a sample.

        Raises:
            CheckpointError: there is not one row of logits for each token.
        """
        logits = getattr(output, "logits", None)
        made = 0 if logits is None else logits.shape[:-1].numel()
        if logits is None or made != input_ids.numel():
            raise CheckpointError(
                f"model {name_of(self.model)!r} gives logits for {made} tokens, not {input_ids.numel()}, so it has "
                "no language-model loss; use --mode frozen"
            )
        # as in transformers, to the last bit: the last token is left out by its label, not cut off
        following = pad(input_ids[0, 1:], (0, 1), value=NOTHING).to(logits.device)
        return cross_entropy(logits.flatten(0, 1).float(), following, ignore_index=NOTHING)

    def _agree(self, prefix: Tensor) -> bool:
        """Return whether loss and gradient of chunks equal those of all logits on a few tokens, within rounding."""
        try:
            decoded, output = self._decoded(prefix, whole=True)
            whole = self._of_output(output, prefix)
            whole.backward()
            loss, gradient = self._of_chunks(decoded, prefix, PREFIX // 2)
        # what a model raises that is built in another way
        except (AttributeError, CheckpointError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            return False
        of_loss, of_gradient = IN_FLOAT32 if gradient.dtype == torch.float32 else IN_HALF_PRECISION
        whole_gradient = decoded[0].grad.float()
        error, norm = (torch.linalg.vector_norm(x) for x in (gradient.float() - whole_gradient, whole_gradient))
        return _close(loss, whole.detach(), of_loss) and float(error) <= of_gradient * float(norm)

    def _decoded(self, input_ids: Tensor, *, whole: bool = False) -> tuple[Any, Any]:
        """Return the decoder's result, the last hidden states (1, tokens, width) first, and the model's output.

        Only one token goes on from the decoder, unless the ``whole`` sample does; then the gradient ends at the hidden
        states.
        """
        own, results = self._decoder.forward, []

        def forward(*args: Any, **kwargs: Any) -> Any:
            with torch.set_grad_enabled(not whole):
                results.append(own(*args, **kwargs))
            hidden = results[0][0]
            return _with_hidden(results[0], hidden.requires_grad_() if whole else hidden[:, :1])

        with replaced_forward(self._decoder, forward):
            output = self.model(input_ids=input_ids, use_cache=False)
        (result,) = results
        return result, output

    def _after_decoder(self, decoded: Any, hidden: Tensor, input_ids: Tensor) -> Any:
        """Return the model's output where its decoder has given ``hidden``, (1, tokens, width)."""
        # where the model is divided, its hooks would gather and release parts once more in the middle of a pass
        run = self.model.forward if is_divided(self.model) else self.model
        with replaced_forward(self._decoder, lambda *_, **__: _with_hidden(decoded, hidden)):
            return run(input_ids=input_ids, use_cache=False)

    def _of_chunks(self, decoded: Any, input_ids: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
        """Return the loss, 0-D float32, and its gradient with respect to the hidden states, in their dtype."""
        hidden = decoded[0].detach()
        gradient, losses = torch.zeros_like(hidden), []
        predicted = input_ids.shape[1] - 1
        with gathered(self.model):
            for start in range(0, predicted, chunk):
                part = slice(start, min(start + chunk, predicted))
                with torch.enable_grad():
                    # with strides as of a whole tensor, or a product would copy the head's weight
                    given = hidden[0, part].unsqueeze(0).requires_grad_()
                    logits = self._after_decoder(decoded, given, input_ids[:, part]).logits.flatten(0, 1)
                following = input_ids[0, 1:][part, None].to(logits.device)
                found = log_softmax(logits.detach().float(), 1)
                losses.append(found.gather(1, following).sum() / -predicted)
                # the gradient of the mean, softmax less one for the token that follows, in the same memory
                one = found.new_full(following.shape, -1 / predicted)
                found.exp_().div_(predicted).scatter_add_(1, following, one)
                logits.backward(found.to(logits.dtype))
                del logits, found
                assert given.grad is not None
                gradient[:, part] = given.grad
        return torch.stack(losses).sum(), gradient


def _with_hidden(decoded: Any, hidden: Tensor) -> Any:
    """Return a decoder's result with other hidden states."""
    if isinstance(decoded, tuple):
        return (hidden, *decoded[1:])
    return type(decoded)(**{**decoded, next(iter(decoded)): hidden})


def _close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    return abs(float(one) - float(other)) <= tolerance * abs(float(other))


def chunk_of(tokens: int, vocabulary: int) -> int:
    """Return how many tokens' logits are in memory at a time: as many in each of the fewest chunks."""
    chunks = -(-tokens * vocabulary // LOGITS)
    return max(1, -(-tokens // max(1, chunks)))


def logits_held(tokens: int, vocabulary: int) -> int:
    """Return how many logits are in memory at a time, for a sample."""
    return chunk_of(tokens, vocabulary) * vocabulary


def fits_whole(tokens: int, vocabulary: int) -> bool:
    """Return whether a sample's logits may all be in memory at once."""
    return tokens * vocabulary <= LOGITS


class _Known(torch.autograd.Function):
    """A loss whose gradient with respect to the hidden states is known."""

    @staticmethod
    def forward(context: Any, hidden: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        context.save_for_backward(gradient)
        return loss.clone()

    @staticmethod
    def backward(context: Any, *factors: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = context.saved_tensors
        return gradient * factors[0].to(gradient.device), None, None

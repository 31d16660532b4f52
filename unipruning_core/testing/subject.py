"""A backend under test, called with the care the contract asks for."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from unipruning_core.backend import Backend
from unipruning_core.testing.compare import bits, require_equal
from unipruning_core.testing.inputs import FILL, frame, window
from unipruning_core.testing.watch import Watch
from unipruning_kernels import reference

IN_PLACE = {
    "accumulate_sumsq": ("out",),
    "mirror_step": ("dual", "threshold"),
    "magnitude_histogram": ("counts",),
    "nm_prox": ("weight",),
    "adamw_step": ("weight", "first", "second"),
    "mask_weight": ("sample",),
    "feedback_step": ("second", "drift"),
}
RESULTS = {
    "abs_sums": ("rows", "columns"),
    "feedback_scores": ("score",),
    "mask_weight": ("masked", "kept"),
    "remask_weight": ("masked",),
    "threshold_mask": ("mask",),
    "topk_mask": ("mask",),
    "nm_mask": ("mask",),
}


class Placed:
    """An argument on the device, as a view of a storage that is remembered."""

    def __init__(self, tensor: Tensor, layout: str, device: str) -> None:
        self.shape, self.layout = tuple(tensor.shape), layout
        self.base = torch.full(frame(self.shape, layout), FILL, dtype=tensor.dtype, device=device)
        self.view = window(self.base, self.shape, layout)
        self.view.copy_(tensor)
        self.before = self.base.clone()
        self.metadata = self._metadata()

    def require_kept(self, name: str, *, values: bool, case: str) -> None:
        """The tensor is where it was and nothing around it changed; nor did its values, if asked."""
        if self._metadata() != self.metadata:
            raise AssertionError(f"{name} must be updated in place, but its storage was replaced; {case}")
        after = self.base.clone()
        if not values:
            window(after, self.shape, self.layout).copy_(window(self.before, self.shape, self.layout))
        if not torch.equal(bits(after.cpu()), bits(self.before.cpu())):
            what = "the input" if values else "the storage around the in-place argument"
            raise AssertionError(f"{what} {name} must not change, but it did; {case}")

    def _metadata(self) -> tuple[object, ...]:
        return self.view.data_ptr(), self.view.shape, self.view.stride(), self.view.dtype, self.view.device


class Subject:
    """Calls a backend's operations and holds each call to the contract."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def check(
        self, operation: str, /, *arguments: Any, layout: str = "contiguous", **options: Any
    ) -> dict[str, Tensor]:
        """Call twice, once plainly and once watched; both must give what the reference gives on the host.

        The plain call is there because watching can turn a compiler off.  Returned are the outcomes on the host: the
        arguments updated in place by their name, or what came back.
        """
        call = inspect.signature(getattr(reference, operation)).bind(*arguments, **options)
        case = f"{describe(call.arguments)}, {layout}"
        plain = self.outcome(operation, call, layout, case, watched=False)
        watched = self.outcome(operation, call, layout, case, watched=True)
        for name, tensor in self._expected(operation, call).items():
            # the watched one first: where memory was never written, it says so
            for actual in (watched, plain):
                require_equal(operation, name, actual[name].cpu(), tensor, case)
        return {name: tensor.cpu() for name, tensor in watched.items()}

    def repeat(self, operation: str, /, *arguments: Any, **options: Any) -> None:
        """Two calls on equal inputs give equal bits, in memory of their own."""
        call = inspect.signature(getattr(reference, operation)).bind(*arguments, **options)
        case = describe(call.arguments)
        first, second = (self.outcome(operation, call, "contiguous", case, watched=False) for _ in range(2))
        for name in first:
            if first[name].data_ptr() == second[name].data_ptr():
                raise AssertionError(f"{operation}: {name} must be fresh, but two calls share its memory; {case}")
            if not torch.equal(bits(first[name].cpu()), bits(second[name].cpu())):
                raise AssertionError(f"{operation}: {name} must be the same bits on every call, but two differ; {case}")

    def outcome(
        self, operation: str, call: inspect.BoundArguments, layout: str, case: str, *, watched: bool
    ) -> dict[str, Tensor]:
        device = self.backend.device_type
        placed = {k: Placed(v, layout, device) for k, v in call.arguments.items() if isinstance(v, Tensor)}
        moved = inspect.BoundArguments(
            call.signature, call.arguments | {name: argument.view for name, argument in placed.items()}
        )
        with Watch(forbid_waiting=device != "cpu") if watched else nullcontext():
            returned = getattr(self.backend, operation)(*moved.args, **moved.kwargs)
        # an optional tensor that was not given is not there to be updated
        changed = [name for name in IN_PLACE.get(operation, ()) if name in placed]
        for name, argument in placed.items():
            argument.require_kept(f"{operation}: {name}", values=name not in changed, case=case)
        outcome = {name: placed[name].view for name in changed}
        return outcome | self._returned(operation, returned, placed, case)

    def _returned(self, operation: str, returned: object, placed: dict[str, Placed], case: str) -> dict[str, Tensor]:
        if (names := RESULTS.get(operation, ())) == ():
            if returned is not None:
                raise AssertionError(
                    f"{operation}: it works in place and must return None, not {type(returned)}; {case}"
                )
            return {}
        results = returned if isinstance(returned, tuple) else (returned,)
        if len(results) != len(names) or not all(isinstance(result, Tensor) for result in results):
            raise AssertionError(f"{operation}: it must return tensors {names}, not {type(returned)}; {case}")
        inputs = {argument.view.untyped_storage().data_ptr() for argument in placed.values()}
        for name, result in zip(names, results, strict=True):
            if result.device.type != self.backend.device_type:
                raise AssertionError(f"{operation}: {name} must stay on the device, but is on {result.device}; {case}")
            if not result.is_contiguous():
                raise AssertionError(
                    f"{operation}: {name} must be contiguous, not of strides {result.stride()}; {case}"
                )
            if result.numel() and result.untyped_storage().data_ptr() in inputs:
                raise AssertionError(f"{operation}: {name} must be fresh, but shares memory with an input; {case}")
        return dict(zip(names, results, strict=True))

    @staticmethod
    def _expected(operation: str, call: inspect.BoundArguments) -> dict[str, Tensor]:
        copies = {k: v.clone().contiguous() if isinstance(v, Tensor) else v for k, v in call.arguments.items()}
        own = inspect.BoundArguments(call.signature, copies)
        returned = getattr(reference, operation)(*own.args, **own.kwargs)
        results = returned if isinstance(returned, tuple) else (returned,)
        outcome = {name: copies[name] for name in IN_PLACE.get(operation, ()) if isinstance(copies[name], Tensor)}
        return outcome | dict(zip(RESULTS.get(operation, ()), results, strict=False))


def describe(arguments: dict[str, Any]) -> str:
    """The arguments in words: shape and dtype of tensors, the value of the rest."""
    return ", ".join(
        f"{name} {'x'.join(map(str, value.shape)) or 'scalar'} {str(value.dtype).removeprefix('torch.')}"
        if isinstance(value, Tensor)
        else f"{name}={value!r}"
        for name, value in arguments.items()
    )

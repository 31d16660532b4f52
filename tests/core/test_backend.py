"""The contract as an object: the manifest, the operations, and that reference and contract agree."""

from __future__ import annotations

import dataclasses
import inspect
import re

import pytest

from unipruning_core import Backend, BackendSpec, Probe
from unipruning_core.backend import DIGIT_BITS, OPERATIONS
from unipruning_core.operations import Operations
from unipruning_kernels import reference


def spec(**changes: object) -> BackendSpec:
    return BackendSpec("here", "cpu", 0, "module:Class", lambda: Probe(True, "here"), **changes)


def test_operations_are_the_abstract_methods_in_order():
    abstract = [name for name, member in vars(Operations).items() if getattr(member, "__isabstractmethod__", False)]
    assert tuple(abstract) == OPERATIONS
    assert set(abstract) == Backend.__abstractmethods__


@pytest.mark.parametrize("operation", OPERATIONS)
def test_reference_takes_what_the_contract_says(operation):
    contract = inspect.signature(getattr(Backend, operation))
    parameters = [p for p in contract.parameters.values() if p.name != "self"]
    defined = inspect.signature(getattr(reference, operation))
    assert list(defined.parameters.values()) == parameters
    assert defined.return_annotation == contract.return_annotation


@pytest.mark.parametrize("operation", OPERATIONS)
def test_help_says_the_shape_and_dtype_of_every_tensor(operation):
    contract = inspect.signature(getattr(Backend, operation))
    told = dict(re.findall(r"^ {4}(\w+): (.+)$", inspect.getdoc(getattr(Backend, operation)), re.MULTILINE))
    # those of mask_weight that it has in common with feedback_scores are told there
    tensors = {name for name, parameter in contract.parameters.items() if "Tensor" in str(parameter.annotation)}
    told_elsewhere = {"second", "drift", "r", "p", "q", "weight"} if operation == "mask_weight" else set()
    for name in tensors - told_elsewhere:
        assert re.match(
            r"`*(\(.+\)|0-D)`*, (any float|float32|float16|bfloat16|u?int\d+|the weight's dtype)", told[name]
        )
    assert set(told) <= set(contract.parameters)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations_to_inherit_are_the_reference_itself(operation):
    assert getattr(reference.Operations, operation) is getattr(reference, operation)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_backend_that_lacks_an_operation_cannot_be_made(operation):
    others = {other: staticmethod(getattr(reference, other)) for other in OPERATIONS if other != operation}
    incomplete = type("Incomplete", (Backend,), others)
    with pytest.raises(TypeError, match=operation):
        incomplete()


def test_digits_are_cut_alike_and_cover_the_magnitude():
    assert DIGIT_BITS == reference.DIGIT_BITS
    assert sum(DIGIT_BITS) == 31


def test_manifest_optimises_nothing_unless_it_says_so():
    assert spec().optimised == frozenset()


def test_manifest_refuses_operations_that_do_not_exist():
    with pytest.raises(ValueError, match=r"'here' declares operations that do not exist: \['nm_sort'\]"):
        spec(optimised=frozenset({"nm_mask", "nm_sort"}))


def test_manifest_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec().priority = 1

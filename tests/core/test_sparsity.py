"""What the user may write for a sparsity, and how many weights it keeps."""

from __future__ import annotations

from fractions import Fraction

import pytest

from unipruning_core.errors import ConfigError
from unipruning_core.sparsity.forms import SemiStructured, Unstructured
from unipruning_core.sparsity.parse import check_distinct, parse_sparsity
from unipruning_core.storage.checkpoint import Target


@pytest.mark.parametrize(
    ("text", "sparsity", "slug"),
    [
        ("60%", Unstructured(Fraction(3, 5)), "60"),
        ("60%/matrix", Unstructured(Fraction(3, 5), "matrix"), "60"),
        ("60.0%", Unstructured(Fraction(3, 5)), "60"),
        ("060%", Unstructured(Fraction(3, 5)), "60"),
        ("0%", Unstructured(Fraction(0)), "0"),
        ("37.5%", Unstructured(Fraction(3, 8)), "37.5"),
        ("60%/row", Unstructured(Fraction(3, 5), "row"), "60-row"),
        ("70%/global", Unstructured(Fraction(7, 10), "global"), "70-global"),
        ("99.999999999%", Unstructured(1 - Fraction(1, 10**11)), "99.999999999"),
        ("2:4", SemiStructured(2, 4), "2-4"),
        ("16:32", SemiStructured(16, 32), "16-32"),
        ("1:2", SemiStructured(1, 2), "1-2"),
    ],
)
def test_a_sparsity_is_read_and_named(text, sparsity, slug):
    assert parse_sparsity(text) == sparsity
    assert parse_sparsity(text).slug == slug
    assert parse_sparsity(str(sparsity)) == sparsity


def test_the_canonical_text_drops_zeros_that_say_nothing():
    assert str(parse_sparsity("060.50%/row")) == "60.5%/row"


REFUSED = """60|0.6|60 %|100%|100.0%|101%|-1%|60%/layer|٦٠%|nan%|1e1%|2:4/row|4:4|4:2|0:4|2:33|2:4:8||60%
"""


@pytest.mark.parametrize("text", REFUSED.split("|"))
def test_anything_else_is_refused_with_the_forms_that_are_taken(text):
    with pytest.raises(
        ConfigError, match=r"is neither a ratio below 100%, such as 60%.* nor N:M .*, such as 2:4"
    ) as refusal:
        parse_sparsity(text)
    assert repr(text) in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "numel", "keep"),
    [
        ("60%", 10, 4),
        ("60%", 24 * 24, 230),  # 230.4
        ("0%", 7, 7),
        ("50%", 5, 2),  # 2.5, the even neighbour
        ("50%", 7, 4),  # 3.5, the even neighbour
        ("99%", 10, 0),
        ("10%", 10**17 + 10, 9 * 10**16 + 9),  # a double would not know the last digits
        ("2:4", 24, 12),
        ("1:32", 64, 2),
    ],
)
def test_the_number_of_weights_kept_is_exact(text, numel, keep):
    assert parse_sparsity(text).keep(numel) == keep


def test_groups_that_do_not_divide_a_layer_are_refused_by_name():
    targets = [Target("fits", (3, 8)), Target("does.not", (8, 6))]
    with pytest.raises(ConfigError, match=r"'2:4' needs a multiple of 4 inputs, but 'does\.not' has 6"):
        SemiStructured(2, 4).check(targets)
    Unstructured(Fraction(1, 2)).check(targets)
    SemiStructured(1, 2).check(targets)


def test_one_sparsity_in_two_spellings_is_refused():
    with pytest.raises(ConfigError, match="'60%' was given twice"):
        check_distinct(map(parse_sparsity, ["60%", "2:4", "60.0%"]))
    with pytest.raises(ConfigError, match="no sparsity was given"):
        check_distinct([])
    check_distinct(map(parse_sparsity, ["60%", "60%/row", "60%/global", "2:4", "4:8"]))

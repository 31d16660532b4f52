"""Misspelt words: what a refusal asks whether it was meant."""

import pytest

from unipruning_core.cli.main import main
from unipruning_core.errors import BackendNotFoundError, ConfigError
from unipruning_core.sparsity.parse import looks_like_sparsity, parse_sparsity
from unipruning_core.spelling import did_you_mean, nearest

HERE = ["search", ".", "--out", "run"]


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("feedbak", ["feedback", "frozen"], "feedback"),
        ("FROZEN", ["feedback", "frozen"], "frozen"),
        ("bf16", ["float16", "bfloat16"], "bfloat16"),
        ("zzz", ["feedback", "frozen"], None),
        ("", ["feedback"], None),
        ("feedback", [], None),
    ],
)
def test_the_nearest_word_is_one_that_is_like_it(word, known, meant):
    assert nearest(word, known) == meant
    assert did_you_mean(word, known) == (f"; did you mean {meant!r}?" if meant else "")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("0.6", "60%"),
        (".5", "50%"),
        ("0.625", "62.5%"),
        ("60", "60%"),
        ("37.5", "37.5%"),
        ("2/4", "2:4"),
        ("4:2", "2:4"),
        ("60%/rows", "60%/row"),
        ("60 %", "60%"),
    ],
)
def test_what_others_write_for_a_sparsity_is_asked_about(text, meant):
    assert str(parse_sparsity(meant)) == meant
    with pytest.raises(ConfigError, match=f"did you mean {meant}\\?$"):
        parse_sparsity(text)


@pytest.mark.parametrize("text", ["half", "5O%", "100", "33:64", "1e-1", "60%/", "60%/zzz", "", "٠.٦"])
def test_what_may_mean_anything_is_not_guessed(text):
    with pytest.raises(ConfigError, match=r"such as 2:4\+dense@45%$"):
        parse_sparsity(text)


def test_a_word_is_a_sparsity_by_its_form_alone():
    sparsities = ("60%", "60%/row", "60%/rows", "0.6", ".6", "60", "2:4", "2/4", "@budget.json", "2:4+dense@45%")
    others = ("./model", "smollm2-135m", "org/model", "model", "--out", "7b", "pruned/60", "a@b", "")
    assert all(map(looks_like_sparsity, sparsities))
    assert not any(map(looks_like_sparsity, others))


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ([*HERE, "--mode", "feedbak"], "feedback"),
        ([*HERE, "--metric", "wonda"], "wanda"),
        ([*HERE, "--dtype", "bf16"], "bfloat16"),
        ([*HERE, "--backend", "cup"], "cpu"),
        (["plan", "lama-2-7b"], "llama-2-7b"),
        (["compare", ".", "--methods", "wnada", "--sparsity", "60%", "--out", "o"], "wanda"),
        (["compare", ".", "--methods", "wanda/rows", "--sparsity", "60%", "--out", "o"], "row"),
        (["compare", ".", "--preset", "pears", "--sparsity", "60%", "--out", "o"], "peers"),
        (["bench", "mirror_stp"], "mirror_step"),
        (["bench", "--dtype", "bfloat6"], "bfloat16"),
        (["bench", "--baseline", "eagerr"], "eager"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[-1],
)
def test_a_command_asks_about_a_misspelt_name(words, meant, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert capsys.readouterr().err.endswith(f"; did you mean {meant!r}?\n")


def test_a_backend_that_is_like_none_is_listed_alone():
    assert str(BackendNotFoundError("zzz", ["cpu", "cuda"])) == "no backend is called 'zzz'; installed: cpu, cuda"

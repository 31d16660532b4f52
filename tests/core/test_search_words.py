"""The command that makes a search again: what the parser reads from its words is what was recorded."""

from unipruning_core.cli.arguments import calibration_from, settings_from
from unipruning_core.cli.main import build_parser
from unipruning_core.search.modes import MODES
from unipruning_core.search.words import search_words

DATA = {"samples": 3, "seq_len": 16, "packing": "document", "split": "train", "text_column": "body", "tokenizer": "t"}


def read(*, compiles=False, **more):
    settings = MODES["feedback"](ramp_sparsity=0.6, seed=4)
    patterns = {"include": ["*.q_proj"], "exclude": ["re:.*1.*"]}
    words = search_words("m", settings.to_json(), DATA | more, patterns, revision="v1", compiles=compiles)
    options = build_parser().parse_args([*words[1:], "--out", "run"])
    assert settings_from(options) == settings
    assert (options.model, options.revision) == ("m", "v1")
    assert (options.include, options.exclude) == (["*.q_proj"], ["re:.*1.*"])
    assert options.compile == compiles
    return calibration_from(options)


def test_every_option_of_a_search_is_among_its_words():
    for compiles in (False, True):
        assert read(source="a.txt", compiles=compiles) == DATA | {"data": "a.txt"}


def test_a_mixture_has_its_texts_with_their_weights():
    parts = [{"source": "a.txt", "weight": 0.7}, {"source": "b.txt", "weight": 0.3}]
    assert read(source="a.txt and b.txt", sources=parts)["data"] == {"a.txt": 0.7, "b.txt": 0.3}

"""Texts of every form through the commands: what they do with them, and what they say."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
from _texts import lines, write

from unipruning_core.cli.main import main

LINES = [" ".join(f"word{(row * column) % 50 + 1}" for column in range(1, 12 + 5 * row)) for row in range(1, 9)]
COMMON = ["--samples", "4", "--seq-len", "32", "--backend", "cpu"]
TEMPLATE = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"


@pytest.fixture(scope="module")
def talker(home, tmp_path_factory):
    """The model with a chat template."""
    folder = shutil.copytree(home / "model", tmp_path_factory.mktemp("talker") / "model")
    write(folder / "chat_template.jinja", TEMPLATE)
    return folder


FORMS = {
    "t.csv": "id,label,text\n" + "".join(f"{number},pos,{line}\n" for number, line in enumerate(LINES)),
    "chat.jsonl": lines(*({"messages": [{"role": "user", "content": line}]} for line in LINES)),
    "ids.jsonl": lines(*({"input_ids": list(range(1, 20))} for _ in LINES)),
    "c4-train.00000-of-01024.json.gz": gzip.compress(lines(*({"text": line} for line in LINES)).encode()),
}
READ = {
    "t.csv": "text in column 'text' (8 documents)",
    "chat.jsonl": "conversations in column 'messages' (8 documents)",
    "ids.jsonl": "token ids in column 'input_ids' (8 documents)",
    "c4-train.00000-of-01024.json.gz": "text in column 'text' (8 documents)",
}


@pytest.mark.parametrize("name", FORMS)
def test_a_search_and_a_perplexity_read_every_form_and_say_which(talker, tmp_path, capsys, name):
    text = write(tmp_path / name, FORMS[name])
    words = ["search", str(talker), "--data", text, *COMMON, "--mode", "frozen", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    assert f"text {text!r}: {READ[name]}\n" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"]["tokens"] == 4 * 32
    assert main(["perplexity", str(talker), "--data", text, "--seq-len", "32", "--backend", "cpu"]) == 0
    assert f"text {text!r}: {READ[name]}\n" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["feedback", "drift", "coupled", "frozen"])
def test_every_mode_takes_conversations_of_any_length(talker, tmp_path, mode):
    text = write(tmp_path / "chat.jsonl", FORMS["chat.jsonl"])
    words = ["search", str(talker), "--data", text, *COMMON, "--samples", "8", "--packing", "document", "--mode", mode]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    # a word of the template before each
    lengths = [min(32, 1 + len(line.split())) for line in LINES]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"]["tokens"] == sum(lengths) < 8 * 32


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("t.csv", ["--field", "nonesuch"], "a column 'nonesuch', but has ['label', 'text']; name the text column"),
        ("t.txt", ["--field", "nonesuch"], "--text-column nonesuch is for tables, and "),
        (
            "chat.jsonl",
            ["--field", "messages"],
            "is a conversation, but the model's tokenizer has no chat template",
        ),
        ("far.jsonl", [], "has the token id 9999, but the model's embedding has only"),
        ("t.html", [], "is markup, which is not read"),
        ("mixed", [], "has files of several kinds"),
    ],
)
@pytest.mark.parametrize("command", ["search", "perplexity"])
def test_what_cannot_be_read_is_one_sentence(home, tmp_path, refused, command, name, options, says):
    write(tmp_path / "t.txt", "word1 " * 200)
    write(tmp_path / "t.html", "word1 " * 200)
    write(tmp_path / "far.jsonl", lines(*({"input_ids": [1, 9999] * 40} for _ in range(4))))
    write(tmp_path / "chat.jsonl", FORMS["chat.jsonl"])
    write(tmp_path / "t.csv", FORMS["t.csv"])
    (tmp_path / "mixed").mkdir()
    write(tmp_path / "mixed" / "a.csv", "a")
    write(tmp_path / "mixed" / "a.jsonl", "a")
    more = [*COMMON, "--out", tmp_path / "run"] if command == "search" else ["--seq-len", "32"]
    said = refused(command, home / "model", "--data", tmp_path / name, *options, *more)
    assert says in said
    assert len(said.replace(str(tmp_path), "")) < 300
    assert not (tmp_path / "run").exists()


def test_a_relative_folder_is_read_as_an_absolute_one(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data/c4").mkdir(parents=True)
    write(Path("data/c4/a.jsonl"), lines(*({"text": line} for line in LINES)))
    prints = []
    for name in ("data/c4", str(tmp_path / "data" / "c4")):
        run = tmp_path / f"run {len(prints)}"
        assert (
            main(["search", str(home / "model"), "--data", name, *COMMON, "--mode", "frozen", "--out", str(run)]) == 0
        )
        data = json.loads((run / "run.json").read_text())["data"]
        prints.append((data["sha256"], data["fingerprint"]))
    assert prints[0] == prints[1]

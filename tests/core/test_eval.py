"""Checkpoints measured on tasks of lm-eval from local files, by the command and by its function."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from statistics import mean, stdev

import pytest
from _checkpoints import WORDS, changed, save_home

import unipruning
from unipruning_core.cli.main import main
from unipruning_core.errors import ConfigError
from unipruning_core.evaluation import harness, job
from unipruning_core.evaluation.records import folder_name
from unipruning_core.storage.checkpoint import Checkpoint

CHOICES = WORDS[3:7]
PICK = """\
task: pick
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder with two tasks of eight questions."""
    folder = tmp_path_factory.mktemp("tasks")
    questions = [
        {
            "question": f"{CHOICES[n % 4]} {CHOICES[n // 4]}",
            "choices": [f" {word}" for word in CHOICES],
            "answer": n % 3,
        }
        for n in range(8)
    ]
    data = folder / "pick.jsonl"
    data.write_text("".join(f"{json.dumps(item)}\n" for item in questions))
    (folder / "pick.yaml").write_text(PICK.format(data=data))
    (folder / "again.yaml").write_text(PICK.format(data=data).replace("task: pick", "task: again"))
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two models with one tokenizer, which has an end of text, as lm-eval asks."""
    from transformers import AutoTokenizer

    folders = [save_home(tmp_path_factory.mktemp(name)) / "model" for name in ("dense", "other")]
    for folder in folders:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.eos_token = WORDS[0]
        tokenizer.save_pretrained(folder)
    changed(folders[1], lambda tensors: tensors["lm_head.weight"].mul_(-30))
    return tuple(map(str, folders))


@pytest.fixture
def words(two, tasks, home, tmp_path):
    out = ["--out", str(tmp_path / "out")]
    text = ["--data", str(home / "text.txt"), "--seq-len", "16", "--windows", "3"]
    return ["eval", *two, "--tasks", "pick", "--include-path", str(tasks), *text, *out]


def fingerprint(model):
    return Checkpoint.open(Path(model)).fingerprint()


def table(out):
    with (out / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_figures_are_those_of_lm_eval_and_differences_are_paired(words, two, home, tmp_path, capsys):
    text = str(home / "text.txt")
    assert main(words) == 0
    rows = table(tmp_path / "out")
    assert [(row["task"], row["metric"], row["model"]) for row in rows] == [
        (task, metric, model)
        for task, metric in (("pick", "acc,none"), ("pick", "acc_norm,none"), (text, "perplexity"))
        for model in two
    ]
    first, second = (row for row in rows if row["metric"] == "acc,none")
    by_item = []
    for row, model in zip((first, second), two, strict=True):
        (cell,) = (tmp_path / "out").glob(f"{folder_name(model, fingerprint(model))}/pick-*")
        found = json.loads((cell / "results.json").read_text())["results"]["pick"]
        lines = (cell / "samples_pick.jsonl").read_text().splitlines()
        by_item.append([json.loads(line)["acc"] for line in lines])
        assert float(row["value"]) == found["acc,none"] == mean(by_item[-1])
        assert float(row["stderr"]) == found["acc_stderr,none"]
    pairs = [two - one for one, two in zip(*by_item, strict=True)]
    assert len(set(pairs)) > 1
    assert first["difference"] == ""
    assert float(second["difference"]) == pytest.approx(mean(pairs))
    assert float(second["difference_stderr"]) == pytest.approx(stdev(pairs) / 8**0.5)
    printed = capsys.readouterr()
    assert "paired" in printed.out
    assert "pick: 32 requests in" in printed.err  # 8 questions of 4 choices
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [model["model"] for model in content["models"]] == list(two)
    assert content["models"][1]["tasks"]["pick"]["acc_difference,none"] == float(second["difference"])
    assert content["models"][0]["perplexity"][text]["windows"] == 3


def test_what_is_measured_is_not_measured_again(words, tmp_path, capsys):
    assert main(words) == 0
    out = tmp_path / "out"
    before = {name: (out / name).read_bytes() for name in ("results.csv", "results.json")}
    capsys.readouterr()
    assert main(words) == 0
    assert "measuring" not in capsys.readouterr().err
    # killed while the second model's task was measured
    sorted(out.glob("*/pick-*/measured.json"))[0].unlink()
    (out / "results.csv.partial").write_text("half")
    assert main(words) == 0
    printed = capsys.readouterr().err
    assert printed.count("measuring") == 1
    assert "perplexity:" not in printed
    assert {name: (out / name).read_bytes() for name in before} == before
    assert not list(out.glob("*.partial"))


def test_tasks_and_models_can_be_added(words, two, tmp_path, capsys):
    assert main([word for word in words if word != two[1]]) == 0
    capsys.readouterr()
    assert main([*words, "--tasks", "again"]) == 0
    printed = capsys.readouterr()
    assert printed.err.count("pick: 32 requests") == 1  # of the second model alone
    assert printed.err.count("again: 32 requests") == 2
    assert "of 2 tasks" in printed.out


def test_another_limit_is_another_measurement(words, tmp_path):
    assert main([*words, "--limit", "3"]) == 0
    assert {row["items"] for row in table(tmp_path / "out") if row["task"] == "pick"} == {"3"}
    assert main([*words, "--limit", "5"]) == 0
    assert {row["items"] for row in table(tmp_path / "out") if row["task"] == "pick"} == {"5"}


def test_other_items_or_another_config_are_another_measurement(words, two, tasks, tmp_path, capsys):
    folder, model = shutil.copytree(tasks, tmp_path / "tasks"), shutil.copytree(two[0], tmp_path / "model")
    for path in folder.glob("*.yaml"):
        path.write_text(path.read_text().replace(str(tasks), str(folder)))
    words = ["eval", str(model), "--tasks", "pick", "--include-path", str(folder), "--out", str(tmp_path / "out")]
    data, config = folder / "pick.jsonl", model / "config.json"
    for path, old, new in ((data, '"answer": 0', '"answer": 3'), (config, '"rms_norm_eps": ', '"rms_norm_eps": 1')):
        assert main(words) == 0
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
        capsys.readouterr()
        assert main(words) == 0
        assert "measuring" in capsys.readouterr().err
    (model / "README.md").write_text("a card")  # on which no figure depends
    assert main(words) == 0
    assert "measuring" not in capsys.readouterr().err


def test_a_tokenizer_without_ends_is_refused_before_the_model_is_loaded(tasks, home, tmp_path, refused):
    words = ["--tasks", "pick", "--include-path", tasks, "--out", tmp_path / "out"]
    error = refused("eval", home / "model", *words)
    assert "lm-eval needs a token for the beginning or the end of a text" in error
    assert "measuring" not in error


def test_what_is_given_twice_is_measured_and_shown_once(two, tasks, home, tmp_path):
    given = {"tasks": ["pick", "pick"], "data": [str(home / "text.txt")] * 2, "include_path": tasks}
    found = unipruning.evaluate(two[0], **given, seq_len=16, windows=2, out=tmp_path / "out", progress=False)
    assert [row.metric for row in found.rows] == ["acc,none", "acc_norm,none", "perplexity"]


def test_a_figure_that_is_no_mean_has_an_error_from_drawing_again(two, tasks, tmp_path, monkeypatch, capsys):
    text = (tasks / "pick.yaml").read_text().replace("task: pick", "task: linked").replace("acc_norm", "mcc")
    (tmp_path / "linked.yaml").write_text(text)
    monkeypatch.setattr(harness, "RESAMPLES", 20)
    given = {"tasks": "linked", "include_path": tmp_path, "progress": False}
    found = [unipruning.evaluate(two, **given, out=tmp_path / name).rows for name in ("a", "b")]
    assert found[0] == found[1]
    row = found[0][-1]
    assert (row.metric, row.difference_stderr) == ("mcc,none", None)
    assert row.stderr is not None
    assert capsys.readouterr().out == ""


def test_the_function_returns_the_table(two, tasks, tmp_path):
    found = unipruning.evaluate(
        two, tasks="pick", include_path=tasks, out=tmp_path / "out", limit=2, batch_size=1, progress=False
    )
    assert [row.model for row in found.rows] == [*two, *two]
    assert str(found).startswith("task ")
    assert list(found.to_frame()["model"]) == [*two, *two]


def test_an_unknown_task_is_named_before_a_model_is_loaded(words, refused, monkeypatch):
    monkeypatch.setattr(job, "_measure", None)
    words[words.index("pick")] = "arc_easyy"
    error = refused(*words)
    assert "is called 'arc_easyy'; did you mean 'arc_easy'" in error


def test_without_lm_eval_the_sentence_says_how_to_get_it(words, refused, monkeypatch):
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    assert "pip install 'lm-eval>=0.4.13'" in refused(*words)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tasks": ()}, "nothing to measure"),
        ({"limit": 0}, "--limit must be a whole number from 1, not 0"),
        ({"batch_size": 0}, "--batch-size must be"),
        ({"num_fewshot": -1}, "--num-fewshot must be a whole number from 0"),
    ],
)
def test_what_cannot_be_is_refused(two, tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        unipruning.evaluate(two[0], **{"tasks": "pick", "out": tmp_path / "out", **changes})
    assert not (tmp_path / "out").exists()


def test_a_model_given_twice_is_refused(two, tmp_path):
    with pytest.raises(ConfigError, match="each model is evaluated once"):
        unipruning.evaluate([two[0], two[0]], tasks="pick", out=tmp_path / "out")


def test_a_folder_of_something_else_is_left_alone(words, tmp_path, refused):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    assert "holds something other than an evaluation" in refused(*words)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def test_task_data_that_is_missing_is_one_sentence(words, tasks, tmp_path, refused):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "lost.yaml").write_text(PICK.format(data=broken / "lost.jsonl").replace("task: pick", "task: lost"))
    words[words.index("pick")] = "lost"
    words[words.index(str(tasks))] = str(broken)
    assert "task 'lost' cannot be loaded" in refused(*words)


def test_an_include_path_that_is_no_folder_is_refused(words, tasks, refused):
    words[words.index(str(tasks))] = "nowhere"
    assert "--include-path 'nowhere' is not a folder" in refused(*words)

#!/usr/bin/env bash
# datasets 5.2.0: the same two kinds of rows load from a short JSON lines file and not from a long one.
#
# Expected: the type of a column follows from what the file holds. A field that is null, a number and a
# text in different lines loads as `Json`, a missing field as null, and so it is when tried on a small file.
# Seen: the types are settled by the first 10 MB or so. The same rows further down raise DatasetGenerationError:
# a text after nothing but nulls, a float after integers, a text after numbers, a new field. A sample of
# the data set's head proves nothing. `features=` helps, with one more surprise: as Value("string") the
# text after numbers arrives with the quotes of JSON around it; as Json() it does not.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check datasets==5.2.0 numpy==2.4.6
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1
"$work/venv/bin/python" -W ignore - <<'END'
import json

import datasets

datasets.disable_progress_bars()
datasets.logging.set_verbosity(50)
cases = {
    "text after nulls": ({"m": None}, {"m": "z"}),
    "float after integers": ({"m": 1}, {"m": 1.5}),
    "text after integers": ({"m": 1}, {"m": "z"}),
    "new field": ({}, {"m": "z"}),
}


def load(name, first, last, rows, **settings):
    path = f"{name.replace(' ', '-')}-{rows}.jsonl"
    with open(path, "w") as file:
        line = json.dumps({"text": "x" * 1000, **first}) + "\n"
        file.writelines(line for _ in range(rows))
        file.write(json.dumps({"text": "y", **last}) + "\n")
    try:
        table = datasets.load_dataset("json", data_files=path, split="train", **settings)
    except datasets.exceptions.DatasetGenerationError as error:
        return f"refused: {error.__cause__}".splitlines()[0][:70]
    return table[len(table) - 1]["m"]


for name, (first, last) in cases.items():
    short, long = load(name, first, last, 10), load(name, first, last, 30_000)
    print(f"{name}: 10 rows before it: {short!r}; 30,000 rows before it: {long!r}")
    assert short == last["m"], "the short file loads"
    assert str(long).startswith("refused"), "the long one does not"
asked = {}
for wanted in (datasets.Value("string"), datasets.Json()):
    features = datasets.Features({"text": datasets.Value("string"), "m": wanted})
    asked[type(wanted).__name__] = load("asked", {"m": 1}, {"m": "z"}, 30_000, features=features)
print("text after 30,000 integers, asked for as:", asked)
assert asked == {"Value": '"z"', "Json": "z"}, "as a string it has quotes"
print("as stated: short files load, long ones do not")
END

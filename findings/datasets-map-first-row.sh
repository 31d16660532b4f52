#!/usr/bin/env bash
# datasets 5.2.0: `map` judges by the first row, and drops a later row or field without a word.
#
# Expected: a function that returns None leaves the row as it is, as it leaves the data set as it is when it
# returns None for all; a field that appears in a later row is added, as loading a JSON lines file adds it, or
# is an error.
# Seen: if the first row returned a dict, a row for which the function returns None is missing from the
# result; a field that only later rows return is dropped; a field that only the first returns is a KeyError.
# Row counts and scores aligned by position go wrong where, say, unusable documents return None.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check datasets==5.2.0 numpy==2.4.6
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1
"$work/venv/bin/python" -W ignore - <<'END'
import datasets

datasets.disable_progress_bars()
datasets.logging.set_verbosity(50)
data = datasets.Dataset.from_dict({"row": [0, 1, 2]})


def mapped(function):
    try:
        return data.map(function, load_from_cache_file=False).to_dict()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


never = mapped(lambda row: None)
later = mapped(lambda row: None if row["row"] == 1 else {"score": 1})
extra = mapped(lambda row: {"score": 1} if row["row"] == 0 else {"score": 1, "why": "x"})
fewer = mapped(lambda row: {"score": 1, "why": "x"} if row["row"] == 0 else {"score": 1})
print("None for every row        :", never)
print("None for row 1 alone      :", later)
print("a field from later rows   :", extra)
print("a field of the first alone:", fewer)

assert never == {"row": [0, 1, 2]}, "None for all: unchanged"
assert later == {"row": [0, 2], "score": [1, 1]}, "None for a later row: the row is gone"
assert extra == {"row": [0, 1, 2], "score": [1, 1, 1]}, "a later field is gone"
assert "KeyError" in fewer, "the other way round is an error"
print("as stated: a row and a field dropped silently")
END

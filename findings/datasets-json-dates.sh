#!/usr/bin/env bash
# datasets 5.2.0: a column of JSON strings that look like dates comes back as datetime objects.
#
# Expected: JSON has no dates; a quoted value is a string, in any column and whatever the other rows hold.
# Seen: if every string of the column (of the first 10 MB) reads as an ISO date, the column is
# timestamp[s] and its rows are datetime objects, streaming too; one other string among them and all are
# strings. After 10 MB of dates, other text is refused. Names like "2024-01" are spared, days are not.
# Asking for strings by `features=` does not give the file's text either: it is "2024-01-31 00:00:00".
# So an identifier, version or short-text column changes type with its content, and a tokenizer gets no text.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check datasets==5.2.0 numpy==2.4.6
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1
"$work/venv/bin/python" -W ignore - <<'END'
import datetime
import json

import datasets

datasets.disable_progress_bars()
datasets.logging.set_verbosity(50)


def load(name, texts, **settings):
    with open(f"{name}.jsonl", "w") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    return datasets.load_dataset("json", data_files=f"{name}.jsonl", split="train", **settings)


days = load("days", ["2024-01-31", "2024-02-29"])
mixed = load("mixed", ["2024-01-31", "no date"])
months = load("months", ["2024-01", "2024-02"])
streamed = next(iter(load("days", ["2024-01-31", "2024-02-29"], streaming=True)))["text"]
asked = load("asked", ["2024-01-31"], features=datasets.Features({"text": datasets.Value("string")}))
print("days  :", days.features, days[0])
print("mixed :", mixed.features, mixed[0])
print("months:", months.features, months[0])
print("stream:", repr(streamed))
print("asked :", asked.features, asked[0])
try:
    load("long", ["2024-01-31"] * 700_000 + ["no date"])
    refused = None
except datasets.exceptions.DatasetGenerationError as error:
    refused = str(error.__cause__)
print("700,000 dates, then text:", refused)

assert days.features["text"].dtype == "timestamp[s]" and days[0]["text"] == datetime.datetime(2024, 1, 31)
assert isinstance(streamed, datetime.datetime)
assert mixed[0]["text"] == "2024-01-31" and months[0]["text"] == "2024-01"
assert asked[0]["text"] == "2024-01-31 00:00:00", "asked for as a string, the text is another"
assert refused and "timestamp" in refused
print("as stated: strings came back as datetime objects")
END

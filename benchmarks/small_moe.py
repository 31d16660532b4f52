"""A small mixture of experts, trained on real text in minutes, on which pruning can be measured.

    python benchmarks/small_moe.py --text c4.jsonl wiki.valid.raw --held-out wiki.test.raw --out small-moe

The model is a Qwen3-MoE of transformers' own class: 4 decoder blocks of 192 channels, 8 experts each, 2 of which a
token takes, with the loss that balances them; its vocabulary is a byte-level BPE made of the training text.  OUT is in
the hub's layout.  Beside the model lie ``training.json``, with the settings and all figures, and ``calibration.jsonl``,
the training part of the first --text.  The same command on the same machine, with as many threads, writes the same
weights.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from unipruning_core.data.text import load_text
from unipruning_core.errors import UnipruningError
from unipruning_core.progress import Bars

END = "<|endoftext|>"
SEPARATOR = "\n\n"
WARM_UP = 0.05  # of the steps
LAST_RATE = 0.02  # of the learning rate, where the cosine ends
BETAS, WEIGHT_DECAY, MAX_NORM = (0.9, 0.95), 0.1, 1.0
POINTS = 20  # of the loss curve


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = parser.add_argument_group("text")
    text.add_argument("--text", nargs="+", required=True, metavar="DATA", help="files to train on")
    text.add_argument("--held-out", required=True, metavar="DATA", help="a file to measure the perplexity on")
    text.add_argument(
        "--keep-back",
        type=int,
        default=200,
        metavar="N",
        help="last documents of the first --text, which are kept out of training too (default: %(default)s)",
    )
    text.add_argument("--windows", type=int, default=64, help="windows to measure on (default: %(default)s)")
    text.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder to write, which must not exist")
    model = parser.add_argument_group("model")
    model.add_argument("--vocabulary", type=int, default=2048, help="tokens of the BPE (default: %(default)s)")
    model.add_argument("--hidden", type=int, default=192, help="channels (default: %(default)s)")
    model.add_argument("--layers", type=int, default=4, help="decoder blocks (default: %(default)s)")
    model.add_argument("--heads", type=int, default=3, help="attention heads (default: %(default)s)")
    model.add_argument("--experts", type=int, default=8, help="experts a block (default: %(default)s)")
    model.add_argument("--active", type=int, default=2, help="experts a token (default: %(default)s)")
    model.add_argument("--expert-hidden", type=int, default=96, help="channels of an expert (default: %(default)s)")
    model.add_argument(
        "--balance", type=float, default=0.02, help="weight of the balancing loss (default: %(default)s)"
    )
    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=float, default=2.0, help="passes over the text (default: %(default)s)")
    training.add_argument("--seq-len", type=int, default=256, help="tokens a window (default: %(default)s)")
    training.add_argument("--batch", type=int, default=8, help="windows a step (default: %(default)s)")
    training.add_argument("--learning-rate", type=float, default=3e-3, help="highest, of AdamW (default: %(default)s)")
    training.add_argument("--seed", type=int, default=0, help="of weights and order (default: %(default)s)")
    training.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="of torch (default: %(default)s)"
    )
    options = parser.parse_args(words)
    if options.out.exists():
        parser.error(f"--out must not exist, and {str(options.out)!r} does; choose another folder")
    try:
        sources = [list(load_text(source).documents) for source in options.text]
        held_out_text = SEPARATOR.join(load_text(options.held_out).documents)
    except UnipruningError as error:
        parser.error(str(error))
    cut = len(sources[0]) - options.keep_back
    if cut < 1:
        parser.error(f"--keep-back must be less than the {len(sources[0])} documents of {options.text[0]!r}")
    sources[0], kept_back = sources[0][:cut], sources[0][cut:]
    documents = [document for source in sources for document in source]

    torch.set_num_threads(options.threads)
    tokenizer = make_tokenizer(documents, options.vocabulary)
    tokens = encode(tokenizer, documents)
    if len(tokens) < 2 * options.seq_len:
        parser.error(f"--text must have two windows of {options.seq_len} tokens, not {len(tokens)} tokens; add text")
    model = make_model(options, tokenizer)
    print(f"{len(tokens)} tokens to train on, {sum(p.numel() for p in model.parameters())} parameters", flush=True)
    began = time.perf_counter()
    curve = train(model, tokens, options)
    seconds = time.perf_counter() - began

    held_out = encode(tokenizer, [held_out_text])
    figures: dict[str, Any] = {
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()},
        "parameters": shares(model),
        "tokens_in_text": len(tokens),
        "tokens_seen": curve[-1]["tokens"],
        "seconds": seconds,
        "curve": curve,
        "held_out": measure(model, held_out, tokens, options),
        "kept_back": measure(model, encode(tokenizer, kept_back), tokens, options) if kept_back else None,
    }
    options.out.mkdir(parents=True)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    rows = "".join(json.dumps({"text": document}) + "\n" for document in sources[0])
    (options.out / "calibration.jsonl").write_text(rows, encoding="utf-8")
    (options.out / "training.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    for key in ("parameters", "tokens_seen", "seconds", "held_out", "kept_back"):
        print(f"{key}: {json.dumps(figures[key])}")


def make_tokenizer(documents: list[str], size: int) -> Any:
    """Return a byte-level BPE of ``size`` tokens made of the documents."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        documents,
        trainers.BpeTrainer(vocab_size=size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END)


def encode(tokenizer: Any, documents: list[str]) -> Tensor:
    """Return the ids of all documents, each ended by END, in one vector."""
    rows = tokenizer(documents, verbose=False)["input_ids"]
    return torch.tensor([token for row in rows for token in (*row, tokenizer.eos_token_id)])


def make_model(options: argparse.Namespace, tokenizer: Any) -> Any:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(options.seed)
    config = Qwen3MoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=1,
        head_dim=options.hidden // options.heads,
        num_experts=options.experts,
        num_experts_per_tok=options.active,
        moe_intermediate_size=options.expert_hidden,
        intermediate_size=options.expert_hidden * options.active,  # of a dense block, of which there is none
        norm_topk_prob=True,
        router_aux_loss_coef=options.balance,
        max_position_embeddings=options.seq_len,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )
    return Qwen3MoeForCausalLM(config)


def windows(tokens: Tensor, length: int, order: torch.Generator) -> Iterator[Tensor]:
    """Yield windows of ``length`` ids for ever: each pass has an offset and an order of its own."""
    while True:
        start = int(torch.randint(length, (), generator=order))
        count = (len(tokens) - start) // length
        rows = tokens[start : start + count * length].view(count, length)
        yield from rows[torch.randperm(count, generator=order)]


def train(model: Any, tokens: Tensor, options: argparse.Namespace) -> list[dict[str, float]]:
    """Train the model in place; return mean losses along the way."""
    steps = math.ceil(options.epochs * len(tokens) / (options.batch * options.seq_len))
    warm_up = max(1, round(WARM_UP * steps))
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.ndim < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.learning_rate, betas=BETAS, fused=True)

    def rate(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        cosine = math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))
        return LAST_RATE + (1 - LAST_RATE) * (1 + cosine) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    source = windows(tokens, options.seq_len, torch.Generator().manual_seed(options.seed))
    curve: list[dict[str, float]] = []
    losses: list[float] = []
    model.train()
    with Bars().task("training", steps, "steps") as task:
        for step in range(1, steps + 1):
            ids = torch.stack([next(source) for _ in range(options.batch)])
            output = model(input_ids=ids, output_router_logits=True)
            loss = cross_entropy(output.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
            (loss + options.balance * output.aux_loss).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            task.advance(loss=losses[-1])
            if step * POINTS // steps > (step - 1) * POINTS // steps:
                curve.append({"tokens": step * options.batch * options.seq_len, "loss": sum(losses) / len(losses)})
                losses.clear()
    return curve


def shares(model: Any) -> dict[str, float]:
    """Return the parameters, and the share of the experts in those outside embeddings."""
    total = sum(weight.numel() for weight in model.parameters())
    outside = total - model.get_input_embeddings().weight.numel()
    experts = sum(weight.numel() for name, weight in model.named_parameters() if ".experts." in name)
    return {"all": total, "outside_embeddings": outside, "experts": experts, "share_of_experts": experts / outside}


@torch.no_grad()
def measure(model: Any, tokens: Tensor, trained: Tensor, options: argparse.Namespace) -> dict[str, Any]:
    """Return perplexities of the model and of the unigram of the training text, and the tokens of each expert."""
    count = min(options.windows, len(tokens) // options.seq_len)
    ids = tokens[: count * options.seq_len].view(count, options.seq_len)
    model.eval()
    losses = []
    usage = torch.zeros(options.layers, options.experts, dtype=torch.int64)
    for window in ids:
        output = model(input_ids=window[None], output_router_logits=True)
        losses.append(cross_entropy(output.logits[0, :-1], window[1:]).item())
        for row, logits in zip(usage, output.router_logits, strict=True):
            row += logits.topk(options.active).indices.flatten().bincount(minlength=options.experts)
    frequency = trained.bincount(minlength=model.config.vocab_size).double() + 1
    unigram = cross_entropy(frequency.log().expand(ids[:, 1:].numel(), -1), ids[:, 1:].flatten()).item()
    share = usage / usage.sum(1, keepdim=True)
    return {
        "windows": count,
        "perplexity": math.exp(sum(losses) / count),
        "unigram_perplexity": math.exp(unigram),
        "tokens_of_experts": usage.tolist(),
        "least_and_most_share": [share.min().item(), share.max().item()],
    }


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Step time and memory of training here and in transformers, over the length of rows,
the size of the model, rows in a batch, the share of trained tokens, and packing.

    bench_curves.py TRAINER [--python PYTHON] [--curves length,size,...] [--runs N]
                    [--steps N] [--warmup N] [--threads N] [--points N] [--folder FOLDER]

TRAINER is the trainer binary; `trainer bench` times its steps. PYTHON (default: the
one that runs this) has torch and transformers; its side is a Llama with SDPA, the loss
of transformers, gradients clipped to norm 1 and torch's AdamW, on the same rows. Both
compute in float32 from random weights, and train all of them.

  length   one row of 256 to 8,192 tokens (8M parameters)
  size     4 rows of 256 tokens, 1M to 135M parameters
  batch    1 to 16 rows of 256 tokens (8M)
  masked   4 rows of 512 tokens, of which all, a half and a tenth are trained (8M)
  packing  documents of 20 to 280 tokens in rows of 2,048, one row a step (8M): packed
           there too, with position ids by which transformers keeps documents apart,
           and padded there, as many documents a step as a packed row has

The runs of a point alternate. Printed are a markdown table for each curve with medians
over the runs: milliseconds a step, MiB at most, and ours over theirs.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PARITY = Path(__file__).parent.parent / "crates/trainer-cli/tests/parity"
TOKENIZER = ["tokenizer.json", "tokenizer_config.json"]

# Hidden width, layers, heads, key-value heads, MLP width, vocabulary.
SIZES = {
    "1M": (128, 4, 4, 2, 344, 2048),
    "8M": (256, 4, 4, 2, 688, 8192),
    "35M": (512, 8, 8, 4, 1376, 16384),
    "135M": (576, 30, 9, 3, 1536, 49152),
}


def model_config(size: str) -> dict[str, object]:
    hidden, layers, heads, kv_heads, mlp, vocabulary = SIZES[size]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "intermediate_size": mlp,
        "vocab_size": vocabulary,
        "max_position_embeddings": 8192,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


def documents(lengths: list[int], share: float) -> list[dict[str, list[int]]]:
    """Rows of random tokens, of which the last part is trained."""
    rows = []
    for number, length in enumerate(lengths):
        draw = random.Random(number)
        ids = [draw.randrange(3, 1000) for _ in range(length)]
        masked = length - max(1, round(share * length))
        labels = [-100] * masked + ids[masked:]
        rows.append({"input_ids": ids, "labels": labels, "attention_mask": [1] * length})
    return rows


def point(name, lengths, size="8M", batch=1, share=1.0, width=None, theirs="plain", packed=False):
    return {
        "name": name,
        "lengths": lengths,
        "size": size,
        "batch": batch,
        "share": share,
        "width": width or max(lengths),
        "theirs": theirs,
        "packed": packed,
    }


def curves() -> dict[str, list[dict[str, object]]]:
    draw = random.Random(7)
    short = [draw.randrange(20, 280) for _ in range(400)]
    packing = {"width": 2048, "packed": True}
    return {
        "length": [point(f"{n:,}", [n] * 4) for n in (256, 512, 1024, 2048, 4096, 8192)],
        "size": [point(size, [256] * 16, size=size, batch=4) for size in SIZES],
        "batch": [point(str(n), [256] * (4 * n), batch=n) for n in (1, 2, 4, 8, 16)],
        "masked": [point(f"{share:.0%}", [512] * 16, batch=4, share=share) for share in (1.0, 0.5, 0.1)],
        "packing": [
            point("packed there", short, theirs="packed", **packing),
            point("padded there", short, theirs="padded", **packing),
        ],
    }


def pack(lengths: list[int], width: int) -> list[list[int]]:
    """Which documents share a row, in their order, first fit."""
    rows: list[list[int]] = []
    room: list[int] = []
    for index, length in enumerate(lengths):
        fit = next((row for row, left in enumerate(room) if left >= length), None)
        if fit is None:
            rows.append([])
            room.append(width)
            fit = len(rows) - 1
        rows[fit].append(index)
        room[fit] -= length
    return rows


def batches(spec: dict[str, object]) -> list[list[list[int]]]:
    """The documents of each row of each batch of transformers."""
    indices = range(len(spec["lengths"]))
    if spec["theirs"] == "plain":
        rows = [[index] for index in indices]
        return [rows[at : at + spec["batch"]] for at in range(0, len(rows), spec["batch"])]
    packed = pack(spec["lengths"], spec["width"])
    if spec["theirs"] == "packed":
        return [[row] for row in packed]
    return [[[index] for index in row] for row in packed]


def torch_side(path: str) -> None:
    """Runs in another process: trains with transformers and prints what `trainer bench`
    prints, as far as this script reads it."""
    import resource
    import time

    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    spec = json.loads(Path(path).read_text(encoding="utf-8"))
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    config = LlamaConfig(**model_config(spec["size"]))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)
    rows = documents(spec["lengths"], spec["share"])

    def tensors(batch: list[list[int]]) -> dict[str, torch.Tensor]:
        made = []
        for members in batch:
            ids, labels, positions = [], [], []
            for index in members:
                row = rows[index]
                ids += row["input_ids"]
                # The first token of a document is no target.
                labels += [-100] + row["labels"][1:]
                positions += range(len(row["input_ids"]))
            made.append((ids, labels, positions))
        longest = max(len(ids) for ids, _, _ in made)
        fill = lambda values, value: values + [value] * (longest - len(values))
        inputs = {
            "input_ids": torch.tensor([fill(ids, 0) for ids, _, _ in made]),
            "labels": torch.tensor([fill(labels, -100) for _, labels, _ in made]),
        }
        if spec["theirs"] == "packed":
            inputs["position_ids"] = torch.tensor([positions for _, _, positions in made])
        elif spec["theirs"] == "padded":
            inputs["attention_mask"] = torch.tensor([fill([1] * len(ids), 0) for ids, _, _ in made])
        return inputs

    planned = batches(spec)
    seconds, tokens = [], 0
    for step in range(spec["warmup"] + spec["steps"]):
        batch = planned[step % len(planned)]
        started = time.perf_counter()
        loss = model(**tensors(batch), use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step >= spec["warmup"]:
            seconds.append(time.perf_counter() - started)
            tokens += sum(spec["lengths"][index] for row in batch for index in row)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result = {
        "seconds": {"step": statistics.median(seconds)},
        "tokens_per_second": tokens / sum(seconds),
        "peak_memory_bytes": peak,
    }
    print(json.dumps(result))


def write_point(folder: Path, spec: dict[str, object]) -> None:
    """The model, the rows and the configuration of a point."""
    shutil.rmtree(folder, ignore_errors=True)
    model = folder / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text(json.dumps(model_config(spec["size"])), encoding="utf-8")
    for name in TOKENIZER:
        shutil.copy(PARITY / "models/llama" / name, model / name)
    with open(folder / "rows.jsonl", "w", encoding="utf-8") as file:
        for row in documents(spec["lengths"], spec["share"]):
            file.write(json.dumps(row) + "\n")
    config = {
        "base_model": str(model),
        "reinit_weights": True,
        "datasets": [{"path": str(folder / "rows.jsonl"), "ds_type": "json", "type": "pretokenized"}],
        "dataset_prepared_path": str(folder / "prepared"),
        "output_dir": str(folder / "out"),
        "sequence_len": spec["width"],
        "sample_packing": spec["packed"],
        "pad_to_sequence_len": False,
        "curriculum_sampling": True,
        "shuffle_merged_datasets": False,
        "micro_batch_size": spec["batch"],
        "num_epochs": 1,
        "optimizer": "adamw_torch",
        "learning_rate": 0.0001,
        "weight_decay": 0.01,
        "lr_scheduler": "constant",
        "bf16": False,
    }
    (folder / "run.yaml").write_text(json.dumps(config, indent=1), encoding="utf-8")
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")


def measured(command: list[str], env: dict[str, str]) -> dict[str, object]:
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    if sys.argv[1:2] == ["--torch-side"]:
        return torch_side(sys.argv[2])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trainer", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--curves", default=",".join(curves()))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--points", type=int, help="only so many points of each curve")
    parser.add_argument("--folder", type=Path, help="work here (default: a temporary folder)")
    args = parser.parse_args()
    folder = Path(args.folder or tempfile.mkdtemp(prefix="bench-curves-")).resolve()
    env = {
        **os.environ,
        "RAYON_NUM_THREADS": str(args.threads),
        "OMP_NUM_THREADS": str(args.threads),
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    for curve in args.curves.split(","):
        print(f"\n{curve}, {args.threads} threads, medians of {args.runs} runs of {args.steps} steps\n")
        print("| | ours, ms | theirs, ms | ratio | ours, MiB | theirs, MiB | ratio |")
        print("|---|---|---|---|---|---|---|", flush=True)
        for spec in curves()[curve][: args.points]:
            here = folder / curve / str(spec["name"]).replace(" ", "-")
            spec |= {"threads": args.threads, "steps": args.steps, "warmup": args.warmup}
            write_point(here, spec)
            run = str(here / "run.yaml")
            counts = ["--steps", str(args.steps), "--warmup", str(args.warmup)]
            sides = [
                [str(args.trainer.resolve()), "bench", "--json", "--quiet", *counts, run],
                [args.python, __file__, "--torch-side", str(here / "spec.json")],
            ]
            results: list[list[tuple[float, float]]] = [[], []]
            for _ in range(args.runs):
                for side, command in zip(results, sides, strict=True):
                    got = measured(command, env)
                    # Where rows differ in length, a step is not the same work: time a token.
                    tokens = got["tokens_per_second"]
                    side.append((tokens, got["peak_memory_bytes"] / 2**20))
            medians = [[statistics.median(values) for values in zip(*side)] for side in results]
            per_step = statistics.mean(spec["lengths"]) * spec["batch"]
            if spec["packed"]:
                per_step = sum(spec["lengths"]) / len(pack(spec["lengths"], spec["width"]))
            (ours, our_mib), (theirs, their_mib) = [(1e3 * per_step / speed, mib) for speed, mib in medians]
            print(
                f"| {spec['name']} | {ours:,.1f} | {theirs:,.1f} | {ours / theirs:.2f} "
                f"| {our_mib:,.0f} | {their_mib:,.0f} | {our_mib / their_mib:.2f} |",
                flush=True,
            )
    if args.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Time `trainer preprocess` against `datasets.map`, and Axolotl's `preprocess`, on
the same chat rows.

    bench_preprocess.py TRAINER [TOKENIZER] [--axolotl PYTHON] [--rows N] [--runs N]
                        [--procs N] [--folder FOLDER] [--keep]

TRAINER is the trainer binary, TOKENIZER a folder with tokenizer.json and a chat
template (default: the one of the recorded runs). The rows are those of the
recorded runs, repeated with another number in each message. Both sides render
the same template, tokenize with the same tokenizer, cut nothing and write the
result to disk; the trainer also finds the spans to train, as Axolotl does, and
`datasets.map` does not. The runs alternate; medians of wall time, and of the
largest memory of all processes of a run (proportional set size, sampled every
20 ms), are printed.

Needs datasets and transformers for `datasets.map`; PYTHON is one that has Axolotl
0.21.0 (`pip install axolotl==0.21.0` in an environment of Python 3.12, about
8 GB), which reads the same configuration. Linux only.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from measure import AXOLOTL, run

PARITY = Path(__file__).parent.parent / "crates/trainer-cli/tests/parity"

MAP = """
import sys
from datasets import disable_progress_bars, load_dataset
from transformers import AutoTokenizer
disable_progress_bars()
folder, tokenizer, procs = sys.argv[1], sys.argv[2], int(sys.argv[3])
tokenizer = AutoTokenizer.from_pretrained(tokenizer)
rows = load_dataset("json", data_files=folder + "/rows.jsonl", split="train", cache_dir=folder + "/hub")

def tokenize(batch):
    texts = tokenizer.apply_chat_template(batch["messages"], tokenize=False)
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return {"input_ids": ids, "labels": ids}

made = rows.map(tokenize, batched=True, remove_columns=rows.column_names,
                num_proc=procs if procs > 1 else None)
made.save_to_disk(folder + "/mapped")
print(len(made), sum(map(len, made["input_ids"])), file=sys.stderr)
"""


def write_rows(path: Path, count: int) -> None:
    with open(PARITY / "data/chat.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            row = rows[number % len(rows)]
            messages = [
                {**message, "content": f"{message['content']} ({number}.{turn})"}
                for turn, message in enumerate(row["messages"])
            ]
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trainer", type=Path)
    parser.add_argument("tokenizer", type=Path, nargs="?", default=PARITY / "models/llama")
    parser.add_argument("--axolotl", type=Path, help="a Python that has Axolotl")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--procs", type=int, default=os.cpu_count())
    parser.add_argument("--folder", type=Path, help="work here (default: a temporary folder)")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    args = parser.parse_args()
    folder = Path(args.folder or tempfile.mkdtemp(prefix="bench-preprocess-")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "rows.jsonl", args.rows)

    tokenizer = args.tokenizer.resolve()
    config = {
        "base_model": str(tokenizer),
        "tokenizer_config": str(tokenizer),
        "datasets": [{"path": str(folder / "rows.jsonl"), "ds_type": "json", "type": "chat_template"}],
        "chat_template": "tokenizer_default",
        "sequence_len": 32768,
        "shuffle_merged_datasets": False,
        "dataset_prepared_path": str(folder / "prepared"),
        "output_dir": str(folder / "out"),
        "learning_rate": 0.0001,
    }
    # JSON is YAML too.
    (folder / "run.yaml").write_text(json.dumps(config, indent=1), encoding="utf-8")
    env = {**os.environ, "RAYON_NUM_THREADS": str(args.procs)}
    mapped = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HOME": str(folder / "home"),
    }
    sides = {
        "trainer preprocess": (
            [str(args.trainer.resolve()), "preprocess", str(folder / "run.yaml")], env, ["prepared"],
        ),
        "datasets.map": (
            [sys.executable, "-c", MAP, str(folder), str(tokenizer), str(args.procs)],
            mapped, ["mapped", "hub", "home"],
        ),
    }
    if args.axolotl:
        theirs = {
            **config,
            "dataset_prepared_path": str(folder / "theirs"),
            "dataset_num_proc": args.procs,
            "micro_batch_size": 1,
            "gradient_accumulation_steps": 1,
            "num_epochs": 1,
            "bf16": False,
            "fp16": False,
            "tf32": False,
        }
        (folder / "theirs.yaml").write_text(json.dumps(theirs, indent=1), encoding="utf-8")
        variables = {**os.environ, **AXOLOTL, "HF_HOME": str(folder / "home")}
        sides["axolotl preprocess"] = (
            [str(args.axolotl), "-m", "axolotl.cli.main", "preprocess", str(folder / "theirs.yaml")],
            variables, ["theirs", "home"],
        )
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for number in range(args.runs):
        for name, (command, variables, leftovers) in sides.items():
            for leftover in leftovers:
                shutil.rmtree(folder / leftover, ignore_errors=True)
            log = folder / f"{name.replace(' ', '-')}.log"
            results[name].append(run(command, variables, log))
            wall, peak = results[name][-1]
            print(f"{number + 1}/{args.runs} {name:20} {wall:8.2f} s {peak:8.0f} MiB", flush=True)
    print(f"\nmedians of {args.runs}, {args.rows} rows, {args.procs} threads or processes")
    ours = None
    for name, measured in results.items():
        wall = statistics.median(wall for wall, _ in measured)
        peak = statistics.median(peak for _, peak in measured)
        ours = ours or (wall, peak)
        times = f"{wall / ours[0]:6.1f} x {peak / max(ours[1], 1):6.1f} x"
        print(f"{name:20} {wall:8.2f} s {peak:8.0f} MiB  {times}")
    if not args.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Time `trainer preprocess` against `datasets.map` on the same chat rows.

    bench_preprocess.py TRAINER [TOKENIZER] [--rows N] [--runs N] [--procs N]
                        [--folder FOLDER] [--keep]

TRAINER is the trainer binary, TOKENIZER a folder with tokenizer.json and a chat
template (default: the one of the recorded runs). The rows are those of the
recorded runs, repeated with another number in each message. Both sides render
the same template, tokenize with the same tokenizer, cut nothing and write the
result to disk; the trainer also finds the spans to train, which the Python side
does not do. The runs alternate; medians of wall time, and of the largest memory
of all processes of a run (proportional set size, sampled every 20 ms), are
printed.

Needs datasets and transformers for the Python side. Linux only.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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


def descendants(root: int) -> list[int]:
    found, wave = [root], [root]
    while wave:
        following = []
        for pid in wave:
            try:
                for task in os.listdir(f"/proc/{pid}/task"):
                    children = Path(f"/proc/{pid}/task/{task}/children").read_text()
                    following += map(int, children.split())
            except OSError:
                pass
        found += following
        wave = following
    return found


def memory(pids: list[int]) -> int:
    """Proportional set size in KiB."""
    total = 0
    for pid in pids:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total


def run(command: list[str], env: dict[str, str], log: Path) -> tuple[float, float]:
    """Wall time in seconds and peak memory in MiB."""
    with open(log, "w", encoding="utf-8") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, env=env, stdout=output, stderr=output)
        peak = 0
        while True:
            try:
                code = process.wait(timeout=0.02)
                break
            except subprocess.TimeoutExpired:
                peak = max(peak, memory(descendants(process.pid)))
        wall = time.perf_counter() - start
    if code != 0:
        sys.exit(f"{' '.join(command)} failed:\n{log.read_text(encoding='utf-8')}")
    return wall, peak / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trainer", type=Path)
    parser.add_argument("tokenizer", type=Path, nargs="?", default=PARITY / "models/llama")
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
    walls, peaks = [], []
    for name, measured in results.items():
        walls.append(statistics.median(wall for wall, _ in measured))
        peaks.append(statistics.median(peak for _, peak in measured))
        print(f"{name:20} {walls[-1]:8.2f} s {peaks[-1]:8.0f} MiB")
    print(f"{'ratio':20} {walls[1] / walls[0]:8.1f} x {peaks[1] / max(peaks[0], 1):8.1f} x")
    if not args.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

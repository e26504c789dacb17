#!/usr/bin/env python3
"""What checkpoints cost: training time of the embedded example with a checkpoint every
10 steps over that without any, in alternating runs.

    python3 scripts/bench_checkpoints.py --bin target/release/trainer

Prints each pair of times and the median of the pairs' ratios, which a machine that
becomes slower between two pairs does not change. The machine must be otherwise idle.
Needs no package.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KINDS = {
    "none": ["--save_strategy", "no"],
    "every 10 steps": ["--save_steps", "10", "--save_total_limit", "2"],
}


def seconds(binary: str, out: str, prepared: str, keys: list[str]) -> float:
    """Time of the training itself, from the run's own summary."""
    shutil.rmtree(out, ignore_errors=True)
    folders = ["--output_dir", out, "--dataset_prepared_path", prepared]
    command = [binary, "train", "--quiet", "examples/glossary.yaml", *folders, *keys]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{result.stderr}")
    rows = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    return next(row["train_runtime"] for row in rows if "train_runtime" in row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", required=True, help="the trainer")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("keys", nargs="*", help="further `--key value` for every run, after `--`")
    options = parser.parse_args()
    binary = str(Path(options.bin).resolve())
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as scratch:
        prepared = f"{scratch}/prepared"
        # One run that is not counted: the data is prepared, the files are in memory.
        seconds(binary, f"{scratch}/out", prepared, KINDS["none"] + options.keys)
        for turn in range(options.rounds):
            # Whichever comes first may find the processor cooler.
            order = list(KINDS) if turn % 2 == 0 else list(KINDS)[::-1]
            for kind in order:
                times[kind].append(seconds(binary, f"{scratch}/out", prepared, KINDS[kind] + options.keys))
            print("  ".join(f"{kind}: {values[-1]:.2f} s" for kind, values in times.items()), flush=True)
    medians = {kind: statistics.median(values) for kind, values in times.items()}
    for kind, median in medians.items():
        print(f"{kind}: median {median:.2f} s")
    ratios = sorted(often / none for none, often in zip(*times.values()))
    low, middle, high = (100 * (ratio - 1) for ratio in (ratios[0], statistics.median(ratios), ratios[-1]))
    print(f"overhead: median of pairs {middle:.1f}% (from {low:.1f}% to {high:.1f}%)")


if __name__ == "__main__":
    main()

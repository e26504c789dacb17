#!/usr/bin/env python3
"""Trains on the glossary's pairs by six methods, three seeds each, and prints a table
of the accuracy of rewards on held-back pairs before and after.

    cargo build --release
    python3 scripts/preference_table.py

The accuracy is the part of the pairs whose better answer is rewarded more. A pair
whose answers are rewarded alike counts as half: without training that is every pair
of DPO, IPO and KTO, whose reward is the distance from the model itself. Fails where
an accuracy does not end above 0.8. Needs no package; takes about a quarter of an hour
on two cores.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SEEDS = (1, 2, 3)
WANTED = 0.8

# Name, example, settings that make this method of it.
METHODS = [
    ("DPO", "dpo", []),
    ("IPO", "dpo", ["--rl", "ipo"]),
    ("KTO", "kto", []),
    ("SimPO", "dpo", ["--rl", "simpo", "--rl_beta", "2.0"]),
    ("ORPO", "orpo", []),
    ("reward model", "reward", []),
]


def trainer(binary, verb, example, settings, output):
    command = [binary, verb, f"examples/{example}.yaml", "--output_dir", output, "--quiet"]
    command += ["--json", "--dataset_prepared_path", ""] + settings
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr}")
    return done.stdout


def accuracy(binary, name, example, settings, output):
    """Reward accuracy on the held-back pairs of what is in `output`."""
    if name == "KTO":
        # Its own data are single answers; as a reward, its policy is that of DPO.
        example, settings = "dpo", []
    row = json.loads(trainer(binary, "evaluate", example, settings, output).splitlines()[-1])
    if "eval_accuracy" in row:
        return row["eval_accuracy"]
    rewards = [row[f"eval_rewards/{key}"] for key in ("chosen", "rejected", "margins")]
    return 0.5 if rewards == [0, 0, 0] else row["eval_rewards/accuracies"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--bin", default=str(ROOT / "target/release/trainer"))
    parser.add_argument("--only", help="one method, by its name")
    parser.add_argument("--keep", type=Path, help="keep the runs in this folder")
    arguments = parser.parse_args()
    failed = []
    print("| method | before | after, three seeds |\n|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        for name, example, settings in METHODS:
            if arguments.only not in (None, name):
                continue
            before, after, seconds = [], [], []
            for seed in SEEDS:
                output = folder / f"{name.replace(' ', '-').lower()}-{seed}"
                seeded = settings + ["--seed", str(seed)]
                before.append(accuracy(arguments.bin, name, example, seeded, folder / "none"))
                started = time.monotonic()
                trainer(arguments.bin, "train", example, seeded, output)
                seconds.append(time.monotonic() - started)
                after.append(accuracy(arguments.bin, name, example, seeded, output))
            # Only a reward model begins with weights that depend on the seed.
            starts = sorted({f"{value:.2f}" for value in before})
            ends = ", ".join(f"{value:.2f}" for value in after)
            print(f"| {name} | {', '.join(starts)} | {ends} |", flush=True)
            took = ", ".join(f"{value:.0f} s" for value in seconds)
            print(f"{name}: trained in {took}", file=sys.stderr, flush=True)
            if min(after) <= WANTED:
                failed.append(name)
    if failed:
        sys.exit(f"not above {WANTED}: {', '.join(failed)}")


if __name__ == "__main__":
    main()

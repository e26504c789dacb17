#!/usr/bin/env python3
"""Compares the peak memory that `trainer check` estimates with what is measured.

    python3 scripts/check_memory_estimate.py --bin target/release/trainer --model FOLDER

FOLDER is SmolLM2-135M-Instruct (scripts/smollm2.sh gets it). Each case is checked,
trained for three steps, and measured as the largest resident set of the process.
Prints a table and fails where an estimate is off by more than 15%. Needs Linux,
about 5 GiB of memory, and no package.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 0.15
UNITS = {"MiB": 1.0, "GiB": 1024.0}

LORA = {"adapter": "lora", "lora_r": "8", "lora_alpha": "16", "lora_target_linear": "true"}


def smollm2(rows: int, tokens: int, **keys: str) -> dict[str, str]:
    return {
        "micro_batch_size": str(rows),
        "sequence_len": str(tokens),
        "gradient_accumulation_steps": "1",
        "pad_to_sequence_len": "true",
        "max_steps": "3",
        **keys,
    }


QLORA = LORA | {"adapter": "qlora", "load_in_4bit": "true"}

# Name, file, keys. Rows of SmolLM2's cases are filled up to sequence_len.
CASES = [
    ("embedded example, full, 16 rows", "examples/glossary.yaml", {"num_epochs": "2"}),
    ("SmolLM2, full, 1x256", None, smollm2(1, 256)),
    ("SmolLM2, full, 1x1024", None, smollm2(1, 1024)),
    ("SmolLM2, full, 1x256, two batches a step", None, smollm2(1, 256, gradient_accumulation_steps="2")),
    ("SmolLM2, full, 1x256, gradient_checkpointing", None, smollm2(1, 256, gradient_checkpointing="true")),
    ("SmolLM2, full, 1x256, adamw_bnb_8bit", None, smollm2(1, 256, optimizer="adamw_bnb_8bit")),
    ("SmolLM2, full, 1x256, a checkpoint each step", None, smollm2(1, 256, save_steps="1", save_total_limit="1")),
    ("SmolLM2, LoRA r 8, 1x256", None, smollm2(1, 256, **LORA)),
    ("SmolLM2, LoRA r 8, 4x512", None, smollm2(4, 512, **LORA)),
    ("SmolLM2, QLoRA r 8, 1x256", None, smollm2(1, 256, **QLORA)),
    ("SmolLM2, QLoRA r 8, 4x512", None, smollm2(4, 512, **QLORA)),
    ("SmolLM2, LoRA r 8, 4x512, gradient_checkpointing", None, smollm2(4, 512, gradient_checkpointing="true", **LORA)),
]


def flags(keys: dict[str, str]) -> list[str]:
    return [word for key, value in keys.items() for word in (f"--{key}", value)]


def estimated(binary: str, arguments: list[str]) -> float:
    """MiB, from the table that is printed."""
    text = subprocess.run([binary, "check", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    total = re.search(r"^#\s+total\s+([\d.]+) (MiB|GiB)", text, re.MULTILINE)
    if total is None:
        sys.exit(f"`trainer check` printed no total:\n{text}")
    return float(total[1]) * UNITS[total[2]]


def measured(binary: str, arguments: list[str], log: Path) -> float:
    """MiB, the largest resident set of the process."""
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen([binary, "train", *arguments], cwd=ROOT, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"training failed:\n{log.read_text(encoding='utf-8')}")
    return usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", required=True, help="the trainer")
    parser.add_argument("--model", help="folder of SmolLM2-135M-Instruct; without it, the embedded example alone")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args()
    binary = str(Path(options.bin).resolve())
    wrong = []
    print("| run | estimate, MiB | measured, MiB | ratio |\n|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as scratch:
        for name, config, keys in CASES:
            if options.only not in name or (config is None and options.model is None):
                continue
            folders = {"output_dir": f"{scratch}/out", "dataset_prepared_path": f"{scratch}/prepared"}
            if config is None:
                folders["base_model"] = str(Path(options.model).resolve())
            arguments = [config or "scripts/smollm2.yaml", *flags(keys | folders)]
            subprocess.run([binary, "preprocess", *arguments], cwd=ROOT, check=True, capture_output=True)
            guess = estimated(binary, arguments)
            peak = measured(binary, arguments, Path(scratch) / "log")
            print(f"| {name} | {guess:.0f} | {peak:.0f} | {guess / peak:.2f} |", flush=True)
            if abs(guess / peak - 1) > LIMIT:
                wrong.append(name)
    if wrong:
        sys.exit(f"off by more than {LIMIT:.0%}: {', '.join(wrong)}")


if __name__ == "__main__":
    main()

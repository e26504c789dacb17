#!/usr/bin/env python3
"""Compares the peak memory that `trainer check` estimates with what is measured.

    python3 scripts/check_memory_estimate.py --bin target/release/trainer --model FOLDER

FOLDER is SmolLM2-135M-Instruct (scripts/smollm2.sh gets it). Each case is trained for
three steps, measured as the largest resident set of the process, and checked.
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
QLORA = LORA | {"adapter": "qlora", "load_in_4bit": "true"}

# Stands for the folder of SmolLM2.
MODEL = object()
Keys = dict[str, str | object]


def rows(count: int, tokens: int, **keys: str) -> tuple[str, Keys]:
    """Rows of SmolLM2, filled up."""
    return "scripts/smollm2.yaml", {
        "base_model": MODEL,
        "micro_batch_size": str(count),
        "sequence_len": str(tokens),
        "gradient_accumulation_steps": "1",
        "pad_to_sequence_len": "true",
        "max_steps": "3",
        **keys,
    }


def preferences(example: str, count: int, **keys: str) -> tuple[str, Keys]:
    """Pairs, or answers, of an example with SmolLM2. Some of them: the reference reads all."""
    data = {"dpo": "pairs", "orpo": "pairs", "reward": "pairs", "kto": "judged"}[example]
    kind = {"pairs": "chat_template.default", "judged": "chatml.argilla"}[data]
    path = f"examples/data/glossary.{data}.jsonl"
    return f"examples/{example}.yaml", {
        "base_model": MODEL,
        "datasets": f'[{{path: {path}, ds_type: json, type: {kind}, split: "train[:24]"}}]',
        "test_datasets": "null",
        "evals_per_epoch": "null",
        "micro_batch_size": str(count),
        "max_steps": "3",
        **keys,
    }


PADDED = {"pad_to_sequence_len": "true"}

# Name, file, keys.
CASES = [
    ("embedded example, full, 16 rows", "examples/glossary.yaml", {"num_epochs": "2"}),
    ("SmolLM2, full, 1x256", *rows(1, 256)),
    ("SmolLM2, full, 1x1024", *rows(1, 1024)),
    ("SmolLM2, full, 1x256, two batches a step", *rows(1, 256, gradient_accumulation_steps="2")),
    ("SmolLM2, full, 1x256, gradient_checkpointing", *rows(1, 256, gradient_checkpointing="true")),
    ("SmolLM2, full, 1x256, adamw_bnb_8bit", *rows(1, 256, optimizer="adamw_bnb_8bit")),
    ("SmolLM2, full, 1x256, a checkpoint each step", *rows(1, 256, save_steps="1", save_total_limit="1")),
    ("SmolLM2, LoRA r 8, 1x256", *rows(1, 256, **LORA)),
    ("SmolLM2, LoRA r 8, 4x512", *rows(4, 512, **LORA)),
    ("SmolLM2, QLoRA r 8, 1x256", *rows(1, 256, **QLORA)),
    ("SmolLM2, QLoRA r 8, 4x512", *rows(4, 512, **QLORA)),
    ("SmolLM2, LoRA r 8, 4x512, gradient_checkpointing", *rows(4, 512, gradient_checkpointing="true", **LORA)),
    ("embedded example, DPO, full, 8 pairs", "examples/dpo.yaml", {"num_epochs": "1"}),
    ("embedded example, ORPO, full, 8 pairs", "examples/orpo.yaml", {"num_epochs": "1"}),
    ("embedded example, KTO, full, 16 answers", "examples/kto.yaml", {"num_epochs": "1"}),
    ("embedded example, rewards, full, 8 pairs", "examples/reward.yaml", {"num_epochs": "1"}),
    ("SmolLM2, DPO, full, 1 pair", *preferences("dpo", 1)),
    ("SmolLM2, DPO, full, 4 pairs of 2x256", *preferences("dpo", 4, **PADDED)),
    ("SmolLM2, DPO, full, 1 pair, a reference model", *preferences("dpo", 1, precompute_ref_log_probs="false")),
    ("SmolLM2, IPO, LoRA r 8, 1 pair", *preferences("dpo", 1, rl="ipo", **LORA)),
    ("SmolLM2, DPO, LoRA r 8, 4 pairs", *preferences("dpo", 4, **LORA)),
    ("SmolLM2, DPO, LoRA r 8, 4 pairs of 2x256", *preferences("dpo", 4, **PADDED, **LORA)),
    (
        "SmolLM2, DPO, LoRA r 8, 4 pairs, no shared prompts, the reference in each step",
        *preferences("dpo", 4, share_prompts="false", precompute_ref_log_probs="false", **LORA),
    ),
    ("SmolLM2, ORPO, full, 4 pairs", *preferences("orpo", 4)),
    ("SmolLM2, SimPO, LoRA r 8, 4 pairs", *preferences("orpo", 4, rl="simpo", orpo_alpha="null", rl_beta="2", **LORA)),
    ("SmolLM2, KTO, full, 1 answer", *preferences("kto", 1)),
    ("SmolLM2, KTO, LoRA r 8, 4 answers of 256", *preferences("kto", 4, **PADDED, **LORA)),
    ("SmolLM2, rewards, full, 1 pair", *preferences("reward", 1)),
    ("SmolLM2, rewards, LoRA r 8, 4 pairs of 2x256", *preferences("reward", 4, **PADDED, **LORA)),
]


def flags(keys: Keys) -> list[str]:
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
            if options.only not in name or (MODEL in keys.values() and options.model is None):
                continue
            folders = {"output_dir": f"{scratch}/out", "dataset_prepared_path": f"{scratch}/prepared"}
            if MODEL in keys.values():
                folders["base_model"] = str(Path(options.model).resolve())
            arguments = [config, *flags(keys | folders)]
            peak = measured(binary, arguments, Path(scratch) / "log")
            # Knows the data now.
            guess = estimated(binary, arguments)
            print(f"| {name} | {guess:.0f} | {peak:.0f} | {guess / peak:.2f} |", flush=True)
            if abs(guess / peak - 1) > LIMIT:
                wrong.append(name)
    if wrong:
        sys.exit(f"off by more than {LIMIT:.0%}: {', '.join(wrong)}")


if __name__ == "__main__":
    main()

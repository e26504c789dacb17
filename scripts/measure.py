"""Runs a command and measures its wall time and the largest memory of all its
processes (proportional set size, sampled every 20 ms). Linux only."""

import os
import subprocess
import sys
import time
from pathlib import Path

# What Axolotl needs to stay on this machine and on its processors.
AXOLOTL = {
    "AXOLOTL_DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "TOKENIZERS_PARALLELISM": "false",
    "ACCELERATE_USE_CPU": "true",
    "WANDB_DISABLED": "true",
}


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

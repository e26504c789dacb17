#!/usr/bin/env python3
"""Speed of training on an NVIDIA GPU: tokens a second, share of time in which the GPU
is busy, and its memory.

    bench_gpu.py [--features cuda | --bin TRAINER] [--backend NAME] [--gpu N]
                 [--cases small,full,...] [--numbers bf16,f32] [--steps N] [--warmup N]
                 [--folder FOLDER]

Builds the trainer with the features (default: cuda) or takes a binary that has the
backend (default: the first of the features), and runs `trainer bench` in each number
format on Llamas with random weights:

  small   8M parameters, 16 rows of 512 tokens
  full    135M parameters, 8 rows of 512 tokens
  lora    the same with frozen weights and factors of rank 16 on all linear maps
  packed  135M parameters, 4 rows of 2,048 tokens of documents of 20 to 280

`nvidia-smi` is asked five times a second. Busy is its utilization.gpu, the share of
time in which any kernel ran, averaged over the timed steps; they should last for a few
seconds, since the driver itself averages over up to one. Memory is the most that was
used on the GPU, less what was used before. Use a GPU that nothing else runs on.
"""

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from bench_curves import point, write_point

ROOT = Path(__file__).resolve().parent.parent
LORA = ["--adapter", "lora", "--lora_r", "16", "--lora_alpha", "32", "--lora_target_linear", "true"]
NUMBERS = {"bf16": "true", "f32": "false"}


def cases() -> dict[str, tuple[dict[str, object], list[str]]]:
    """What is trained, and what the command line adds to it."""
    draw = random.Random(7)
    short = [draw.randrange(20, 280) for _ in range(800)]
    return {
        "small": (point("small", [512] * 64, size="8M", batch=16), []),
        "full": (point("full", [512] * 64, size="135M", batch=8), []),
        "lora": (point("lora", [512] * 64, size="135M", batch=8), LORA),
        "packed": (point("packed", short, size="135M", batch=4, width=2048, packed=True), []),
    }


def nvidia_smi(gpu: int, fields: str) -> list[list[str]]:
    command = ["nvidia-smi", f"--id={gpu}", fields, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        sys.exit("error: there is no nvidia-smi here: this needs a machine with an NVIDIA GPU and its driver")
    except subprocess.TimeoutExpired:
        sys.exit("error: nvidia-smi does not answer: does the driver work?")
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(command)} failed: {(done.stdout + done.stderr).strip()}")
    return [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines() if line.strip()]


def number(text: str) -> float | None:
    """`[N/A]` is what GPUs say that do not know."""
    try:
        return float(text)
    except ValueError:
        return None


class Sampler:
    """Utilization in percent and memory in MiB while something runs."""

    def __init__(self, gpu: int) -> None:
        self.samples: list[tuple[float, float | None, float | None]] = []
        command = ["nvidia-smi", f"--id={gpu}", "--query-gpu=utilization.gpu,memory.used"]
        command += ["--format=csv,noheader,nounits", "--loop-ms=200"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.thread = threading.Thread(target=self.read, daemon=True)

    def read(self) -> None:
        for line in self.process.stdout:
            busy, _, memory = line.partition(",")
            self.samples.append((time.monotonic(), number(busy), number(memory)))

    def __enter__(self) -> "Sampler":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()
        self.thread.join()

    def busy(self, begin: float, end: float) -> float | None:
        """Mean over a span of time."""
        seen = [busy for at, busy, _ in self.samples if begin <= at <= end and busy is not None]
        return statistics.mean(seen) if seen else None

    def memory(self) -> float | None:
        return max((memory for _, _, memory in self.samples if memory is not None), default=None)


def build(features: str) -> Path:
    command = ["cargo", "build", "--release", "--bin", "trainer", "--features", features]
    command += ["--message-format", "json-render-diagnostics"]
    print(f"building: {' '.join(command)}", file=sys.stderr)
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    except FileNotFoundError:
        sys.exit("error: there is no cargo here: install Rust, or name a binary with --bin")
    if done.returncode != 0:
        sys.exit(f"error: the build with --features {features} failed, see above")
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    made = [message["executable"] for message in messages if message.get("executable")]
    return Path(made[-1])


def run(command: list[str], gpu: int, before: float) -> tuple[list[str], bool]:
    """The cells of a row of the table, what was measured or what went wrong, and whether
    it counts as a failure."""
    with Sampler(gpu) as sampler, tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        printed = process.stdout.readline()
        # The timed steps are the last thing before.
        ended = time.monotonic()
        if process.wait() != 0:
            errors.seek(0)
            lines = [line.strip() for line in errors if line.strip()]
            found = [line for line in lines if line.startswith("error")] or lines[-1:]
            message = found[0] if found else f"error: exit status {process.returncode}"
            # Older GPUs, and wgpu, have float32 alone.
            return [""] * 5 + [message], not ("bf16" in message or "bfloat16" in message)
    got = json.loads(printed)
    busy = sampler.busy(ended - sum(got["step_seconds"]), ended)
    memory = sampler.memory()
    cells = [
        f"{got['tokens_per_second']:,.0f}",
        f"{1e3 * got['seconds']['step']:,.1f}",
        f"{got['flops_per_second'] / 1e12:,.2f}",
        "not known" if busy is None else f"{busy:.0f} %",
        "not known" if memory is None else f"{max(memory - before, 0):,.0f}",
        got["backend"],
    ]
    return cells, False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made_of = parser.add_mutually_exclusive_group()
    made_of.add_argument("--features", default="cuda", help="Cargo features of the build")
    made_of.add_argument("--bin", type=Path, help="a trainer binary in place of a build")
    parser.add_argument("--backend", help="`backend:` of the runs (default: the first feature)")
    parser.add_argument("--gpu", type=int, default=0, help="number of the GPU that is watched")
    parser.add_argument("--cases", default=",".join(cases()))
    parser.add_argument("--numbers", default=",".join(NUMBERS))
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--folder", type=Path, help="work here (default: a temporary folder)")
    args = parser.parse_args()
    for name, chosen, known in (("cases", args.cases, cases()), ("numbers", args.numbers, NUMBERS)):
        if unknown := set(chosen.split(",")) - set(known):
            parser.error(f"--{name}: {', '.join(sorted(unknown))} is none of {', '.join(known)}")

    state = nvidia_smi(args.gpu, "--query-gpu=name,driver_version,memory.total,memory.used")
    if not state or len(state[0]) != 4:
        sys.exit(f"error: nvidia-smi has no GPU {args.gpu}")
    name, driver, total, used = state[0]
    others = nvidia_smi(args.gpu, "--query-compute-apps=pid,process_name")
    if others:
        running = ", ".join(" ".join(other) for other in others)
        print(f"warning: numbers will be off, other processes are on the GPU: {running}", file=sys.stderr)
    trainer = (args.bin or build(args.features)).resolve()
    if not trainer.is_file():
        sys.exit(f"error: there is no binary {trainer}")
    backend = args.backend or args.features.split(",")[0]

    folder = Path(args.folder or tempfile.mkdtemp(prefix="bench-gpu-")).resolve()
    print(f"{name}, driver {driver}, {total} MiB; {args.steps} steps after {args.warmup}\n")
    print("| | numbers | tokens a second | a step, ms | TFLOP/s | busy | memory, MiB | |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    failed = False
    try:
        for case in args.cases.split(","):
            spec, more = cases()[case]
            write_point(folder / case, spec)
            for numbers in args.numbers.split(","):
                command = [str(trainer), "bench", "--json", "--quiet"]
                command += ["--steps", str(args.steps), "--warmup", str(args.warmup)]
                command += [str(folder / case / "run.yaml"), "--backend", backend]
                command += ["--bf16", NUMBERS[numbers], *more]
                cells, wrong = run(command, args.gpu, number(used) or 0.0)
                failed |= wrong
                print(f"| {case} | {numbers} | {' | '.join(cells)} |", flush=True)
    finally:
        if args.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    if failed:
        sys.exit("error: some runs failed, see the last column")


if __name__ == "__main__":
    main()

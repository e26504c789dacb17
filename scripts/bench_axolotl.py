#!/usr/bin/env python3
"""Train the same YAML with Axolotl and with the trainer, on the CPU.

    bench_axolotl.py TRAINER PYTHON MODEL [--cases lora,full,...] [--runs N]
                     [--steps N] [--threads N] [--folder FOLDER]

TRAINER is the trainer binary, PYTHON one that has Axolotl 0.21.0 (`pip install
axolotl==0.21.0` in an environment of Python 3.12, about 8 GB), MODEL the folder of
SmolLM2-135M-Instruct (`scripts/smollm2.sh` makes one). Data are the 297
conversations of the recorded runs in file order, in float32, for one epoch or
--steps steps, but for the last case:

  lora     LoRA, r = 16, on all linear layers, 4 rows a step
  full     all weights, 4 rows a step
  packed   LoRA as above, packed to 2,048 tokens a row, 1 row a step
  example  examples/glossary.yaml, a run from start to saved model (never cut short)

The runs alternate. Printed are medians of the wall time of the whole command, of
tokens a second while training (tokens of the data, without padding, over
`train_runtime`), and of the largest memory of all processes of a run
(proportional set size, sampled every 20 ms). Linux only.
"""

import argparse
import ast
import json
import os
import re
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from measure import AXOLOTL, run

ROOT = Path(__file__).resolve().parent.parent
PARITY = ROOT / "crates/trainer-cli/tests/parity"
EXAMPLES = ROOT / "examples"

LORA = {
    "adapter": "lora",
    "lora_r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.0,
    "lora_target_linear": True,
    # CUDA kernels
    "lora_qkv_kernel": False,
    "lora_mlp_kernel": False,
    "lora_o_kernel": False,
    "lora_embedding_kernel": False,
}

CASES = {
    "lora": {"micro_batch_size": 4, **LORA},
    "full": {"micro_batch_size": 4},
    "packed": {"micro_batch_size": 1, "sample_packing": True, "sequence_len": 2048, **LORA},
    "example": {
        "base_model": str(EXAMPLES / "base-model"),
        "datasets": [
            {
                "path": str(EXAMPLES / "data/glossary.chat.jsonl"),
                "ds_type": "json",
                "type": "chat_template",
            }
        ],
        "sequence_len": 256,
        "micro_batch_size": 16,
        "num_epochs": 24,
        "learning_rate": 0.002,
        "warmup_steps": 10,
        "logging_steps": 10,
    },
}


def configuration(model: Path, case: str, steps: int | None) -> dict[str, object]:
    return {
        "base_model": str(model),
        "datasets": [
            {"path": str(PARITY / "data/chat.jsonl"), "ds_type": "json", "type": "chat_template"}
        ],
        "chat_template": "tokenizer_default",
        "sequence_len": 512,
        "shuffle_merged_datasets": False,
        "curriculum_sampling": True,
        "gradient_accumulation_steps": 1,
        "num_epochs": 1,
        **({"max_steps": steps} if steps and case != "example" else {}),
        "optimizer": "adamw_torch",
        "learning_rate": 0.0001,
        "lr_scheduler": "cosine",
        "warmup_steps": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "val_set_size": 0.0,
        "bf16": False,
        "fp16": False,
        "tf32": False,
        "seed": 42,
        **CASES[case],
    }


def last_row(folder: Path) -> dict[str, float]:
    """The row of a run's log that has its `train_runtime`: in the trainer's state,
    or as Axolotl prints it where it keeps no checkpoints."""
    state = folder / "out/trainer_state.json"
    rows: list[dict[str, object]] = []
    if state.is_file():
        rows = json.loads(state.read_text(encoding="utf-8"))["log_history"]
    else:
        printed = (folder / "log").read_text(encoding="utf-8")
        rows = [ast.literal_eval(row) for row in re.findall(r"{[^{}]*'train_runtime'[^{}]*}", printed)]
    rows = [row for row in rows if "train_runtime" in row]
    if not rows:
        sys.exit(f"{folder} has no log row with `train_runtime`")
    return {name: float(rows[-1][name]) for name in ("train_runtime", "epoch")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trainer", type=Path)
    parser.add_argument("python", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--folder", type=Path, help="work here (default: a temporary folder)")
    args = parser.parse_args()
    folder = Path(args.folder or tempfile.mkdtemp(prefix="bench-axolotl-")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    trainer = str(args.trainer.resolve())
    env = {
        "ours": {**os.environ, "RAYON_NUM_THREADS": str(args.threads)},
        "axolotl": {
            **os.environ,
            **AXOLOTL,
            "OMP_NUM_THREADS": str(args.threads),
            "HF_HOME": str(folder / "home"),
        },
    }
    for case in args.cases.split(","):
        sides: dict[str, tuple[list[str], Path]] = {}
        for name in ("ours", "axolotl"):
            here = folder / case / name
            here.mkdir(parents=True, exist_ok=True)
            config = configuration(args.model.resolve(), case, args.steps)
            config |= {
                "output_dir": str(here / "out"),
                "dataset_prepared_path": str(here / "prepared"),
            }
            (here / "run.yaml").write_text(json.dumps(config, indent=1), encoding="utf-8")
            command = {
                "ours": [trainer, "train", str(here / "run.yaml")],
                "axolotl": [
                    # Not through symbolic links: an environment is known by its path.
                    str(args.python.absolute()), "-m", "axolotl.cli.main", "train",
                    str(here / "run.yaml"), "--launcher", "python",
                ],
            }
            sides[name] = (command[name], here)
        # The tokens of the data, from the rows that are trained on.
        rows = folder / case / "rows.jsonl"
        config = str(sides["ours"][1] / "run.yaml")
        run([trainer, "preprocess", config, "--export_jsonl", str(rows)], env["ours"], folder / "log")
        lengths = [len(json.loads(line)["input_ids"]) for line in rows.open(encoding="utf-8")]
        results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in sides}
        for number in range(args.runs):
            for name, (command, here) in sides.items():
                for leftover in ("out", "prepared"):
                    shutil.rmtree(here / leftover, ignore_errors=True)
                wall, peak = run(command, env[name], here / "log")
                row = last_row(here)
                # File order: what is taken of a pass are the first rows.
                if case == "packed":
                    tokens = sum(lengths) * min(1.0, row["epoch"])
                else:
                    # Whole passes, and the first rows of the last one.
                    passes, rest = divmod(row["epoch"], 1.0)
                    tokens = passes * sum(lengths) + sum(lengths[: round(len(lengths) * rest)])
                results[name].append((wall, tokens / row["train_runtime"], peak))
                print(
                    f"{case:7} {number + 1}/{args.runs} {name:8} {wall:8.1f} s "
                    f"{results[name][-1][1]:8.1f} tokens/s {peak:8.0f} MiB",
                    flush=True,
                )
        print(f"\n{case}: medians of {args.runs}, {args.threads} threads")
        medians = {
            name: [statistics.median(values) for values in zip(*measured)]
            for name, measured in results.items()
        }
        for name, (wall, speed, peak) in medians.items():
            print(f"  {name:8} {wall:8.1f} s {speed:8.1f} tokens/s {peak:8.0f} MiB")
        ours, theirs = medians["ours"], medians["axolotl"]
        print(
            f"  ours over theirs: wall {ours[0] / theirs[0]:.2f}, "
            f"speed {ours[1] / theirs[1]:.2f}, memory {ours[2] / theirs[2]:.2f}\n"
        )


if __name__ == "__main__":
    main()

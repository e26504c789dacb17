#!/usr/bin/env python3
"""One step of DPO with LoRA in TRL and in the trainer, on the CPU.

    compare_trl.py TRAINER PYTHON MODEL [--runs N] [--steps N] [--pairs N] [--threads N]
                   [--precompute] [--prompt-repeat N]

TRAINER is the trainer binary, PYTHON one with trl, peft, transformers and torch, MODEL
a folder in Hugging Face layout, SmolLM2-135M-Instruct say (`scripts/smollm2.sh` makes
one). Data are the 64 pairs of the recorded runs in file order, in float32; LoRA with
r = 16 on all linear layers, --pairs a step. The reference is the model without its
adapter, in each step, or once before training with --precompute. --prompt-repeat makes
prompts longer by repeating their text, since pairs of real data mostly have prompts
longer than those here.

The runs alternate. Printed are medians over the runs of the median time of a step (the
first two left out), of the wall time of the whole command, and of the largest memory
of all processes of a run (proportional set size, sampled every 20 ms), and the losses
of the steps, which go apart slowly: the factors begin at random. Linux only.
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

ROOT = Path(__file__).resolve().parent.parent
PAIRS = ROOT / "crates/trainer-cli/tests/parity/data/pref.jsonl"
END = "<|im_end|>"
RATE = 1e-4


def ours(folder: Path, args: argparse.Namespace) -> dict[str, object]:
    fields = {key: f"{{{key}}}" for key in ("prompt", "chosen", "rejected")}
    return {
        "base_model": str(args.model.resolve()),
        "output_dir": str(folder / "out"),
        "dataset_prepared_path": "",
        "rl": "dpo",
        "rl_beta": 0.1,
        "precompute_ref_log_probs": args.precompute,
        "datasets": [
            {
                "path": str(folder.parent / "pairs.jsonl"),
                "ds_type": "json",
                "type": {
                    **{f"field_{key}": key for key in fields},
                    **{f"{key}_format": text for key, text in fields.items()},
                },
            }
        ],
        "adapter": "lora",
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.0,
        "lora_target_linear": True,
        "sequence_len": 1024,
        "micro_batch_size": args.pairs,
        "max_steps": args.steps,
        "num_epochs": 1,
        "optimizer": "adamw_torch",
        "learning_rate": RATE,
        "lr_scheduler": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "curriculum_sampling": True,
        "shuffle_merged_datasets": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "save_only_model": True,
    }


def theirs(args: argparse.Namespace) -> None:
    """Runs in PYTHON: trains with TRL and writes a row for each step."""
    # pylint: disable=import-outside-toplevel
    import time

    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    torch.set_num_threads(args.threads)
    folder = Path(args.trl)
    rows = [json.loads(line) for line in (folder.parent / "pairs.jsonl").open(encoding="utf-8")]
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.seconds: list[float] = []
            self.losses: list[float] = []

        def on_step_begin(self, *_args, **_kwargs):
            self.started = time.perf_counter()

        def on_step_end(self, *_args, **_kwargs):
            self.seconds.append(time.perf_counter() - self.started)

        def on_log(self, _args, _state, _control, logs=None, **_kwargs):
            if "loss" in (logs or {}):
                self.losses.append(float(logs["loss"]))

    class InOrder(DPOTrainer):
        def _get_train_sampler(self, dataset=None):
            return SequentialSampler(dataset if dataset is not None else self.train_dataset)

    clock = Clock()
    trainer = InOrder(
        model=model,
        args=DPOConfig(
            output_dir=str(folder / "out"),
            use_cpu=True,
            bf16=False,
            per_device_train_batch_size=args.pairs,
            max_steps=args.steps,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            optim="adamw_torch",
            weight_decay=0.0,
            max_grad_norm=1.0,
            beta=0.1,
            max_length=1024,
            precompute_ref_log_probs=args.precompute,
            gradient_checkpointing=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=16,
            lora_alpha=32,
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
        callbacks=[clock],
    )
    trainer.train()
    result = {"seconds": clock.seconds, "losses": clock.losses}
    (folder / "steps.json").write_text(json.dumps(result), encoding="utf-8")


def steps_of(name: str, folder: Path) -> tuple[list[float], list[float]]:
    """Seconds and losses of the steps of a run."""
    if name == "trl":
        result = json.loads((folder / "steps.json").read_text(encoding="utf-8"))
        return result["seconds"], result["losses"]
    log = (folder / "out/metrics.jsonl").read_text(encoding="utf-8")
    rows = [row for row in map(json.loads, log.splitlines()) if "loss" in row]
    totals = [0, *(row["tokens/total"] for row in rows)]
    seconds = [
        (after - before) / row["tokens/train_per_sec_per_gpu"]
        for before, after, row in zip(totals, totals[1:], rows)
    ]
    return seconds, [row["loss"] for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trainer", type=Path)
    parser.add_argument("python", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--precompute", action="store_true")
    parser.add_argument("--prompt-repeat", type=int, default=1)
    parser.add_argument("--trl", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.trl:
        theirs(args)
        return
    with tempfile.TemporaryDirectory(prefix="compare-trl-") as scratch:
        compare(Path(scratch), args)


def compare(scratch: Path, args: argparse.Namespace) -> None:
    threads = str(args.threads)
    env = {
        "ours": {**os.environ, "RAYON_NUM_THREADS": threads},
        "trl": {**os.environ, **AXOLOTL, "OMP_NUM_THREADS": threads},
    }
    with (scratch / "pairs.jsonl").open("w", encoding="utf-8") as file:
        for row in map(json.loads, PAIRS.open(encoding="utf-8")):
            prompt = " ".join([row["prompt"]] * args.prompt_repeat) + "\n"
            answers = {key: row[key] + END for key in ("chosen", "rejected")}
            file.write(json.dumps({"prompt": prompt, **answers}) + "\n")
    commands: dict[str, list[str]] = {}
    for name in env:
        (scratch / name).mkdir()
        same = [str(args.trainer.resolve()), str(args.python), str(args.model.resolve())]
        for option in ("steps", "pairs", "threads"):
            same += [f"--{option}", str(getattr(args, option))]
        same += ["--precompute"] if args.precompute else []
        # Not through symbolic links: an environment is known by its path.
        python = [str(args.python.absolute()), __file__, *same, "--trl", str(scratch / name)]
        config = scratch / name / "run.yaml"
        config.write_text(json.dumps(ours(scratch / name, args), indent=1), encoding="utf-8")
        commands[name] = python if name == "trl" else [same[0], "train", str(config)]
    results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in env}
    for number in range(args.runs):
        for name, command in commands.items():
            folder = scratch / name
            shutil.rmtree(folder / "out", ignore_errors=True)
            wall, peak = run(command, env[name], folder / "log")
            seconds, losses = steps_of(name, folder)
            if len(seconds) < 3:
                sys.exit(f"{name} took {len(seconds)} steps; give --steps 3 or more")
            results[name].append((statistics.median(seconds[2:]), wall, peak))
            print(
                f"{number + 1}/{args.runs} {name:5} {results[name][-1][0]:8.3f} s a step "
                f"{wall:8.1f} s {peak:8.0f} MiB  losses "
                + " ".join(f"{loss:.4f}" for loss in losses),
                flush=True,
            )
    medians = {
        name: [statistics.median(values) for values in zip(*measured)]
        for name, measured in results.items()
    }
    step, wall, peak = (a / b for a, b in zip(medians["ours"], medians["trl"]))
    print(f"\nmedians of {args.runs}, {args.threads} threads, {args.pairs} pairs a step")
    for name, (seconds, whole, memory) in medians.items():
        print(f"  {name:5} {seconds:8.3f} s a step {whole:8.1f} s {memory:8.0f} MiB")
    print(f"  ours over theirs: step {step:.2f}, wall {wall:.2f}, memory {peak:.2f}")


if __name__ == "__main__":
    main()

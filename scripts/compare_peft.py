#!/usr/bin/env python3
"""Train the same adapters with PEFT and with the trainer, on the CPU, and compare the
loss on held-back rows and the peak memory.

    compare_peft.py TRAINER MODEL [--kinds lora,dora,qlora,int8] [--steps N] [--rows N]
                    [--folder FOLDER]

TRAINER is the trainer binary, MODEL the folder of SmolLM2-135M-Instruct
(`scripts/smollm2.sh` makes one). Both train on the glossary chats of examples/data in
file order, in float32, with AdamW at a constant rate, and take the loss of the
glossary's other questions before and after: the mean over the tokens of the answers.

  lora    r = 16 on all linear layers
  dora    the same with magnitudes
  qlora   LoRA on frozen weights in NF4 with double quantization
  int8    LoRA on frozen weights in 8 bits

Memory is the largest resident set of each run's process, as the kernel kept it. Run it
with a Python that has torch, transformers, peft and bitsandbytes. Linux only.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TRAIN = ROOT / "examples/data/glossary.chat.jsonl"
HELD_BACK = ROOT / "examples/data/glossary.eval.chat.jsonl"

RATE, RANK, ALPHA = 2e-4, 16, 32
LENGTH, HELD_BACK_BATCH = 256, 8

KINDS = {
    "lora": {"adapter": "lora"},
    "dora": {"adapter": "lora", "peft_use_dora": True},
    "qlora": {"adapter": "qlora", "load_in_4bit": True},
    "int8": {"adapter": "lora", "load_in_8bit": True},
}


def run(command: list[str], environment: dict[str, str], log: Path) -> float:
    """The largest resident set of a command, in MiB."""
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"{' '.join(command)} failed:\n{log.read_text(encoding='utf-8')}")
    return usage.ru_maxrss / 1024


def ours(trainer: str, model: str, kind: str, steps: int, rows: int, folder: Path):
    chats = {"ds_type": "json", "type": "chat_template"}
    config = {
        "base_model": model,
        "datasets": [{"path": str(TRAIN), **chats}],
        "test_datasets": [{"path": str(HELD_BACK), "split": "train", **chats}],
        "chat_template": "tokenizer_default",
        "dataset_prepared_path": "",
        "sequence_len": LENGTH,
        "shuffle_merged_datasets": False,
        "curriculum_sampling": True,
        "micro_batch_size": rows,
        "eval_batch_size": HELD_BACK_BATCH,
        "max_steps": steps,
        "num_epochs": 100,
        "eval_strategy": "steps",
        "eval_steps": steps,
        "save_strategy": "no",
        "optimizer": "adamw_torch",
        "learning_rate": RATE,
        "lr_scheduler": "constant",
        "weight_decay": 0.0,
        "bf16": False,
        "lora_r": RANK,
        "lora_alpha": ALPHA,
        "lora_target_linear": True,
        "output_dir": str(folder / "out"),
        **KINDS[kind],
    }
    yaml = folder / "run.yaml"
    yaml.write_text(json.dumps(config))  # JSON is YAML
    memory = run([trainer, "train", str(yaml)], dict(os.environ), folder / "log")
    log = [json.loads(line) for line in (folder / "out/metrics.jsonl").read_text().splitlines()]
    losses = [row["eval_loss_per_token"] for row in log if "eval_loss_per_token" in row]
    return losses[0], losses[-1], memory


def theirs(model: str, kind: str, steps: int, rows: int, folder: Path):
    arguments = [model, "--peft", kind, "--steps", str(steps), "--rows", str(rows)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    memory = run([sys.executable, __file__, sys.executable, *arguments], environment, folder / "log")
    before, after = map(float, (folder / "log").read_text().split()[-2:])
    return before, after, memory


def peft(model: str, kind: str, steps: int, rows: int) -> None:
    """The run with PEFT; prints the loss of the rows held back before and after."""
    import torch
    import torch.nn.functional as F
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    tokenizer = AutoTokenizer.from_pretrained(model)

    def read(file: Path):
        samples = []
        for line in file.read_text().splitlines():
            messages = json.loads(line)["messages"]
            ids = lambda messages, **more: tokenizer(
                tokenizer.apply_chat_template(messages, tokenize=False, **more), add_special_tokens=False
            ).input_ids
            prompt, all_ids = ids(messages[:-1], add_generation_prompt=True), ids(messages)
            # The end of the answer is learnt, the line break behind it is not.
            end = len(all_ids) - all_ids[::-1].index(tokenizer.eos_token_id)
            labels = [-100] * len(prompt) + all_ids[len(prompt) : end] + [-100] * (len(all_ids) - end)
            samples.append((all_ids[:LENGTH], labels[:LENGTH]))
        return samples

    def batch(samples):
        width = max(len(ids) for ids, _ in samples)
        pad = lambda values, filler: [row + [filler] * (width - len(row)) for row in values]
        ids, labels = zip(*samples)
        mask = [[1] * len(row) for row in ids]
        return map(torch.tensor, (pad(ids, 0), pad(labels, -100), pad(mask, 0)))

    def loss_sum(samples):
        ids, labels, mask = batch(samples)
        logits = net(input_ids=ids, attention_mask=mask).logits[:, :-1]
        labels = labels[:, 1:]
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum"), (labels != -100).sum()

    @torch.inference_mode()
    def held_back_loss():
        net.eval()
        samples = read(HELD_BACK)
        batches = [samples[at : at + HELD_BACK_BATCH] for at in range(0, len(samples), HELD_BACK_BATCH)]
        sums = [loss_sum(batch) for batch in batches]
        net.train()
        return float(sum(loss for loss, _ in sums) / sum(count for _, count in sums))

    bits = {
        "qlora": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        ),
        "int8": BitsAndBytesConfig(load_in_8bit=True),
    }.get(kind)
    more = {"quantization_config": bits, "device_map": "cpu"} if bits else {}
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, **more)
    if bits:
        net = prepare_model_for_kbit_training(net, use_gradient_checkpointing=False)
    linear = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    settings = {"r": RANK, "lora_alpha": ALPHA, "target_modules": linear, "use_dora": kind == "dora"}
    torch.manual_seed(42)
    net = get_peft_model(net, LoraConfig(task_type="CAUSAL_LM", **settings))
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
    before = held_back_loss()
    samples = read(TRAIN)
    for step in range(steps):
        places = [(step * rows + row) % len(samples) for row in range(rows)]
        total, count = loss_sum([samples[place] for place in places])
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    print(before, held_back_loss())


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the same adapters with PEFT and with the trainer.")
    parser.add_argument("trainer")
    parser.add_argument("model")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--peft", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    run_of = (arguments.steps, arguments.rows)
    if arguments.peft:
        return peft(arguments.model, arguments.peft, *run_of)
    print("| | before | after | PEFT before | PEFT after | peak MiB | PEFT's peak MiB |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for kind in arguments.kinds.split(","):
            folder = (arguments.folder or Path(temporary)).resolve() / kind
            for side in ("ours", "theirs"):
                (folder / side).mkdir(parents=True, exist_ok=True)
            a = ours(arguments.trainer, arguments.model, kind, *run_of, folder / "ours")
            b = theirs(arguments.model, kind, *run_of, folder / "theirs")
            losses = " | ".join(f"{loss:.4f}" for loss in (a[0], a[1], b[0], b[1]))
            print(f"| {kind} | {losses} | {a[2]:,.0f} | {b[2]:,.0f} |", flush=True)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Hold adapters of this program and of PEFT against each other.

    check_peft.py [--base FOLDER] [--keep FOLDER]

For each kind of adapter:
  ours    one that `trainer train` made gives the same logits in PEFT as here;
  theirs  one that PEFT made and saved gives the same logits here as in PEFT;
  merged  the model that `trainer merge-lora` makes of ours loads in transformers
          and gives the same logits as the adapter; where the base model was quantized,
          those of the adapter on the model as it was before.
"The same" is a difference of at most 1e-5, or 1e-6 of the largest logit. The base
model is that of the recorded runs, or another in Hugging Face layout. Builds the
program. Exit status 1 if anything differs.

Needs torch, transformers, peft and bitsandbytes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM
from transformers.utils import logging

ROOT = Path(__file__).resolve().parent.parent
PARITY = ROOT / "crates/trainer-cli/tests/parity"
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# Name: keys of a YAML file, settings of PEFT. Where the keys quantize the base model,
# that of PEFT has the numbers that bitsandbytes' codes stand for.
KINDS = {
    "lora": (
        {"lora_target_linear": True, "lora_dropout": 0.1},
        {"target_modules": LINEAR, "lora_dropout": 0.1},
    ),
    "dora": (
        {"lora_target_linear": True, "lora_dropout": 0.1, "peft_use_dora": True},
        {"target_modules": LINEAR, "lora_dropout": 0.1, "use_dora": True},
    ),
    "dora, rslora, patterns": (
        {
            "lora_target_linear": True,
            "peft_use_dora": True,
            "peft_use_rslora": True,
            "lora_rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\..*": 6},
            "lora_alpha_pattern": {"v_proj": 3},
        },
        {
            "target_modules": LINEAR,
            "use_dora": True,
            "use_rslora": True,
            "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\..*": 6},
            "alpha_pattern": {"v_proj": 3},
        },
    ),
    "qlora": (
        {"adapter": "qlora", "load_in_4bit": True, "lora_target_linear": True, "lora_dropout": 0.1},
        {"target_modules": LINEAR},
    ),
    "qlora, dora": (
        {"adapter": "qlora", "load_in_4bit": True, "lora_target_linear": True, "peft_use_dora": True},
        {"target_modules": LINEAR, "use_dora": True},
    ),
    "8 bits": (
        {"load_in_8bit": True, "lora_target_linear": True},
        {"target_modules": LINEAR},
    ),
    "pissa": (
        {"lora_target_linear": True, "peft_init_lora_weights": "pissa", "lora_dropout": 0.1},
        {"target_modules": LINEAR, "init_lora_weights": "pissa"},
    ),
    "olora, dora, rslora, patterns": (
        {
            "lora_target_linear": True,
            "peft_init_lora_weights": "olora",
            "peft_use_dora": True,
            "peft_use_rslora": True,
            "lora_rank_pattern": {"q_proj": 2},
            "lora_alpha_pattern": {"v_proj": 3},
        },
        {"target_modules": LINEAR, "init_lora_weights": "olora", "use_rslora": True},
    ),
    "names": (
        {"lora_target_modules": ["q_proj", "up_proj"], "peft_init_lora_weights": "gaussian"},
        {"target_modules": ["q_proj", "up_proj"], "init_lora_weights": "gaussian"},
    ),
    "expression": (
        {"lora_target_modules": r".*layers\.[0]\..*_proj"},
        {"target_modules": r".*layers\.[0]\..*_proj"},
    ),
    "rslora, patterns": (
        {
            "lora_target_linear": True,
            "peft_use_rslora": True,
            "lora_rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\..*": 6},
            "lora_alpha_pattern": {"v_proj": 3},
        },
        {
            "target_modules": LINEAR,
            "use_rslora": True,
            "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\..*": 6},
            "alpha_pattern": {"v_proj": 3},
        },
    ),
    "one layer": (
        {"lora_target_modules": ["q_proj", "v_proj"], "peft_layers_to_transform": [1]},
        {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]},
    ),
    "modules to save": (
        {"lora_target_modules": ["q_proj", "v_proj"], "lora_modules_to_save": ["embed_tokens", "lm_head"]},
        {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    ),
}


PROMPTS = [
    "ABSURDITY, n.",
    "A statement of belief manifestly inconsistent with one's own opinion.",
    "Define 'cat'.",
    "In our way of thinking, a dog is",
]


def quantized(weight, keys):
    """What is left of a weight in few bits."""
    import bitsandbytes.functional as bnb

    if keys.get("load_in_4bit"):
        # In one row: the kernel for AVX-512 is wrong where rows are no whole blocks of 64.
        codes, state = bnb.quantize_4bit(weight.flatten(), compress_statistics=True, quant_type="nf4")
        return bnb.dequantize_4bit(codes, state).view_as(weight)
    codes, peaks, _ = bnb.int8_vectorwise_quant(weight)
    return bnb.int8_vectorwise_dequant(codes, peaks)


def build():
    subprocess.run(["cargo", "build", "--release", "--bin", "trainer"], cwd=ROOT, check=True)
    metadata = ["cargo", "metadata", "--format-version", "1", "--no-deps"]
    output = subprocess.run(metadata, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return Path(json.loads(output)["target_directory"]) / "release/trainer"


def run(command):
    done = subprocess.run([str(word) for word in command], cwd=PARITY, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout


class Check:
    def __init__(self, base, folder):
        self.base, self.folder = base, folder
        self.trainer = build()
        self.prompts = folder / "prompts.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self.prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in PROMPTS))
        self.failed = False

    def model(self, folder=None, keys=None):
        model = AutoModelForCausalLM.from_pretrained(folder or self.base, dtype=torch.float32).eval()
        keys = keys or {}
        if keys.get("load_in_4bit") or keys.get("load_in_8bit"):
            for module in model.model.layers.modules():
                if isinstance(module, torch.nn.Linear):
                    module.weight.data = quantized(module.weight.data, keys)
        return model

    def ours(self, yaml, adapter):
        """The tokens of each prompt, and the logits of what follows."""
        command = [self.trainer, "inference", yaml, "--raw", "--logits", "--file", self.prompts]
        rows = [json.loads(line) for line in run([*command, "--output_dir", adapter]).splitlines()]
        logits = torch.tensor([row["logits"] for row in rows], dtype=torch.float64)
        return [row["ids"] for row in rows], logits

    @torch.inference_mode()
    def theirs(self, model, prompts):
        model.eval()
        return torch.stack([model(torch.tensor([ids])).logits[0, -1] for ids in prompts]).double()

    def compare(self, what, one, other, before):
        difference = (one - other).abs().max().item()
        tolerance = max(1e-5, 1e-6 * other.abs().max().item())
        effect = (other - before).abs().max().item()
        agrees = difference <= tolerance and effect > 100 * tolerance
        self.failed |= not agrees
        print(f"  {'ok  ' if agrees else 'DIFF'} {what:8} differ by {difference:.1e}; the adapter changes {effect:.1e}")

    def kind(self, name, keys, settings):
        print(name)
        out = self.folder / name.replace(", ", "-").replace(" ", "-")
        config = {
            "base_model": str(self.base),
            "datasets": [{"path": "data/chat.jsonl", "type": "chat_template"}],
            "sequence_len": 256,
            "max_steps": 4,
            "micro_batch_size": 2,
            "learning_rate": 0.02,
            "dataset_prepared_path": "",
            "output_dir": str(out / "ours"),
            "adapter": "lora",
            "lora_r": 4,
            "lora_alpha": 8,
            **keys,
        }
        out.mkdir(parents=True)
        yaml = out / "run.yaml"
        yaml.write_text(json.dumps(config))  # JSON is YAML
        run([self.trainer, "train", yaml])
        ids, ours = self.ours(yaml, out / "ours")
        before = self.theirs(self.model(keys=keys), ids)
        peft = self.theirs(PeftModel.from_pretrained(self.model(keys=keys), out / "ours"), ids)
        self.compare("ours", ours, peft, before)

        torch.manual_seed(1)
        model = get_peft_model(self.model(keys=keys), LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, **settings))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.05 * torch.randn_like(parameter)
        model.save_pretrained(out / "theirs")
        self.compare("theirs", self.ours(yaml, out / "theirs")[1], self.theirs(model, ids), before)

        run([self.trainer, "merge-lora", yaml])
        peft = self.theirs(PeftModel.from_pretrained(self.model(), out / "ours"), ids)
        self.compare("merged", self.theirs(self.model(out / "ours/merged"), ids), peft, before)


def main():
    parser = argparse.ArgumentParser(description="Hold adapters of this program and of PEFT against each other.")
    parser.add_argument("--base", type=Path, default=PARITY / "models/llama", help="folder of the base model")
    parser.add_argument("--keep", type=Path, help="keep everything in this folder")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as temporary:
        check = Check(arguments.base.resolve(), (arguments.keep or Path(temporary)).resolve())
        for name, (keys, settings) in KINDS.items():
            check.kind(name, keys, settings)
    sys.exit(check.failed)


if __name__ == "__main__":
    main()

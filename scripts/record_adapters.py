#!/usr/bin/env python3
"""Make the adapters in crates/trainer-model/tests/adapters with PEFT, and record what
a model with each of them computes.

    record_adapters.py [NAME ...]

Each folder gets adapter_config.json, adapter_model.safetensors and reference.json:
logits, log-sum-exp, loss and the gradient norm of every trained tensor, for the
tokens of the model's own reference.json. All values are drawn from a fixed seed.

Needs torch, transformers and peft.
"""

import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).parent.parent / "crates"
MODEL = ROOT / "trainer-cli/tests/parity/models/llama"
OUT = ROOT / "trainer-model/tests/adapters"

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

ADAPTERS = {
    "lora": {"r": 4, "lora_alpha": 8, "target_modules": LINEAR},
    "dora": {"r": 4, "lora_alpha": 8, "target_modules": LINEAR, "use_dora": True},
    "pissa": {"r": 4, "lora_alpha": 8, "target_modules": LINEAR, "init_lora_weights": "pissa"},
    "olora": {
        "r": 4,
        "lora_alpha": 2,
        "target_modules": ["q_proj", "down_proj"],
        "init_lora_weights": "olora",
        "use_dora": True,
    },
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        "rank_pattern": {"v_proj": 2, r"layers\.1\.mlp\.down_proj": 6},
        "alpha_pattern": {"down_proj": 3},
        "layers_to_transform": [1],
        "layers_pattern": "layers",
        "use_rslora": True,
    },
    "modules": {
        "r": 2,
        "lora_alpha": 4,
        "target_modules": r".*\.self_attn\.[qk]_proj",
        "modules_to_save": ["post_attention_layernorm", "o_proj"],
    },
}


def record(name: str) -> None:
    settings = ADAPTERS[name]
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    model.peft_config["default"].base_model_name_or_path = "llama"
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            # Second factors are zero at first, which would hide the others.
            with torch.no_grad():
                parameter.add_(0.05 * torch.randn_like(parameter))
    folder = OUT / name
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)

    reference = json.loads((MODEL / "reference.json").read_text())
    ids = torch.tensor([reference["input_ids"]])
    labels = torch.tensor([reference["labels"]])
    output = model(input_ids=ids, labels=labels)
    output.loss.backward()
    logits = output.logits[0].double()
    norms = {
        key.replace("base_model.model.", "")
        .replace(".default", "")
        .replace(".modules_to_save", "")
        .replace("lora_magnitude_vector.weight", "lora_magnitude_vector"): float(parameter.grad.norm())
        for key, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    record = {
        "input_ids": reference["input_ids"],
        "labels": reference["labels"],
        "loss": float(output.loss),
        "logits_first16_vocab": logits[:, :16].tolist(),
        "logsumexp": logits.logsumexp(-1).tolist(),
        "grad_norms": norms,
    }
    (folder / "reference.json").write_text(json.dumps(record) + "\n")
    print(name, float(output.loss), len(norms))


def main() -> None:
    for name in sys.argv[1:] or ADAPTERS:
        record(name)


if __name__ == "__main__":
    main()

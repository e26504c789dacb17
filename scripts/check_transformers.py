#!/usr/bin/env python3
"""Load a model folder in transformers, in float32, and print greedy answers.

    check_transformers.py FOLDER [--question TEXT]... [--max-new-tokens N]
                          [--trainer BINARY --config FILE] [--tolerance X]

With --trainer and --config, the configuration that FOLDER was trained with, the
tokens and the scores of every next token are compared with those that
`trainer inference --logits` gives for FOLDER.

A folder without a chat template goes on with beginnings of texts in place of answers.

Exit status 1 if a weight is missing, unexpected or of another shape than
config.json says, if a weight or logit is not finite, if an answer is empty, or
if tokens or logits differ.

Needs torch and transformers.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

# A folder on disk is all that is looked at; a wrong path must not become a
# request to the hub.
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

# Texts of several scripts, with tokens of one and of many bytes.
TEXTS = [
    "The capital of France is",
    "def add(a, b):\n    return a +",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen",
    "北京是中国的",
    "In 2024, 3.14159 and 1,000,000 are",
    "<|im_start|>user\nA <note> with new tokens</note><|im_end|>\n",
]

# For models that were not trained to answer.
BEGINNINGS = ["The capital of France is", "Once upon a time, there was"]

QUESTIONS = ["What is the capital of France?", "What is LoRA?"]


def load(folder):
    """The model and its tokenizer; exits when the weights do not fit."""
    model, info = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # reported below, with the other problems
    )
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
    problems = [f"  {kind}: {sorted(map(str, info[kind]))}" for kind in kinds if info.get(kind)]
    problems += [f"  not finite: {name}" for name, p in model.named_parameters() if not p.isfinite().all()]
    if problems:
        sys.exit("\n".join([f"{folder}: the weights do not fit the model", *problems]))
    return model.eval(), AutoTokenizer.from_pretrained(folder)


@torch.inference_mode()
def answer(model, tokenizer, question, max_new_tokens):
    """The greedy answer to one question, asked through the chat template if there is one."""
    if tokenizer.chat_template is None:
        prompt = tokenizer(question, return_tensors="pt")
    else:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
    if not model(**prompt).logits.isfinite().all():
        sys.exit(f"the logits after {question!r} are not finite")
    output = model.generate(**prompt, do_sample=False, max_new_tokens=max_new_tokens)
    return tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True).strip()


@torch.inference_mode()
def check_logits(model, tokenizer, folder, trainer, config, tolerance):
    """Compare tokens and logits with the trainer's; returns what differs."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        file.write("\n".join(json.dumps({"prompt": text}) for text in TEXTS))
        file.flush()
        command = [trainer, "inference", config, "--output_dir", folder, "--raw", "--logits", "--file", file.name]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    problems, worst = [], 0.0
    for line, text in zip(output.splitlines(), TEXTS, strict=True):
        row = json.loads(line)
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        if row["ids"] != ids[0].tolist():
            problems.append(f"{text!r}: tokens {row['ids']} there, {ids[0].tolist()} in transformers")
            continue
        difference = (model(ids).logits[0, -1] - torch.tensor(row["logits"])).abs().max().item()
        worst = max(worst, difference)
    print(f"{folder}: logits differ by {worst:.1e} at most")
    if worst > tolerance:
        problems.append(f"logits differ by {worst}")
    return problems


def main():
    parser = argparse.ArgumentParser(description="Load a model folder in transformers and print greedy answers.")
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--question", action="append", metavar="TEXT", help="may be repeated; default: two questions, or beginnings of texts")
    parser.add_argument("--max-new-tokens", type=int, default=64, metavar="N")
    parser.add_argument("--trainer", metavar="BINARY", help="compare logits with this trainer's")
    parser.add_argument("--config", metavar="FILE", help="configuration that FOLDER was trained with")
    parser.add_argument("--tolerance", type=float, default=1e-5, metavar="X", help="of logits (default: 1e-5)")
    args = parser.parse_args()
    if (args.trainer is None) != (args.config is None):
        parser.error("--trainer and --config go together")
    if not (args.folder / "config.json").is_file():
        sys.exit(f"{args.folder}: no config.json there")

    model, tokenizer = load(args.folder)
    print(f"{args.folder}: {model.num_parameters():,} parameters, all weights in place")
    shards = sorted(path.name for path in args.folder.glob("*.safetensors"))
    print(f"weights in {', '.join(shards)}")
    if args.trainer:
        problems = check_logits(model, tokenizer, args.folder, args.trainer, args.config, args.tolerance)
        if problems:
            sys.exit("\n".join(problems))
    silent = []
    default = BEGINNINGS if tokenizer.chat_template is None else QUESTIONS
    for question in args.question or default:
        text = answer(model, tokenizer, question, args.max_new_tokens)
        print(f"Q: {question}\nA: {text}")
        if not text:
            silent.append(question)
    if silent:
        sys.exit(f"no answer to: {silent}")


if __name__ == "__main__":
    main()

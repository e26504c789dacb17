#!/usr/bin/env python3
"""Load a model folder in transformers, in float32, and print greedy answers.

    check_transformers.py FOLDER [--question TEXT]... [--max-new-tokens N]

Exit status 1 if a weight is missing, unexpected or of another shape than
config.json says, if a weight or logit is not finite, or if an answer is empty.

Needs torch and transformers.
"""

import argparse
import os
import sys
from pathlib import Path

# A folder on disk is all that is looked at; a wrong path must not become a
# request to the hub.
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

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
    """The greedy answer to one question, asked through the chat template."""
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


def main():
    parser = argparse.ArgumentParser(description="Load a model folder in transformers and print greedy answers.")
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--question", action="append", metavar="TEXT", help="may be repeated; default: two questions")
    parser.add_argument("--max-new-tokens", type=int, default=64, metavar="N")
    args = parser.parse_args()
    if not (args.folder / "config.json").is_file():
        sys.exit(f"{args.folder}: no config.json there")

    model, tokenizer = load(args.folder)
    print(f"{args.folder}: {model.num_parameters():,} parameters, all weights in place")
    silent = []
    for question in args.question or QUESTIONS:
        text = answer(model, tokenizer, question, args.max_new_tokens)
        print(f"Q: {question}\nA: {text}")
        if not text:
            silent.append(question)
    if silent:
        sys.exit(f"no answer to: {silent}")


if __name__ == "__main__":
    main()

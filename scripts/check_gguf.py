#!/usr/bin/env python3
"""Check GGUF files that `trainer export` wrote, with the gguf package.

    check_gguf.py FILE.gguf FOLDER [--transformers] [--llama-cpp LOGITS.jsonl]
    check_gguf.py --blocks TRAINER

The first form compares FILE with the model in FOLDER (Hugging Face layout),
which it was exported from: every tensor is there, in the shape and order that
llama.cpp expects; F32 tensors are equal, F16, BF16 and Q8_0 ones are what the
gguf package makes of the same weights; tokens, kinds and ids are those of the
tokenizer. With --transformers, transformers loads FILE, and gives the logits of
FOLDER (1e-5 for F32). With --llama-cpp, llama.cpp loads FILE, and gives the
tokens and the log-probabilities of what `trainer inference --raw --logits
--file PROMPTS.jsonl` wrote for the same model: to 0.02 for F32, since llama.cpp
keeps keys and values in half precision.

The second form makes files of random blocks of every number format that is
read, imports them with TRAINER, and compares with what the gguf package reads.

Exit status 1 if anything differs. Needs numpy, gguf, safetensors and torch; the
options need transformers, or xllamacpp.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, quants
from gguf.constants import GGML_QUANT_SIZES
from safetensors import safe_open

os.environ["HF_HUB_OFFLINE"] = "1"

TOP_LEVEL = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
IN_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GEMMA = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def gguf_name(name, architecture):
    stem, end = name.rsplit(".", 1)
    if stem.startswith("model.layers."):
        _, _, layer, part = stem.split(".", 3)
        table = IN_LAYER | GEMMA if architecture == "gemma3" else IN_LAYER
        return f"blk.{layer}.{table[part]}.{end}"
    return f"{TOP_LEVEL[stem]}.{end}"


def pairs_from_halves(weight, heads):
    """Rows that rotary embeddings turn together, half a head apart, put side by side."""
    rows = weight.shape[0]
    halves = weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def llama3_factors(config, rope):
    """By how much Llama 3.1's scaling slows each frequency."""
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    theta = rope.get("rope_theta") or config["rope_theta"]
    wavelengths = 2 * np.pi * theta ** (np.arange(0, width, 2) / width)
    original, low, high = rope["original_max_position_embeddings"], rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = (original / wavelengths - low) / (high - low)
    between = 1 / ((1 - smooth) / rope["factor"] + smooth)
    kept = np.where(wavelengths < original / high, 1.0, between)
    return np.where(wavelengths > original / low, rope["factor"], kept)


def folder_tensors(folder):
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():
                tensors[name] = file.get_tensor(name).float().numpy()
    return tensors


def check_tensors(reader, folder, config, architecture):
    """What is wrong with the tensors of the file, which should be those of the folder."""
    found = {tensor.name: tensor for tensor in reader.tensors}
    heads = {"q_proj": config["num_attention_heads"]}
    heads["k_proj"] = config.get("num_key_value_heads") or heads["q_proj"]
    problems = []
    for name, weight in folder_tensors(folder).items():
        part = name.split(".")[-2]
        if architecture == "llama" and part in heads:
            weight = pairs_from_halves(weight, heads[part])
        if architecture == "gemma3" and name.endswith("norm.weight"):
            weight = weight + 1
        tensor = found.pop(gguf_name(name, architecture), None)
        if tensor is None:
            problems.append(f"{name} is missing")
            continue
        kind = tensor.tensor_type
        if list(tensor.shape) != list(reversed(weight.shape)):
            problems.append(f"{tensor.name}: shape {list(tensor.shape)}")
        elif kind == GGMLQuantizationType.F32:
            if not np.array_equal(tensor.data.reshape(weight.shape), weight):
                problems.append(f"{tensor.name}: other values")
        else:
            expected = quants.quantize(weight, kind)
            if not np.array_equal(expected.view(np.uint8), tensor.data.reshape(expected.shape).view(np.uint8)):
                problems.append(f"{tensor.name}: not what the gguf package makes of the weights as {kind.name}")
            if kind == GGMLQuantizationType.Q8_0:
                back = quants.dequantize(tensor.data, kind).reshape(weight.shape)
                blocks = np.abs(weight).reshape(-1, 32).max(axis=1, keepdims=True)
                # Half a step, and the rounding of the step to half precision.
                allowed = blocks / 127 * 0.5 + blocks * 2.0**-11 + 1e-7
                if np.any(np.abs(back - weight).reshape(-1, 32) > allowed):
                    problems.append(f"{tensor.name}: more than a step from the weights")
    factors = found.pop("rope_freqs.weight", None)
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type") == "llama3":
        if factors is None or not np.allclose(factors.data, llama3_factors(config, rope), rtol=1e-6):
            problems.append("rope_freqs.weight: other factors, or none")
    problems += [f"{name} is in the file and not in the model" for name in found]
    return problems


def check_tokenizer(reader, folder, rows):
    """What is wrong with the tokenizer, which should be that of tokenizer.json."""
    fields = {key: field.contents() for key, field in reader.fields.items() if key.startswith("tokenizer.")}
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    expected = {i: token for token, i in tokenizer["model"]["vocab"].items()}
    kinds = dict.fromkeys(expected, 1)
    for token in tokenizer["added_tokens"]:
        expected[token["id"]] = token["content"]
        kinds[token["id"]] = 3 if token["special"] else 4
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    problems = []
    if len(tokens) != rows or len(types) != rows:
        problems.append(f"{len(tokens)} tokens and {len(types)} types for {rows} rows")
    wrong = [i for i, token in expected.items() if tokens[i] != token]
    if fields["tokenizer.ggml.model"] == "gpt2":
        wrong += [i for i, kind in kinds.items() if types[i] != kind]
        merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
        if fields["tokenizer.ggml.merges"] != merges:
            problems.append("other merges")
    if wrong:
        problems.append(f"tokens {wrong[:5]} differ")
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    for role, key in (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding")):
        token = config.get(role)
        token = token["content"] if isinstance(token, dict) else token
        i = fields.get(f"tokenizer.ggml.{key}_token_id")
        if token is not None and (i is None or tokens[i] != token):
            problems.append(f"{role} is {i}")
    return problems


def comparable(config):
    """Whether transformers reads all that matters of a file of this model."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kinds = ("llama", "mistral", "qwen2", "phi3")
    # It passes over rope_freqs.weight, and over the width of heads of other models.
    return config["model_type"] in kinds and rope.get("rope_type") in (None, "default")


def check_transformers(path, folder, exact):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ours = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, ours.config.vocab_size, (2, 40), generator=generator)
    with torch.inference_mode():
        difference = (ours(ids).logits - theirs(ids).logits).abs().max().item()
    print(f"  transformers: logits differ by {difference:.2e}")
    problems = [] if difference <= 1e-5 or not exact else [f"logits differ by {difference}"]
    text = "Hello there, it's 2024:\n\n  naïve <|im_end|> tokens…"
    ids = AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    other = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)(text)["input_ids"]
    if ids != other:
        # transformers has one way of splitting for every GGUF file of a family.
        print(f"  note: transformers' own conversion of the tokenizer gives {len(other)} tokens, not {len(ids)}")
    return problems


def check_llama_cpp(path, logits, exact):
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.n_gpu_layers, params.warmup = 512, 1, 0, False
    server = xllamacpp.Server(params)

    def post(route, body):
        request = urllib.request.Request(server.listening_address + route, json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        return json.loads(urllib.request.urlopen(request).read())

    problems, worst, compared = [], 0.0, 0
    for line in logits.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        ids = post("/tokenize", {"content": row["prompt"], "add_special": True, "parse_special": True})["tokens"]
        if ids != row["ids"]:
            problems.append(f"{row['prompt']!r} is {ids} there, {row['ids']} here")
        body = {"prompt": row["ids"], "n_predict": 1, "temperature": 0, "n_probs": 20, "cache_prompt": False}
        found = post("/completion", body).get("completion_probabilities")
        if not found:
            continue  # the likeliest token ends the text, and nothing is told of it
        compared += 1
        largest = max(row["logits"])
        total = largest + math.log(sum(math.exp(x - largest) for x in row["logits"]))
        for token in found[0]["top_logprobs"]:
            worst = max(worst, abs(token["logprob"] - (row["logits"][token["id"]] - total)))
    print(f"  llama.cpp: log-probabilities after {compared} prompts differ by {worst:.1e}")
    if compared == 0 or (exact and worst > 0.02):
        problems.append(f"llama.cpp differs by {worst} in {compared} prompts")
    return problems


def check_file(path, folder, with_transformers, logits):
    reader = GGUFReader(path)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    architecture = reader.fields["general.architecture"].contents()
    problems = check_tensors(reader, folder, config, architecture)
    if (folder / "tokenizer.json").exists():
        problems += check_tokenizer(reader, folder, config["vocab_size"])
    kinds = sorted({tensor.tensor_type.name for tensor in reader.tensors})
    print(f"{path}: {architecture}, {len(reader.tensors)} tensors of {', '.join(kinds)}")
    if with_transformers and not comparable(config):
        print("  transformers does not read all of this model's keys from GGUF: not compared")
    elif with_transformers:
        problems += check_transformers(path, folder, kinds == ["F32"])
    if logits:
        problems += check_llama_cpp(path, logits, kinds == ["F32"])
    return problems


FORMATS = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]


def random_blocks(kind, rows, columns, rng):
    """Blocks with finite scales and otherwise any bits."""
    numbers, size = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows * columns // numbers, size), dtype=np.uint8)
    scales = {"F32": None, "F16": None, "BF16": None, "Q6_K": [208], "Q8_0": [0], "Q4_0": [0], "Q5_0": [0]}
    places = scales.get(kind.name, [0, 2])
    if places is None:
        values = rng.standard_normal((rows, columns)).astype(np.float32)
        return quants.quantize(values, kind) if kind.name == "BF16" else values.astype(
            np.float16 if kind.name == "F16" else np.float32
        )
    for place in places:
        half = rng.standard_normal(len(blocks)).astype(np.float16)
        blocks[:, place : place + 2] = half.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, -1)


def block_file(path, kind, rng):
    """A Llama of one layer whose matrices have this format; returns its tensors."""
    hidden, inner, heads, vocabulary = 256, 512, 4, 300
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(hidden)
    writer.add_block_count(1)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{i}" for i in range(vocabulary)])
    writer.add_token_types([1] * vocabulary)
    writer.add_token_merges([])
    shapes = {"token_embd": (vocabulary, hidden)}
    for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
        shapes[f"blk.0.{part}"] = (hidden, hidden)
    shapes |= {"blk.0.ffn_gate": (inner, hidden), "blk.0.ffn_up": (inner, hidden), "blk.0.ffn_down": (hidden, inner)}
    expected = {}
    for name, shape in shapes.items():
        blocks = random_blocks(kind, *shape, rng)
        writer.add_tensor(f"{name}.weight", blocks, raw_dtype=kind)
        expected[name] = quants.dequantize(blocks.view(np.uint8) if kind.name == "F32" else blocks, kind).reshape(shape)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        values = rng.standard_normal(hidden).astype(np.float32)
        writer.add_tensor(f"{name}.weight", values)
        expected[name] = values
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expected, heads


def check_blocks(trainer):
    problems = []
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as temporary:
        for name in FORMATS:
            path, folder = Path(temporary) / f"{name}.gguf", Path(temporary) / name
            expected, heads = block_file(path, GGMLQuantizationType[name], rng)
            subprocess.run([trainer, "import", path, folder, "--dtype", "f32"], check=True, capture_output=True)
            worst = 0.0
            for hf, values in folder_tensors(folder).items():
                want = expected[gguf_name(hf, "llama").removesuffix(".weight")]
                if hf.split(".")[-2] in ("q_proj", "k_proj"):
                    values = pairs_from_halves(values, heads)
                worst = max(worst, float(np.max(np.abs(values - want) / (np.abs(want) + 1e-3))))
            print(f"{name}: values differ by {worst:.1e} of themselves")
            if worst > 1e-6:
                problems.append(f"{name}: differs by {worst}")
    return problems


def main():
    parser = argparse.ArgumentParser(description="Check GGUF files with the gguf package.")
    parser.add_argument("file", metavar="FILE.gguf", type=Path, nargs="?")
    parser.add_argument("folder", metavar="FOLDER", type=Path, nargs="?", help="the model it was exported from")
    parser.add_argument("--transformers", action="store_true", help="compare logits in transformers too")
    parser.add_argument("--llama-cpp", metavar="LOGITS.jsonl", type=Path, help="compare with llama.cpp")
    parser.add_argument("--blocks", metavar="TRAINER", help="check what TRAINER reads instead")
    args = parser.parse_args()
    if args.blocks:
        problems = check_blocks(args.blocks)
    elif args.file and args.folder:
        problems = check_file(args.file, args.folder, args.transformers, args.llama_cpp)
    else:
        parser.error("name a GGUF file and a folder, or --blocks TRAINER")
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()

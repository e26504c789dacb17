#!/usr/bin/env python3
"""Convert a Llama model from a GGUF file to a Hugging Face folder.

    gguf_to_hf.py MODEL.gguf FOLDER [--dtype bf16|f32]

Quantized tensors are dequantized. FOLDER gets config.json,
generation_config.json, model.safetensors, tokenizer.json and
tokenizer_config.json. The same input gives the same bytes.

Needs numpy and gguf.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

# Names of tensors: GGUF's, without ".weight", to Hugging Face's.
TOP_LEVEL = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

# Pre-tokenizers that GGUF knows by name alone.
BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
PRE_TOKENIZERS = {
    "gpt-2": BYTE_LEVEL,
    "smollm": {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL],
    },
}

CONTROL_TOKEN = 3  # GGUF's token type of <|im_start|> and the like

DTYPES = {"bf16": "bfloat16", "f32": "float32"}


class Unsupported(Exception):
    """The file holds something this script has no conversion for."""


def field(fields, key, default=None):
    """The value of a GGUF metadata key; an error when absent without default."""
    if key in fields:
        return fields[key].contents()
    if default is None:
        raise Unsupported(f"the file has no {key!r}")
    return default


def hf_name(name):
    """The Hugging Face name of a GGUF tensor."""
    stem = name.removesuffix(".weight")
    if stem.startswith("blk."):
        _, layer, part = stem.split(".", 2)
        if part in IN_LAYER:
            return f"model.layers.{layer}.{IN_LAYER[part]}.weight"
    elif stem in TOP_LEVEL:
        return f"{TOP_LEVEL[stem]}.weight"
    raise Unsupported(f"tensor {name!r} has no counterpart in a Llama model")


def halves_from_pairs(weight, heads):
    """Reorder the rows of a query or key projection, [heads * head_dim, hidden].

    GGUF keeps the two rows that rotary embeddings rotate together side by side;
    Hugging Face keeps them half a head apart.
    """
    rows, hidden = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, hidden)
    return pairs.swapaxes(1, 2).reshape(rows, hidden)


def bf16_bits(array):
    """float32 to bfloat16, rounded to nearest even, as uint16 bit patterns."""
    bits = np.ascontiguousarray(array, dtype="<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def read_tensors(reader, heads, kv_heads):
    """All tensors as float32 arrays under their Hugging Face names."""
    tensors = {}
    for tensor in reader.tensors:
        # Rotary frequencies follow from the configuration.
        if tensor.name.startswith("rope_freqs"):
            continue
        weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if tensor.name.endswith("attn_q.weight"):
            weight = halves_from_pairs(weight, heads)
        elif tensor.name.endswith("attn_k.weight"):
            weight = halves_from_pairs(weight, kv_heads)
        tensors[hf_name(tensor.name)] = weight
    return tensors


def write_tensors(path, tensors, dtype):
    """One safetensors file, tensors in the order of their names.

    The layout is the length of the header as a little-endian u64, a JSON header
    padded with spaces to 8 bytes, and the tensors' bytes one after the other.
    """
    width = 2 if dtype == "bf16" else 4
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(tensors):
        start, end = end, end + tensors[name].size * width
        header[name] = {
            "dtype": dtype.upper(),
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(path, "wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for name in sorted(tensors):
            array = tensors[name]
            file.write(bf16_bits(array).tobytes() if dtype == "bf16" else array.astype("<f4").tobytes())


def model_config(fields, tied, dtype):
    """config.json of the model."""
    heads = field(fields, "llama.attention.head_count")
    hidden = field(fields, "llama.embedding_length")
    # The file holds this one in float32: 1e-5 reads 9.99999974e-06.
    eps = float(f"{field(fields, 'llama.attention.layer_norm_rms_epsilon'):.6g}")
    eos = field(fields, "tokenizer.ggml.eos_token_id")
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": field(fields, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": eos,
        "head_dim": field(fields, "llama.rope.dimension_count", hidden // heads),
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": field(fields, "llama.feed_forward_length"),
        "max_position_embeddings": field(fields, "llama.context_length"),
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": field(fields, "llama.block_count"),
        "num_key_value_heads": field(fields, "llama.attention.head_count_kv", heads),
        "pad_token_id": field(fields, "tokenizer.ggml.padding_token_id", eos),
        "rms_norm_eps": eps,
        "rope_scaling": None,
        "rope_theta": field(fields, "llama.rope.freq_base", 10000.0),
        "tie_word_embeddings": tied,
        "torch_dtype": DTYPES[dtype],
        "use_cache": True,
        "vocab_size": len(field(fields, "tokenizer.ggml.tokens")),
    }


def tokenizer_files(fields, config):
    """tokenizer.json and tokenizer_config.json of a byte-level BPE."""
    model = field(fields, "tokenizer.ggml.model")
    pre = field(fields, "tokenizer.ggml.pre")
    if model != "gpt2" or pre not in PRE_TOKENIZERS:
        known = ", ".join(sorted(PRE_TOKENIZERS))
        raise Unsupported(f"tokenizer {model!r} with pre-tokenizer {pre!r}: known are gpt2 with {known}")
    tokens = field(fields, "tokenizer.ggml.tokens")
    types = field(fields, "tokenizer.ggml.token_type")
    flags = {
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    special = {i: {"content": tokens[i], **flags} for i, kind in enumerate(types) if kind == CONTROL_TOKEN}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, **token} for i, token in special.items()],
        "normalizer": None,
        "pre_tokenizer": PRE_TOKENIZERS[pre],
        "post_processor": None,
        "decoder": {**BYTE_LEVEL, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": field(fields, "tokenizer.ggml.merges"),
        },
    }
    tokenizer_config = {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(i): token for i, token in special.items()},
        "bos_token": tokens[config["bos_token_id"]],
        "eos_token": tokens[config["eos_token_id"]],
        "pad_token": tokens[config["pad_token_id"]],
        "unk_token": tokens[field(fields, "tokenizer.ggml.unknown_token_id", config["eos_token_id"])],
        "chat_template": field(fields, "tokenizer.chat_template"),
        "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"],
        # Reads tokenizer.json as it stands; GPT2Tokenizer would not keep the
        # splitting of digits.
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    return tokenizer, tokenizer_config


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def convert(source, folder, dtype):
    reader = GGUFReader(source)
    fields = reader.fields
    architecture = field(fields, "general.architecture")
    if architecture != "llama":
        raise Unsupported(f"architecture {architecture!r}: only 'llama' is converted")
    heads = field(fields, "llama.attention.head_count")
    tensors = read_tensors(reader, heads, field(fields, "llama.attention.head_count_kv", heads))
    tied = "lm_head.weight" not in tensors
    config = model_config(fields, tied, dtype)
    tokenizer, tokenizer_config = tokenizer_files(fields, config)

    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "model.safetensors", tensors, dtype)
    write_json(folder / "config.json", config)
    write_json(
        folder / "generation_config.json",
        {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")},
    )
    write_json(folder / "tokenizer.json", tokenizer)
    write_json(folder / "tokenizer_config.json", tokenizer_config)

    parameters = sum(array.size for array in tensors.values())
    head = "tied" if tied else "separate"
    print(f"{folder}: {len(tensors)} tensors, {parameters:,} parameters, {head} output head")


def main():
    parser = argparse.ArgumentParser(description="Convert a Llama model from GGUF to a Hugging Face folder.")
    parser.add_argument("source", metavar="MODEL.gguf", type=Path)
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bf16", help="of the saved weights (default: bf16)")
    args = parser.parse_args()
    try:
        convert(args.source, args.folder, args.dtype)
    except (Unsupported, OSError, ValueError) as error:
        sys.exit(f"{args.source}: {error}")


if __name__ == "__main__":
    main()

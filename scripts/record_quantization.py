#!/usr/bin/env python3
"""Record what bitsandbytes makes of some weights on the CPU, for the tests of
crates/trainer-model/src/quantized.

The weights follow from their places, so that only codes are recorded, and a sample of
the numbers that they stand for. Needs torch and bitsandbytes.
"""

import json
from pathlib import Path

import bitsandbytes.functional as F
import torch

OUT = Path(__file__).resolve().parent.parent / "crates/trainer-model/tests/quantized/bitsandbytes.json"

# Neither a whole number of blocks of 64 nor of scales of 256 blocks.
NUMBERS, COLUMNS, SAMPLE = 33_001, 100, 41


def weights():
    place = torch.arange(NUMBERS, dtype=torch.int64)
    uniform = (place * 2_654_435_761 % 2**32).double() / 2**32 - 0.5
    return (uniform * (1 + place // 64 % 37).double() * 0.01).float()


def nf4(values):
    codes, state = F.quantize_4bit(values, blocksize=64, compress_statistics=True, quant_type="nf4")
    back = F.dequantize_4bit(codes, state)
    return {
        "codes": bytes(codes.flatten().tolist()).hex(),
        "scales": bytes(state.absmax.tolist()).hex(),
        "peaks": state.state2.absmax.tolist(),
        "mean": state.offset.item(),
        "values": back.flatten()[::SAMPLE].tolist(),
    }


def int8(values):
    values = values[: NUMBERS - NUMBERS % COLUMNS].view(-1, COLUMNS)
    codes, peaks, _ = F.int8_vectorwise_quant(values)
    back = F.int8_vectorwise_dequant(codes, peaks)
    return {
        "codes": codes.view(torch.uint8).numpy().tobytes().hex(),
        "values": back.flatten()[::SAMPLE].tolist(),
    }


def main():
    values = weights()
    record = {"numbers": NUMBERS, "columns": COLUMNS, "sample": SAMPLE, "nf4": nf4(values), "int8": int8(values)}
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Record how the published optimizers change parameters over 25 steps.

    record_optimizers.py [FOLDER]

Writes one JSON file an optimizer into FOLDER (default: the golden files of
trainer-core), against which `cargo test --lib optimizer` compares ours. Values
and gradients come from a linear congruential generator, so that the test makes
the same ones and the files hold results alone. Some gradients are zero
throughout, as those of tokens that do not occur. The learning rate falls from
step to step, and weight decay is on, except for norms.

torch iterates Muon in bfloat16, and the CPU part of bitsandbytes rounds to codes
in a way of its own; both are replaced by what they approximate.

Needs torch, transformers and bitsandbytes (their CPU parts).
"""

import json
import sys
import types
from pathlib import Path

import bitsandbytes
import torch
from transformers.optimization import Adafactor

FOLDER = Path(__file__).parent.parent / "crates/trainer-core/src/optimizer/golden"
STEPS = 25
RECORDED = (1, 10, STEPS)
WEIGHT_DECAY = 0.1
SMALL = {
    "layers.0.q_proj.weight": (5, 3),
    "layers.0.k_proj.weight": (3, 8),
    "layers.0.experts.weight": (2, 3, 4),
    "layers.0.scale": (7,),
    "layers.0.input_layernorm.weight": (6,),
}
MATRICES = {
    "embed_tokens.weight": (6, 4),
    "layers.0.q_proj.weight": (5, 3),
    "layers.0.k_proj.weight": (3, 8),
    "layers.0.v_proj.weight": (16, 12),
    "layers.0.input_layernorm.weight": (6,),
}
# Whole blocks of 256 and a rest, and one that is too small for 8 bits.
LARGE = {
    "layers.0.q_proj.weight": (64, 65),
    "layers.0.k_proj.weight": (130, 33),
    "layers.0.v_proj.weight": (5, 3),
    "layers.0.input_layernorm.weight": (6,),
}


def numbers(seed: int, count: int) -> list[float]:
    """Numbers from -1 to 1 that a float holds exactly."""
    state, out = seed, []
    for _ in range(count):
        state = (state * 1664525 + 1013904223) % 2**32
        out.append((state >> 8) / 2**23 - 1)
    return out


def gradient(step: int, index: int, shape: tuple[int, ...]) -> torch.Tensor:
    raw = numbers(1000 * step + index, torch.Size(shape).numel())
    scaled = [0.0 if i % 11 == 3 else x / 2 ** (i % 5) for i, x in enumerate(raw)]
    return torch.tensor(scaled).reshape(shape)


def trajectory(shapes, rate, make, every=1):
    names = list(shapes)
    parameters = [
        torch.nn.Parameter(torch.tensor(numbers(index, torch.Size(shape).numel())).reshape(shape))
        for index, shape in enumerate(shapes.values())
    ]
    optimizers = make(dict(zip(names, parameters)), rate)
    records = {name: {} for name in names}
    for step in range(1, STEPS + 1):
        for index, parameter in enumerate(parameters):
            parameter.grad = gradient(step, index, tuple(parameter.shape))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 - 0.02 * (step - 1))
            optimizer.step()
        if step in RECORDED:
            for name, parameter in zip(names, parameters):
                taken = parameter.detach().flatten()
                taken = taken[::every] if taken.numel() > 1000 else taken
                records[name][step] = [float(f"{x:.9g}") for x in taken.tolist()]
    return [
        {"name": name, "shape": list(shape), "every": every if torch.Size(shape).numel() > 1000 else 1,
         "values": records[name]}
        for name, shape in shapes.items()
    ]


def groups(named, keep=lambda name: True):
    """Weight decay for all but norms, as transformers forms its groups."""
    decays = [p for name, p in named.items() if keep(name) and "norm" not in name]
    others = [p for name, p in named.items() if keep(name) and "norm" in name]
    return [{"params": decays, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]


def one(build):
    """A single optimizer for all parameters."""
    return lambda named, rate: [build(groups(named), rate)]


def muon(**kwargs):
    def make(named, rate):
        def is_matrix(name):
            return named[name].ndim == 2 and "embed" not in name

        matrices = [p for name, p in named.items() if is_matrix(name)]
        return [
            torch.optim.Muon(matrices, lr=rate, weight_decay=WEIGHT_DECAY, **kwargs),
            torch.optim.AdamW(groups(named, lambda name: not is_matrix(name)), lr=rate, betas=(0.95, 0.95)),
        ]

    return make


class Float32InPlaceOfBfloat16:
    """What torch computes in bfloat16 to save time, in float32."""

    def __enter__(self):
        self.module = sys.modules["torch.optim._muon"]
        torch_in_float32 = types.ModuleType("torch")
        torch_in_float32.__dict__.update(torch.__dict__)
        torch_in_float32.bfloat16 = torch.float32
        self.module.torch = torch_in_float32

    def __exit__(self, *error):
        self.module.torch = torch


class NearestCodes:
    """The CPU part of bitsandbytes finds the code of a value in a table of equal
    steps, which is coarse near zero; its CUDA part and its generic part take the
    nearest code. This puts the latter in place of the former."""

    @staticmethod
    def quantize(values, code, scales, codes, blocksize):
        blocks = torch.nn.functional.pad(values.flatten(), (0, -values.numel() % blocksize)).view(-1, blocksize)
        scales.copy_(blocks.abs().amax(dim=1))
        scaled = (blocks / scales[:, None]).flatten()[: values.numel()]
        # A positive second moment never becomes zero here.
        nearest = (scaled[:, None] - code).abs().argmin(dim=1)
        if code[0] == 0:
            nearest = nearest.clamp(min=1).where(scaled > 0, nearest)
        codes.copy_(nearest.view(codes.shape))

    def __enter__(self):
        self.module = sys.modules["bitsandbytes.backends.cpu.ops"]
        self.kept = self.module._quant_blockwise_fp32_direct
        self.module._quant_blockwise_fp32_direct = self.quantize

    def __exit__(self, *error):
        self.module._quant_blockwise_fp32_direct = self.kept


def record(folder, optimizer, runs):
    text = ",\n".join(json.dumps(run) for run in runs)
    (folder / f"{optimizer}.json").write_text(f"[\n{text}\n]\n")


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)

    def run(config, rate, make, shapes=SMALL, every=1):
        config = {**config, "learning_rate": rate, "weight_decay": WEIGHT_DECAY}
        return {"config": config, "parameters": trajectory(shapes, rate, make, every)}

    def torch_runs(optimizer, cls, rate, *arguments):
        return [
            run({"optimizer": optimizer, "optim_args": args}, rate,
                one(lambda params, lr, args=args: cls(params, lr=lr, **args)))
            for args in arguments
        ]

    def adam_runs(optimizer, cls):
        other = {"adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-6}
        return [
            run({"optimizer": optimizer}, 0.01, one(lambda params, lr: cls(params, lr=lr))),
            run({"optimizer": optimizer, **other}, 0.01,
                one(lambda params, lr: cls(params, lr=lr, betas=(0.8, 0.95), eps=1e-6))),
        ]

    record(folder, "adamw_torch", adam_runs("adamw_torch", torch.optim.AdamW))
    record(folder, "adam", adam_runs("adam", torch.optim.Adam))
    record(folder, "sgd", torch_runs(
        "sgd", torch.optim.SGD, 0.1, {}, {"momentum": 0.9, "dampening": 0.1},
        {"momentum": 0.8, "nesterov": True}))
    record(folder, "rmsprop", torch_runs(
        "rmsprop", torch.optim.RMSprop, 0.01, {}, {"momentum": 0.9},
        {"momentum": 0.5, "centered": True, "alpha": 0.9, "eps": 1e-6}))
    record(folder, "adagrad", torch_runs(
        "adagrad", torch.optim.Adagrad, 0.1, {}, {"lr_decay": 0.01, "eps": 1e-8}))
    adafactor = {"scale_parameter": False, "relative_step": False}
    other = {"beta1": 0.9, "clip_threshold": 0.5, "decay_rate": -0.7, "scale_parameter": True}
    record(folder, "adafactor", [
        run({"optimizer": "adafactor"}, 0.01,
            one(lambda params, lr: Adafactor(params, lr=lr, **adafactor))),
        run({"optimizer": "adafactor", "optim_args": other}, 0.05,
            one(lambda params, lr: Adafactor(params, lr=lr, **{**adafactor, **other}))),
    ])
    record(folder, "lion_32bit", [
        run({"optimizer": "lion_32bit", "adam_beta2": 0.99}, 0.001,
            one(lambda params, lr: bitsandbytes.optim.Lion(params, lr=lr, betas=(0.9, 0.99)))),
    ])
    betas = {"adam_beta1": 0.95, "adam_beta2": 0.95}
    with Float32InPlaceOfBfloat16():
        record(folder, "muon", [
            run({"optimizer": "muon", **betas}, 0.01, muon(adjust_lr_fn="match_rms_adamw"), MATRICES),
            run({"optimizer": "muon", **betas, "optim_args": {
                "adjust_lr_fn": "original", "momentum": 0.9, "nesterov": False, "ns_steps": 3}}, 0.01,
                muon(adjust_lr_fn="original", momentum=0.9, nesterov=False, ns_steps=3), MATRICES),
        ])
    with NearestCodes():
        record(folder, "adamw_8bit", [
            run({"optimizer": "adamw_8bit"}, 0.01,
                one(lambda params, lr: bitsandbytes.optim.AdamW(params, lr=lr, optim_bits=8)), LARGE, 29),
        ])
        record(folder, "lion_8bit", [
            run({"optimizer": "lion_8bit", "adam_beta2": 0.99}, 0.001,
                one(lambda params, lr: bitsandbytes.optim.Lion(
                    params, lr=lr, betas=(0.9, 0.99), optim_bits=8)), LARGE, 29),
        ])
    maps = {
        "signed": bitsandbytes.functional.create_dynamic_map(signed=True).tolist(),
        "unsigned": bitsandbytes.functional.create_dynamic_map(signed=False).tolist(),
    }
    (folder / "dynamic_map.json").write_text(json.dumps({k: [float(f"{x:.9g}") for x in v] for k, v in maps.items()}) + "\n")


if __name__ == "__main__":
    main()

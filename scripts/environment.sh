# Sourced by scripts that check a published model: NAME FOLDER. Sets `work` (the
# folder, default target/NAME), `trainer` and `python`, the latter of an environment in
# that folder, and goes to the root of the repository.
#
# Environment:
#   TRAINER   the trainer binary      (default: target/release/trainer)
#   PYTHON    Python 3.11 or newer    (default: python3)
# On Linux the Python environment takes 5.6 GB, most of it CUDA libraries that
# come with PyPI's torch. With
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
# pip takes torch's CPU build instead.

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=${2:-$repository/target/$1}
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

# Paths in YAML files are relative to the repository; these two are not.
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

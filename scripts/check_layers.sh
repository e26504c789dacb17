#!/usr/bin/env bash
# Proves the layering: which crates of the workspace, and whether Burn, each crate
# depends on. Prints what breaks it and exits 1.
set -euo pipefail
cd "$(dirname "$0")/.."

failed=0
allow() {
    local crate=$1 allowed=" $2 " found
    found=$(cargo tree -p "$crate" -e normal --prefix none --format '{p}' --all-features |
        awk '{ print $1 }' | sort -u |
        grep -E '^(seqprep|trainer-[a-z]+|burn)$' | grep -vx "$crate" || true)
    for dependency in $found; do
        if [[ $allowed != *" $dependency "* ]]; then
            echo "$crate depends on $dependency, which is not below it"
            failed=1
        fi
    done
}

allow seqprep ""
allow trainer-config "seqprep"
allow trainer-data "seqprep trainer-config"
allow trainer-model "burn"
allow trainer-core "burn seqprep trainer-config trainer-model"
allow trainer-cli "burn seqprep trainer-config trainer-data trainer-model trainer-core"
[[ $failed == 0 ]] && echo "every crate depends only on those below it"
exit "$failed"

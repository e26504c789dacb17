#!/usr/bin/env bash
# Opens a page in Chromium without a window and without a network: fails on errors
# of its console and on charts that are not drawn, and takes screenshots (light,
# dark, as wide as a phone) into a folder.
#
#   scripts/check_report.sh model-out/run/report.html screenshots
#
# Needs Debian's package chromium.
set -euo pipefail
page=$(realpath "$1")
folder=${2:-.}
mkdir -p "$folder"
name=$(basename "$page" .html)

browser() {
    chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --incognito \
        --host-resolver-rules="MAP * ~NOTFOUND" --enable-logging=stderr --v=0 \
        --virtual-time-budget=3000 "$@" "file://$page"
}

log=$(mktemp)
trap 'rm -f "$log" "$log.dom"' EXIT
trap 'echo "error: chromium failed:" >&2; tail -n 5 "$log" >&2' ERR
browser --dump-dom >"$log.dom" 2>"$log"
browser --window-size=1280,2400 --screenshot="$folder/$name-light.png" 2>>"$log"
browser --window-size=1280,2400 --blink-settings=preferredColorScheme=0 \
    --screenshot="$folder/$name-dark.png" 2>>"$log"
browser --window-size=500,2400 --screenshot="$folder/$name-phone.png" 2>>"$log"

if grep -E 'CONSOLE' "$log"; then
    echo "error: $1 writes to the console" >&2
    exit 1
fi
charts=$(grep -o '<canvas' "$log.dom" | wc -l)
drawn=$(grep -oE '<canvas[^>]* width="[0-9]+"' "$log.dom" | wc -l)
rm -f "$log.dom"
if [ "$charts" -eq 0 ] || [ "$charts" -ne "$drawn" ]; then
    echo "error: $1: $drawn of $charts charts are drawn" >&2
    exit 1
fi
bytes=$(stat -c %s "$page")
echo "$1: $charts charts, $bytes bytes, no console messages; screenshots in $folder"

#!/usr/bin/env bash
# Opens a page in Chromium without a window and without a network: fails on errors
# of its console and on charts that are not drawn, takes screenshots (light, dark, as
# wide as a phone) into a folder, and prints how long the page took to open: from the
# start of its loading to the load event, to the first paint, and to the first picture
# after all charts are drawn; medians of five.
#
#   scripts/check_report.sh model-out/run/report.html screenshots
#
# For the report of a run of 10,000 steps see scripts/long_report.py.
#
# Needs Debian's package chromium.
set -euo pipefail
page=$(realpath "$1")
folder=${2:-.}
mkdir -p "$folder"
name=$(basename "$page" .html)

browser() {
    chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --incognito \
        --host-resolver-rules="MAP * ~NOTFOUND" --enable-logging=stderr --v=0 "$@"
}

log=$(mktemp)
trap 'rm -f "$log" "$log".*' EXIT
trap 'echo "error: chromium failed:" >&2; tail -qn 5 "$log" "$log.times" >&2' ERR
# Without the clock of virtual time, which would say how long the page thinks it took.
python3 - "$page" "$log.timed.html" <<'END'
import sys

script = """<script>
const say = (name, time) => console.log(`opened ${name} ${time.toFixed(0)}`);
new PerformanceObserver((list) => {
    for (const entry of list.getEntriesByName("first-contentful-paint"))
        say("paint", entry.startTime);
}).observe({ type: "paint", buffered: true });
const drawn = () => {
    if (document.querySelector("canvas[width]") && !document.querySelector("canvas:not([width])"))
        requestAnimationFrame(() => say("drawn", performance.now()));
    else
        requestAnimationFrame(drawn);
};
addEventListener("load", () => setTimeout(() => {
    say("load", performance.getEntriesByType("navigation")[0].loadEventEnd);
    drawn();
}));
</script>"""
with open(sys.argv[1]) as page, open(sys.argv[2], "w") as timed:
    timed.write(page.read().replace("<head>", "<head>" + script, 1))
END
for _ in 1 2 3 4 5; do
    browser --window-size=1280,2400 --timeout=3000 --screenshot="$log.timed.png" \
        "file://$log.timed.html" 2>>"$log.times"
done
median() { sed -nE "s/.*opened $1 ([0-9]+).*/\1/p" "$log.times" | sort -n | sed -n 3p; }
times="load $(median load) ms, first paint $(median paint) ms, charts $(median drawn) ms"

still() {
    browser --virtual-time-budget=3000 "$@" "file://$page" 2>>"$log"
}
still --dump-dom >"$log.dom"
still --window-size=1280,2400 --screenshot="$folder/$name-light.png"
still --window-size=1280,2400 --blink-settings=preferredColorScheme=0 \
    --screenshot="$folder/$name-dark.png"
still --window-size=500,2400 --screenshot="$folder/$name-phone.png"

if grep -E 'CONSOLE' "$log"; then
    echo "error: $1 writes to the console" >&2
    exit 1
fi
charts=$(grep -o '<canvas' "$log.dom" | wc -l)
drawn=$(grep -oE '<canvas[^>]* width="[0-9]+"' "$log.dom" | wc -l)
if [ "$charts" -eq 0 ] || [ "$charts" -ne "$drawn" ]; then
    echo "error: $1: $drawn of $charts charts are drawn" >&2
    exit 1
fi
bytes=$(stat -c %s "$page")
echo "$1: $charts charts, $bytes bytes, no console messages; screenshots in $folder"
echo "$1: $times"

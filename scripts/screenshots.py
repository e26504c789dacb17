#!/usr/bin/env python3
"""Makes the pictures in docs/images: the progress of a run on a terminal, the live
curves (--tui), and the report in light, dark and as wide as a phone. On the way it
presses every key of --tui and fails where one does not do what it should, and where
the report writes to the browser's console.

    python3 scripts/screenshots.py --bin target/release/trainer

Needs Debian's packages chromium and fonts-dejavu-core, and the packages pyte (a
terminal without a window) and pillow (fewer colours, smaller files).
"""

import argparse
import fcntl
import html
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

import pyte
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
COLUMNS, ROWS = 120, 34
LIMIT = 200_000
BACKGROUND, FOREGROUND = "#16181d", "#d7dae0"
COLORS = {
    "default": FOREGROUND, "black": "#16181d", "red": "#e06c75", "green": "#8cc570", "brown": "#e5c07b",
    "blue": "#5fa8f5", "magenta": "#c678dd", "cyan": "#56b6c2", "white": "#d7dae0",
}


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, command: list[str]):
        self.screen = pyte.Screen(COLUMNS, ROWS)
        self.stream = pyte.ByteStream(self.screen)
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.environ["TERM"] = "xterm-256color"
            os.execv(command[0], command)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))

    def read(self, seconds: float) -> bool:
        """Takes what is written for so long; false once the program has ended."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            ready, _, _ = select.select([self.fd], [], [], left)
            if not ready:
                return True
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                return False
            if not data:
                return False
            self.stream.feed(data)
        return True

    def until(self, happened, what: str, seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while not happened():
            if not self.read(0.1) and not happened():
                sys.exit(f"the program ended before {what}:\n{self.text()}")
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                sys.exit(f"{what} did not happen within {seconds:.0f} s:\n{self.text()}")

    def press(self, key: str) -> None:
        os.write(self.fd, key.encode())

    def text(self) -> str:
        return "\n".join(self.screen.display)

    def wait(self) -> int:
        while self.read(1):
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def html(self) -> str:
        """The screen as a page, without the empty lines at its end."""
        last = max((row for row, line in enumerate(self.screen.display) if line.strip()), default=0)
        lines = []
        for row in range(last + 1):
            spans = []
            for column in range(COLUMNS):
                cell = self.screen.buffer[row][column]
                color, background = COLORS.get(cell.fg, FOREGROUND), COLORS.get(cell.bg, BACKGROUND)
                if cell.bg == "default":
                    background = BACKGROUND
                if cell.reverse:
                    color, background = background, color
                style = f"color:{color};background:{background}" + (";font-weight:bold" if cell.bold else "")
                # Characters of another font are as wide as the cells all the same.
                text = html.escape(cell.data) if cell.data.isascii() else f"<i>{cell.data}</i>"
                if spans and spans[-1][0] == style:
                    spans[-1][1] += text
                else:
                    spans.append([style, text])
            lines.append("".join(f'<span style="{style}">{text}</span>' for style, text in spans))
        return (
            '<meta charset="utf-8"><style>i{display:inline-block;width:1ch;height:18px;overflow:hidden;'
            "font-style:normal;vertical-align:top}</style>"
            f'<body style="margin:0;background:{BACKGROUND}"><pre style="margin:12px;'
            "font:15px/18px 'DejaVu Sans Mono';letter-spacing:0\">" + "\n".join(lines) + "</pre>"
        )

    def picture(self, path: Path, scratch: Path) -> None:
        page = scratch / "terminal.html"
        text = self.html()
        page.write_text(text, encoding="utf-8")
        size = f"{COLUMNS * 9 + 30},{18 * (text.count(chr(10)) + 1) + 28}"
        chromium(f"--window-size={size}", f"--screenshot={path}", f"file://{page}")
        small(path)


def chromium(*arguments: str) -> None:
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=2000"]
    subprocess.run(["chromium", *options, *arguments], check=True, capture_output=True)


def small(path: Path) -> None:
    """Fewer colours, which flat pictures do not miss."""
    Image.open(path).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    size = path.stat().st_size
    if size > LIMIT:
        sys.exit(f"{path} has {size} bytes, more than {LIMIT}")
    print(f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}: {size} bytes")


def evaluations(out: Path) -> int:
    try:
        return sum("eval_loss" in json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines())
    except (OSError, ValueError):
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", required=True, help="the trainer")
    parser.add_argument("--out", default=str(ROOT / "docs/images"), help="folder of the pictures")
    options = parser.parse_args()
    binary = str(Path(options.bin).resolve())
    images = Path(options.out)
    images.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp())
    try:
        take(binary, images, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def take(binary: str, images: Path, scratch: Path) -> None:
    def train(out: Path, *keys: str) -> list[str]:
        data = '[{path: examples/data/glossary.eval.chat.jsonl, ds_type: json, type: chat_template}]'
        folders = ["--output_dir", str(out), "--dataset_prepared_path", str(scratch / "prepared")]
        return [binary, "train", "examples/glossary.yaml", *folders, "--test_datasets", data, *keys]

    # The progress: in the middle of a run, with some log rows above the bar.
    out = scratch / "glossary"
    samples = ["--generate_samples", "true", "--num_generation_samples", "1", "--generation_max_new_tokens", "30"]
    terminal = Terminal(train(out, "--eval_steps", "48", "--save_strategy", "no", *samples))
    terminal.until(lambda: "step   160" in terminal.text() or "step    160" in terminal.text(), "step 160")
    terminal.picture(images / "progress.png", scratch)
    if (code := terminal.wait()) != 0:
        sys.exit(f"the run failed with {code}:\n{terminal.text()}")

    # The report of that run.
    check = subprocess.run(
        ["bash", str(ROOT / "scripts/check_report.sh"), str(out / "report.html"), str(scratch)],
        capture_output=True, text=True,
    )
    if check.returncode != 0:
        sys.exit(check.stdout + check.stderr)
    for kind in ["light", "dark", "phone"]:
        path = images / f"report-{kind}.png"
        shutil.copy(scratch / f"report-{kind}.png", path)
        with Image.open(path) as picture:
            picture.crop((0, 0, picture.width, min(picture.height, 1700))).save(path)
        small(path)

    # The live curves, and every key.
    out = scratch / "live"
    terminal = Terminal(train(out, "--tui", "--save_strategy", "no", "--eval_steps", "1000", "--num_epochs", "200"))
    terminal.until(lambda: " of 2400, left" in terminal.text(), "the first step")
    before = evaluations(out)
    terminal.press("e")
    terminal.until(lambda: evaluations(out) > before, "an evaluation after the key e")
    terminal.press("s")
    terminal.until(lambda: "checkpoint " in terminal.text() and list(out.glob("checkpoint-*/manifest.json")),
                   "a checkpoint after the key s")
    terminal.read(20)
    terminal.press("e")
    terminal.read(3)
    terminal.picture(images / "tui.png", scratch)
    saved = len(list(out.glob("checkpoint-*")))
    terminal.press("q")
    code = terminal.wait()
    if code != 130:
        sys.exit(f"the key q ended the run with {code}, not 130:\n{terminal.text()}")
    if len(list(out.glob("checkpoint-*"))) <= saved:
        sys.exit("the key q left no checkpoint")
    if "to go on, run it again with" not in " ".join(terminal.text().split()):
        sys.exit(f"after the key q, nothing says how to go on:\n{terminal.text()}")
    print("keys e, s and q do what they should")


main()

"""Draws docs/picture.svg: the program's own output, run now, as a terminal shows it.

python tools/make_picture.py "generate 'Once upon a time' --seed 7" "bench -m FOLDER -p 512 -g 32"
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "picture.svg"
WIDTH = 100


def shown(command: str) -> str:
    """The command line as a reader would type it: folders by their last name."""
    words = (shlex.quote(Path(word).name if "/" in word else word) for word in shlex.split(command))
    return " ".join(["lanewise", *words])


def main(commands: list[str]) -> None:
    console = Console(record=True, width=WIDTH, file=sys.stderr, force_terminal=True)
    for command in commands:
        run = [sys.executable, "-m", "lanewise", *shlex.split(command)]
        done = subprocess.run(run, capture_output=True, text=True, check=True)
        console.print(Text("$ ", style="green") + Text(shown(command), style="bold"))
        for line in (done.stdout.rstrip("\n") + "\n" + done.stderr.rstrip("\n")).splitlines():
            if not line.startswith("loading "):
                console.print(Text(re.sub(r"\S*/", "", line) if line.startswith("/") else line))
        console.print()
    svg = console.export_svg(title="lanewise")
    PICTURE.write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

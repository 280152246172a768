"""The command line: lanewise generate | chat | quantize | calibrate | info | doctor | bench.

Results go to stdout, everything else to stderr. Exit codes: 0, 1 failed, 2 usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from .. import __version__
from . import bench, chat, facts, generate, quantize
from .options import UsageError

BROKEN_PIPE = 141  # what a shell reports for a program that SIGPIPE ended
INTERRUPTED = 130


def parser() -> argparse.ArgumentParser:
    """Everything that may be typed."""
    top = argparse.ArgumentParser(prog="lanewise", description="Fast, exact inference of transformers on CPUs.")
    top.add_argument("--version", action="version", version=f"lanewise {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    for module in (generate, chat, quantize, facts, bench):
        module.add_to(commands, common)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line (sys.argv[1:]) and returns its exit code."""
    options = parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character is no reason to fail
    try:
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except UsageError as error:
        options.parser.print_usage(sys.stderr)
        print(f"{options.parser.prog}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Nobody reads on. Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        print(f"lanewise: error: {_one_line(error)}", file=sys.stderr)
        return 1


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    known = isinstance(error, ValueError | TypeError | OSError | MemoryError) or type(error).__module__.startswith(
        "lanewise"
    )
    return text if known else f"{type(error).__name__}: {text}"

"""lanewise chat: a conversation. The cache is kept between turns, so a turn runs only what is new."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from .options import add_loading, add_sampling, error_line, figures, load, sampling

if TYPE_CHECKING:
    from ..session import ChatSession

HELP = """/exit   leave (also the end of input)
/reset  forget the conversation
/help   this
Ctrl-C stops an answer; what was said so far stays."""


def add_to(commands: Any, common: argparse.ArgumentParser) -> None:
    """Declares the command."""
    parser = commands.add_parser("chat", parents=[common], help="talk to a model", description=__doc__, epilog=HELP)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--system", metavar="TEXT", help="a message that comes before the conversation")
    parser.add_argument("--json", action="store_true", help="one JSON object per answer")
    parser.add_argument("--stats", action="store_true", help="a line of figures after each answer")
    add_sampling(parser)
    add_loading(parser)
    parser.set_defaults(run=run, parser=parser)


def run(options: argparse.Namespace) -> int:
    """Reads a line, answers, until the end of input."""
    params = sampling(options)
    terminal = sys.stdin.isatty()
    if terminal:
        import readline  # noqa: F401  (line editing in input())
    with load(options, quiet=options.json) as llm:
        plain = not llm.has_chat_template
        if plain:
            error_line("note: this model has no chat template; it continues the text of the conversation")
        if terminal and not options.json:
            error_line("/help lists the commands")
        with llm.session(options.system, plain=plain, params=params) as session:
            while (line := _read(terminal)) is not None:
                if line.startswith("/"):
                    if _command(line, session):
                        break
                elif line:
                    _answer(session, line, options)
    return 0


def _read(terminal: bool) -> str | None:
    """The next line without its end, None at the end of input."""
    if terminal:
        try:
            return input("> ").strip()
        except EOFError:
            print(file=sys.stderr)
            return None
    line = sys.stdin.readline()
    return line.strip() if line else None


def _command(line: str, session: ChatSession) -> bool:
    """True to leave."""
    name = line.split()[0]
    if name in ("/exit", "/quit"):
        return True
    if name == "/reset":
        session.reset()
        error_line("the conversation is forgotten")
    elif name == "/help":
        error_line(HELP)
    else:
        error_line(f"unknown command {name}; /help lists them")
    return False


def _answer(session: ChatSession, line: str, options: argparse.Namespace) -> None:
    """Streams one answer; Ctrl-C on a terminal ends the answer, not the conversation."""
    result, stream = None, session.stream(line)
    try:
        for chunk in stream:
            result = chunk.result
            if not options.json:
                print(chunk.text, end="", flush=True)
    except KeyboardInterrupt:
        stream.close()  # type: ignore[attr-defined]
        if not sys.stdin.isatty():
            raise
    if options.json and result is not None:
        print(json.dumps(result.to_dict(), ensure_ascii=False), flush=True)
        return
    print(flush=True)
    if options.stats and result is not None:
        error_line(figures(result))

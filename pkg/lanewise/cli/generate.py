"""lanewise generate PROMPT"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..progress import bar
from .options import UsageError, add_loading, add_sampling, error_line, figures, load, sampling

if TYPE_CHECKING:
    from ..engine.params import SamplingParams
    from ..engine.scheduler import Progress
    from ..llm import LLM
    from ..results import Chunk, Result


def add_to(commands: Any, common: argparse.ArgumentParser) -> None:
    """Declares the command."""
    parser = commands.add_parser("generate", parents=[common], help="continue a text", description=__doc__)
    parser.add_argument("prompt", metavar="PROMPT", help="the text to continue; - reads standard input")
    parser.add_argument("--ids", action="store_true", help="PROMPT is token ids, spaces or commas between them")
    parser.add_argument("--chat", action="store_true", help="PROMPT is a message: use the model's chat template")
    parser.add_argument("--echo", action="store_true", help="show the prompt before its continuation")
    parser.add_argument("--json", action="store_true", help="one JSON object at the end instead of text")
    parser.add_argument("-q", "--quiet", action="store_true", help="no line of figures, no bars")
    parser.add_argument("--truncate", choices=("left", "right"), help="cut a prompt that is too long at this end")
    add_sampling(parser)
    parser.add_argument("-n", type=int, metavar="N", help="so many samples")
    parser.add_argument(
        "--logprobs", type=int, metavar="N", help="with --json: log-probabilities, and of N alternatives"
    )
    add_loading(parser)
    parser.set_defaults(run=run, parser=parser)


def run(options: argparse.Namespace) -> int:
    """Loads, streams, and ends with the figures."""
    params = sampling(options)
    if options.ids and options.chat:
        raise UsageError("--ids and --chat exclude each other")
    text = sys.stdin.read() if options.prompt == "-" else options.prompt
    prompt: str | list[int] = _ids(text) if options.ids else text
    quiet = options.quiet or options.json
    with load(options, quiet=quiet) as llm:
        if options.echo and not options.json:
            print(text if not options.ids else llm.detokenize(prompt), end="", flush=True)  # type: ignore[arg-type]
        result = _show(_stream(llm, prompt, params, options, quiet), options.json, params.n)
    if options.json:
        print(json.dumps({"prompt": prompt, **result.to_dict()}, ensure_ascii=False))
    elif not options.quiet:
        error_line(figures(result))
    return 0


def _ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise UsageError("with --ids PROMPT must be whole numbers") from None


def _stream(
    llm: LLM, prompt: str | list[int], params: SamplingParams, options: argparse.Namespace, quiet: bool
) -> Iterator[Chunk]:
    """The chunks, with a bar while a long prompt runs."""
    with bar("prompt", "tokens", quiet=quiet) as report:

        def progress(now: Progress) -> None:
            if not now.generated:
                report(now.prompt_done, now.prompt_total)

        if options.chat and isinstance(prompt, str):
            stream = llm.stream_chat(prompt, params, truncate=options.truncate, progress=progress)
        else:
            stream = llm.stream(prompt, params, truncate=options.truncate, progress=progress)
        first = next(stream, None)
    if first is not None:
        yield first
        yield from stream


def _show(chunks: Iterator[Chunk], silent: bool, samples: int) -> Result:
    """Prints text as it comes; several samples one after the other, at the end. -> the first, with all the others."""
    import dataclasses

    results: dict[int, Result] = {}
    ended = True
    try:
        for chunk in chunks:
            if chunk.result is not None:
                results[chunk.index] = chunk.result
            if not silent and samples == 1 and chunk.text:
                print(chunk.text, end="", flush=True)
                ended = chunk.text.endswith("\n")
    finally:
        if not silent and not ended:
            print(flush=True)
    ordered = [results[i] for i in sorted(results)]
    if not silent and samples > 1:
        for i, result in enumerate(ordered, 1):
            print(f"--- sample {i}\n{result.text}")
    return dataclasses.replace(ordered[0], others=tuple(ordered[1:]))

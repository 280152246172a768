"""Every malformed file of the corpora, in a process that may take 512 MiB and no more: a LoadError, in a second."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_safetensors import HOSTILE

from corpus.make import Case, cases

MEMORY = 512 << 20
UNSOUND: dict[str, Case] = {name: case for name, case in cases() if case.error}

# Prints a line for each file: how it ended, the seconds, the message. The limit is on what may be written to (the
# heap and private mappings): a file's pages are not in it.
SCRIPT = """
import json, resource, sys, time
from pathlib import Path
import tokenizers
from lanewise.errors import LoadError
from lanewise.model import gguf_tokenizer
from lanewise.model.safetensors import open_weights
from lanewise.model.source import open_source
held = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmData"))
most = held + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_DATA, (most, most))
for path in map(Path, sys.stdin.read().splitlines()):
    start = time.process_time()
    try:
        if path.suffix == ".gguf":
            with open_source(path) as source:
                source.tokenizer()
        else:
            open_weights(path).close()
        end = "loaded", ""
    except LoadError as error:
        end = "refused", str(error)
    except BaseException as error:
        end = type(error).__name__, str(error)
    print(json.dumps([path.name, end[0], time.process_time() - start, end[1]]), flush=True)
"""


def written(folder: Path) -> Iterator[Path]:
    for i, case in enumerate(UNSOUND.values()):
        yield case.write(folder / f"{i}.gguf")
    for i, (content, _) in enumerate(HOSTILE.values()):
        path = folder / f"{i}.safetensors"
        path.write_bytes(content)
        yield path


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs VmData of /proc and RLIMIT_DATA")
def test_within_memory_and_time(tmp_path: Path) -> None:
    paths = list(written(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(MEMORY)], input="\n".join(map(str, paths)), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ends: list[list[Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert [end[0] for end in ends] == [path.name for path in paths]
    wrong = [end for end in ends if end[1] != "refused" or str(tmp_path / end[0]) not in end[3]]
    assert not wrong
    # Some safetensors headers are tens of megabytes of JSON, which only parsing can refute: test_safetensors has those.
    slow = [end for end in ends if end[2] > 1.0 and (tmp_path / end[0]).stat().st_size < 1 << 20]
    assert not slow
    for path in paths:
        path.unlink()


def test_the_corpora_are_large_enough() -> None:
    assert len(UNSOUND) >= 125
    assert len(HOSTILE) >= 43

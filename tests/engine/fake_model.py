"""The engine's test double: logits are a pure function of the tokens that the cache holds, read through the page table.

So a wrong page, a missing copy on write, a stale position or rows of the wrong sequence change the output, and a cell
that was never written fails at once.
"""

from __future__ import annotations

import threading
import time
import zlib

import numpy as np

UNWRITTEN = -1


class FakeDecoder:
    """Decodes UTF-8 bytes, one id at a time, as byte-level vocabularies do."""

    def __init__(self, tokenizer):
        import codecs

        self.tokenizer = tokenizer
        self.utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, i):
        return self.utf8.decode(self.tokenizer.pieces[i])

    def extend(self, ids):
        return "".join([self.push(i) for i in ids])

    def flush(self):
        return self.utf8.decode(b"", True)


class FakeTokenizer:
    """Ids 0 and 1 are <s> and </s>; then pieces of one to four bytes, some of them parts of a character."""

    pieces = (
        [b"", b""]
        + [bytes([c]) for c in b"abcdefgh .\n"]
        + [
            b"ab",
            b"abc",
            b"bc",
            b" a",
            b"the",
            b"end",
            "天".encode()[:2],
            "天".encode()[2:],
            "气".encode(),
            b"<|",
            "\ufffd".encode(),
        ]
    )
    has_chat_template = True

    def encode(self, text, add_special_tokens=True):
        ids, data = ([0] if add_special_tokens else []), text.encode()
        while data:
            best = max((p for p in self.pieces if p and data.startswith(p)), key=len, default=None)
            if best is None:
                raise ValueError(f"the fake tokenizer has no piece for {data!r}")
            ids.append(self.pieces.index(best))
            data = data[len(best) :]
        return ids

    def decode(self, ids, skip_special_tokens=True):
        return b"".join(self.pieces[i] for i in ids).decode("utf-8", "replace")

    def decoder(self, skip_special_tokens=True):
        return FakeDecoder(self)

    def apply_chat_template(self, messages, tools=None, add_generation_prompt=True, **variables):
        body = "".join(
            f"{message['role'][0].replace('u', 'b').replace('s', 'c')}.{message['content']}\n" for message in messages
        )
        return body + ("a." if add_generation_prompt else "")


class FakeModel:
    """A Model: see lanewise.model.model for what each member means."""

    vocabulary = len(FakeTokenizer.pieces)
    page_tokens = 4
    bos_id = 0
    eos_ids = (1,)

    def __init__(self, context=200, max_pages=None, seed=0, step_seconds=0.0, generation=None):
        self.context, self.max_pages, self.seed, self.step_seconds = context, max_pages, seed, step_seconds
        self.generation = generation or {}
        self.tokenizer = FakeTokenizer()
        self.cells = np.zeros((0, self.page_tokens), np.int64)
        self.steps = []  # (rows per sequence) of every step
        self.interrupt_at = None  # the number of a step that Ctrl-C strikes
        self.closed = False
        self.inside = threading.Lock()

    def reserve_pages(self, n):
        if self.max_pages is not None and n > self.max_pages:
            raise MemoryError(f"{n} pages, but there are {self.max_pages}")
        new = np.full((n - len(self.cells), self.page_tokens), UNWRITTEN)
        self.cells = np.concatenate([self.cells, new])

    def copy_page(self, source, target):
        self.cells[target] = self.cells[source]

    def run(self, tokens, row_starts, first_position, page_table, logit_rows, out=None):
        assert self.inside.acquire(blocking=False), "two steps at once"
        try:
            return self._run(tokens, row_starts, first_position, page_table, logit_rows, out)
        finally:
            self.inside.release()

    def _run(self, tokens, row_starts, first_position, page_table, logit_rows, out):
        assert not self.closed
        for array in (tokens, row_starts, first_position, page_table, logit_rows):
            assert array.dtype == np.int32
        assert (np.diff(row_starts) > 0).all()
        assert (np.diff(logit_rows) > 0).all()
        assert row_starts[-1] == tokens.size <= 512
        time.sleep(self.step_seconds)
        out = np.empty((len(logit_rows), self.vocabulary), np.float32) if out is None else out
        out[:] = np.nan
        at = {int(row): i for i, row in enumerate(logit_rows)}
        for s, first in enumerate(first_position.tolist()):
            for row in range(row_starts[s], row_starts[s + 1]):
                position = first + row - int(row_starts[s])
                assert position < self.context
                self.cells[page_table[s, position // self.page_tokens], position % self.page_tokens] = tokens[row]
                if row in at:
                    prefix = self.cells[page_table[s]].reshape(-1)[: position + 1]
                    assert (prefix != UNWRITTEN).all()
                    out[at[row]] = self.logits_after(prefix)
        self.steps.append(np.diff(row_starts).tolist())
        if self.interrupt_at == len(self.steps):
            raise KeyboardInterrupt
        return out

    def logits_after(self, prefix):
        """float32[vocabulary] for int[n] token ids: what the engine must always find."""
        key = zlib.crc32(np.ascontiguousarray(prefix, np.int64).tobytes(), self.seed)
        return (2 * np.random.default_rng(key).standard_normal(self.vocabulary)).astype(np.float32)

    def softmax(self, x):
        e = np.exp(x - x.max(), dtype=np.float32)
        return e / e.sum(dtype=np.float32)

    def info(self):
        return {"architecture": "fake"}

    def memory_plan(self, batch=1, context=None):
        return {"total": batch * (context or self.context)}

    def close(self):
        self.closed = True

"""The engine on the built-in model: the promises that the test double cannot make for the C core."""

from __future__ import annotations

import _thread
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import lanewise

PROMPTS = ["Once upon a time", "今天天气真", "The cat sat on the mat, it was", "A", "One day a little girl"]

pytestmark = pytest.mark.skipif(
    not (Path(lanewise.__file__).parent / "builtin" / "config.json").is_file(),
    reason="this build ships no built-in model",
)


@pytest.fixture(scope="module")
def llm():
    with lanewise.load("builtin") as llm:
        yield llm
        assert llm.info()["cache_pages_used"] == 0


@pytest.mark.parametrize("keywords", [{"temperature": 0}, {"seed": 3, "top_p": 0.9}, {"seed": 1, "top_k": 20, "n": 2}])
def test_batch_is_alone(llm, keywords):
    keywords = {**keywords, "max_tokens": 30, "logprobs": 1}
    together = llm.generate(PROMPTS, **keywords)
    for prompt, result in zip(PROMPTS, together, strict=True):
        alone = llm.generate(prompt, **keywords)
        assert [(r.token_ids, r.logprobs, r.text) for r in result.candidates] == [
            (r.token_ids, r.logprobs, r.text) for r in alone.candidates
        ]


def test_the_two_phases_are_one(llm):
    ids = llm.tokenize(PROMPTS[0])
    logits = llm.logits(ids)
    with llm.prefill(ids[:1]) as sequence:
        for i, token in enumerate(ids[1:], 1):
            assert np.array_equal(sequence.decode(token), logits[i])
        with sequence.fork() as other:
            other.truncate(1)
            assert np.array_equal(other.extend(ids[1:]), logits[-1])


def test_text_of_a_stream_is_the_text_of_all(llm):
    for seed, prompt in enumerate(PROMPTS):
        result = llm.generate(prompt, seed=seed, max_tokens=40, ignore_eos=True, temperature=1.5)
        ids = llm.tokenize(prompt)
        full = llm.detokenize(ids + result.token_ids)
        assert full.startswith(llm.detokenize(ids))
        assert result.text == full[len(llm.detokenize(ids)) :]
        assert (
            "".join(c.text for c in llm.stream(prompt, seed=seed, max_tokens=40, ignore_eos=True, temperature=1.5))
            == result.text
        )


def test_session_is_as_good_as_new(llm):
    with llm.session(plain=True, temperature=0, max_tokens=12) as chat:
        chat.send("Once upon a time")
        warm = chat.send(" One day")
        assert warm.usage.cached_tokens > 0
        text = "".join(message["content"] for message in chat.history[:-1])
        assert warm.token_ids == llm.generate(text, temperature=0, max_tokens=12).token_ids


def test_interrupt(llm):
    want = llm.generate(PROMPTS[0], temperature=0, max_tokens=10).token_ids
    struck = []

    def strike():
        struck.append(time.monotonic())
        _thread.interrupt_main()

    def long():
        while True:
            llm.generate([list(range(5, 205))] * 20, max_tokens=50, ignore_eos=True)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    threading.Timer(0.1, strike).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            long()
    finally:
        signal.signal(signal.SIGINT, handler)
    assert time.monotonic() - struck[0] < 1.0  # 0.2 on a machine that is not shared
    assert llm.info()["cache_pages_used"] == 0
    assert llm.generate(PROMPTS[0], temperature=0, max_tokens=10).token_ids == want


def test_threads_interleave(llm):
    want = {prompt: llm.generate(prompt, seed=9, max_tokens=25).token_ids for prompt in PROMPTS}
    got = {}

    def work(prompt):
        got[prompt] = llm.generate(prompt, seed=9, max_tokens=25).token_ids

    threads = [threading.Thread(target=work, args=(prompt,)) for prompt in PROMPTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == want

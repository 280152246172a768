"""Batches: every request gets what it gets alone, whoever else runs, however pages are short, whatever breaks."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from fake_model import FakeModel
from hypothesis import given, settings
from hypothesis import strategies as st

from lanewise import SamplingParams
from lanewise.llm import LLM

PROMPTS = st.lists(st.lists(st.integers(0, FakeModel.vocabulary - 1), min_size=1, max_size=30), min_size=1, max_size=6)
PARAMS = st.fixed_dictionaries(
    {"seed": st.integers(0, 5), "max_tokens": st.integers(1, 20)},
    optional={
        "temperature": st.sampled_from([0.0, 0.7, 1.3]),
        "top_p": st.just(0.8),
        "top_k": st.just(5),
        "repetition_penalty": st.just(1.2),
        "stop": st.sampled_from(["a", ["b", "ab"], ["abc"]]),
        "logprobs": st.just(2),
        "n": st.integers(1, 3),
        "ignore_eos": st.just(True),
        "min_tokens": st.just(1),
    },
)


def plain(result):
    """What must be equal: all but the clock."""
    return [(r.text, r.token_ids, r.finish_reason, r.logprobs, r.usage) for r in result.candidates]


@settings(deadline=None, max_examples=60)
@given(PROMPTS, PARAMS, st.sampled_from([None, 30]))
def test_batch_is_alone(prompts, keywords, max_pages):
    """Bit for bit, also where pages are so few that requests lose theirs and start over."""
    alone = []
    for prompt in prompts:
        with LLM.from_model(FakeModel()) as llm:
            alone.append(plain(llm.generate(prompt, **keywords)))
    with LLM.from_model(FakeModel(max_pages=max_pages)) as llm:
        together = llm.generate(prompts, SamplingParams(**keywords))
        assert [plain(result) for result in together] == alone
        assert llm.info()["cache_pages_used"] == 0


def test_greedy_follows_the_model(model, llm):
    ids = [0, 5, 6]
    result = llm.generate(ids, temperature=0, max_tokens=10, ignore_eos=True)
    want = list(ids)
    for _ in range(10):
        want.append(int(np.argmax(model.logits_after(np.array(want)))))
    assert result.token_ids == want[3:]
    assert result.finish_reason == "length"
    assert (result.usage.prompt_tokens, result.usage.completion_tokens, result.usage.total_tokens) == (3, 10, 13)


def test_samples_share_the_prompt(model, llm):
    prompt = list(range(2, 20)) * 2
    results = llm.generate(prompt, n=4, seed=3, max_tokens=6, ignore_eos=True).candidates
    assert len({tuple(r.token_ids) for r in results}) > 1
    assert sum(map(sum, model.steps)) == len(prompt) + 4 * 5  # the prompt ran once
    assert llm.generate(prompt, seed=3, max_tokens=6, ignore_eos=True).token_ids == results[0].token_ids


def test_prefill_chunks_and_decode_rows_share_a_step():
    model = FakeModel(context=3000)
    with LLM.from_model(model) as llm:
        llm.generate([[0] * 600, [0, 2], [0] * 900], max_tokens=4, ignore_eos=True, temperature=0)
    assert model.steps[0] == [512]
    assert model.steps[1] == [88, 2, 422]
    assert model.steps[2] == [1, 1, 478]
    assert model.steps[3] == [1, 1, 1]
    assert all(sum(rows) <= 512 for rows in model.steps)


def test_finished_ones_leave_and_waiting_ones_enter():
    model = FakeModel()
    with LLM.from_model(model) as llm:
        results = llm.generate([[0, i % 10] for i in range(100)], max_tokens=3, temperature=0, ignore_eos=True)
    assert len(results) == 100
    assert max(map(len, model.steps)) == 64


def test_no_page_at_all_is_a_memory_error():
    with LLM.from_model(FakeModel(max_pages=2)) as llm:
        with pytest.raises(MemoryError):
            llm.generate([0] * 9, max_tokens=1)
        assert len(llm.generate([[0] * 8, [0] * 8], max_tokens=1)) == 2
        assert llm.info()["cache_pages_used"] == 0


def test_cancel_and_timeout(llm):
    event = threading.Event()

    def cancel_at_5(ids, logits):
        if len(ids) == 5:
            event.set()

    result = llm.generate([0], max_tokens=50, cancel=event, logits_processors=[cancel_at_5], ignore_eos=True, n=2)
    assert [r.finish_reason for r in result.candidates] == ["cancelled"] * 2
    assert result.usage.completion_tokens == 5
    assert llm.generate([0], timeout=0, max_tokens=5).token_ids == []
    chunks = list(llm.stream([0], timeout=0, max_tokens=5, n=2))
    assert [(c.token_id, c.finish_reason) for c in chunks] == [(None, "cancelled")] * 2


def test_timeout_stops_a_long_prompt():
    model = FakeModel(context=9000, step_seconds=0.02)
    with LLM.from_model(model) as llm:
        assert llm.generate([0] * 8000, timeout=0.03).finish_reason == "cancelled"
        assert len(model.steps) <= 3
        assert llm.info()["cache_pages_used"] == 0


def test_interrupt_leaves_everything_usable(model, llm):
    want = llm.generate([0, 3, 4], seed=1, max_tokens=8, ignore_eos=True).token_ids
    for at in range(1, 6):
        model.interrupt_at = len(model.steps) + at
        with pytest.raises(KeyboardInterrupt):
            llm.generate([[0, 3, 4], [0] * 20], seed=1, max_tokens=8, ignore_eos=True, n=2)
        assert llm.info()["cache_pages_used"] == 0
        assert llm.generate([0, 3, 4], seed=1, max_tokens=8, ignore_eos=True).token_ids == want


def test_a_failing_processor_frees_the_pages(llm):
    def fail(ids, logits):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        llm.generate([[0], [0, 2]], logits_processors=[fail])


def test_a_processor_may_use_the_model_itself(llm):
    def nested(ids, logits):
        assert np.array_equal(llm.logits(ids)[-1], logits)

    assert llm.generate([0, 2], max_tokens=3, logits_processors=[nested], ignore_eos=True).usage.completion_tokens == 3


def test_many_threads():
    model = FakeModel(step_seconds=0.0005)
    prompts = [[0, *range(2, 3 + i)] for i in range(8)]
    keywords = {"max_tokens": 15, "seed": 2, "ignore_eos": True, "repetition_penalty": 1.1}
    with LLM.from_model(model) as llm:
        want = [llm.generate(prompt, **keywords).token_ids for prompt in prompts]
        got: dict[int, list[int]] = {}

        def work(i):
            stream = llm.stream(prompts[i], **keywords)
            got[i] = [chunk.token_id for chunk in stream]
            assert len(llm.logits(prompts[i])) == len(prompts[i])
            with llm.prefill(prompts[i]) as sequence, sequence.fork() as other:
                assert np.array_equal(sequence.decode(5), other.decode(5))

        threads = [threading.Thread(target=work, args=(i,)) for i in range(len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [got[i] for i in range(len(prompts))] == want
        assert llm.info()["cache_pages_used"] == 0

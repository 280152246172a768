"""The sampler against a plain float64 reference, and against transformers where it is installed."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lanewise.engine.params import SamplingParams, resolve
from lanewise.engine.sampler import Sampler, candidates, draw, largest, logprob_of, random_stream

VOCABULARY = 40


def softmax(x):
    e = np.exp(x.astype(np.float64) - float(x.max()))
    return (e / e.sum()).astype(np.float32)


def sampler(prompt=(), vocabulary=VOCABULARY, index=0, eos=(), **keywords):
    sampling = resolve(SamplingParams(**keywords), {}, eos, vocabulary, 64)
    return Sampler(sampling, softmax, np.array(prompt, np.int32), index)


def process(s, logits, prompt, output):
    """process() after `output` was produced."""
    for counts in (s.seen, s.produced):
        for token in output if counts is not None else ():
            counts.add(token)
    return s.process(logits, np.array([*prompt, *output], np.int32))


def reference(logits, temperature, top_k, top_p, min_p):
    """float64[n]: the distribution, by the definitions, one token after the other."""
    x = logits.astype(np.float64) / temperature
    order = sorted(range(len(x)), key=lambda i: (-logits[i], i))
    if top_k:
        order = order[:top_k]
    p = np.exp(x[order] - x[order[0]])
    p /= p.sum()
    if top_p < 1:
        keep = next((i + 1 for i in range(len(p)) if p[: i + 1].sum() >= top_p), len(p))
        order, p = order[:keep], p[:keep]
    if min_p > 0:
        keep = sum(p >= min_p * p[0])
        order, p = order[:keep], p[:keep]
    full = np.zeros(len(x))
    full[order] = p / p.sum()
    return full


LOGITS = st.lists(st.floats(-20, 20, width=16), min_size=1, max_size=60).map(lambda x: np.array(x, np.float32))


@given(
    LOGITS,
    st.sampled_from([0.3, 0.7, 1.0, 1.5]),
    st.sampled_from([0, 1, 2, 5, 100]),
    st.sampled_from([1.0, 0.95, 0.5, 0.01]),
    st.sampled_from([0.0, 0.05, 0.5, 1.0]),
)
def test_distribution(logits, temperature, top_k, top_p, min_p):
    keywords = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    sampling = resolve(SamplingParams(**keywords), {}, (), logits.size, 8)
    ids, p = candidates(logits, sampling, softmax)
    got = np.zeros(logits.size)
    got[slice(None) if ids is None else ids] = p.astype(np.float64) / p.astype(np.float64).sum()
    # On a border (top_p reached exactly, min_p met exactly) float32 and float64 may differ by one token.
    border = (1, 1 - 3e-6, 1 + 3e-6)
    nearby = [(min(1, top_p * a), min(1, min_p * b)) for a in border for b in border]
    near = [reference(logits, temperature, top_k, *pair) for pair in nearby]
    assert min(np.abs(got - want).max() for want in near) < 2e-6
    if ids is not None:
        pairs = [(-logits[i], i) for i in ids]
        assert pairs == sorted(pairs)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.integers(1, 45))
def test_largest_ties_by_id(values, k):
    x = np.array(values, np.float32)
    assert largest(x, k).tolist() == sorted(range(len(x)), key=lambda i: (-x[i], i))[:k]


@given(LOGITS)
def test_greedy_is_the_lowest_argmax(logits):
    s = sampler(vocabulary=logits.size, temperature=0)
    assert s.choose(logits, np.zeros(1, np.int32)).token == logits.tolist().index(max(logits.tolist()))


def test_top_k_1_is_greedy():
    logits = np.array([1, 3, 3, 2], np.float32)
    assert {sampler(vocabulary=4, top_k=1, seed=i).choose(logits, np.zeros(1, np.int32)).token for i in range(20)} == {
        1
    }


@given(
    st.lists(st.sampled_from([0.0, 1e-30, 0.25, 1.0]), min_size=1, max_size=8).filter(any),
    st.floats(0, 1, exclude_max=True),
)
def test_draw_never_takes_what_is_impossible(p, u):
    p = np.array(p, np.float32)
    at = draw(None, p, u)
    assert p[at] > 0
    assert draw(np.arange(p.size) + 7, p, u) == at + 7


def test_draw_at_the_borders():
    p = np.array([0.0, 0.5, 0.0, 0.5, 0.0], np.float32)
    assert [draw(None, p, u) for u in (0.0, 0.4999, 0.5, 1 - 2.0**-53)] == [1, 1, 3, 3]


def test_frequencies_follow_the_distribution():
    logits = np.log(np.array([0.1, 0.2, 0.3, 0.4], np.float32))
    s, ids = sampler(vocabulary=4, seed=7), np.zeros(1, np.int32)
    counts = np.bincount([s.choose(logits, ids).token for _ in range(4000)], minlength=4) / 4000
    assert np.abs(counts - [0.1, 0.2, 0.3, 0.4]).max() < 0.03


def test_the_random_stream_is_fixed():
    """These doubles are part of the promise: the same seed, the same text, everywhere, in every version."""
    first = [next(stream) for stream in [random_stream(0)] for _ in range(3)]
    assert first == [0.6369616873214543, 0.2697867137638703, 0.04097352393619469]
    assert next(random_stream(0, 1)) != first[0]
    assert next(random_stream(None)) != next(random_stream(None))


def test_penalties_by_hand():
    logits = np.array([2, -2, 1, 0.5], np.float32)
    s = sampler(prompt=[0, 1], vocabulary=4, repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25)
    got = process(s, logits, [0, 1], [2, 2, 3])
    # repetition on prompt and output, then frequency and presence on the output alone
    assert got.tolist() == [1.0, -4.0, 0.5 - 0.5 - 0.5, 0.25 - 0.25 - 0.5]
    assert logits.tolist() == [2, -2, 1, 0.5]


def test_bias_min_tokens_and_processors_in_order():
    seen = []

    def note(ids, logits):
        seen.append((ids.tolist(), logits.copy()))
        logits[5] = 9

    def replace(ids, logits):
        return (logits + 1).tolist()

    s = sampler(
        prompt=[3], eos=[1], logit_bias={2: 4.0}, min_tokens=1, logits_processors=[note, replace], temperature=0
    )
    choice = s.choose(np.zeros(VOCABULARY, np.float32), np.array([3], np.int32))
    assert choice.token == 5
    assert seen[0][0] == [3]
    assert seen[0][1][2] == 4
    assert seen[0][1][1] == -math.inf
    assert s.process(np.zeros(VOCABULARY, np.float32), np.array([3, 5], np.int32))[1] == 1.0  # the end is possible now


def test_what_a_processor_may_not_do():
    ids, zeros = np.zeros(1, np.int32), np.zeros(4, np.float32)
    with pytest.raises(ValueError, match=r"shape \(3,\), not \(4,\)"):
        sampler(vocabulary=4, logits_processors=[lambda ids, x: x[:3]]).choose(zeros, ids)
    for temperature in (0, 1):
        with pytest.raises(ValueError, match="no token is possible"):
            sampler(vocabulary=4, temperature=temperature, logits_processors=[lambda ids, x: x - np.inf]).choose(
                zeros, ids
            )
        with pytest.raises(ValueError, match="NaN"):
            sampler(vocabulary=4, temperature=temperature, logits_processors=[lambda ids, x: x * np.nan]).choose(
                zeros, ids
            )


def test_a_processor_may_force_with_infinity():
    def force(ids, logits):
        logits[[1, 3]] = np.inf

    s = sampler(vocabulary=4, seed=1, logits_processors=[force])
    got = {s.choose(np.array([50, 0, 0, 0], np.float32), np.zeros(1, np.int32)).token for _ in range(40)}
    assert got == {1, 3}


@given(LOGITS, st.integers(0, 5))
def test_logprobs_are_those_of_the_raw_logits(logits, top):
    token = logits.size // 2
    got = logprob_of(logits, token, top, softmax)
    x = logits.astype(np.float64)
    want = x - x.max() - np.log(np.exp(x - x.max()).sum())
    assert got.logprob == pytest.approx(want[token], abs=1e-5)
    assert list(got.top) == sorted(range(len(x)), key=lambda i: (-x[i], i))[:top]
    assert got.top == pytest.approx({i: want[i] for i in got.top}, abs=1e-5)


@pytest.mark.peer
@settings(max_examples=25, deadline=None)
@given(LOGITS.filter(lambda x: x.size > 2), st.data())
def test_against_transformers(logits, data):
    torch = pytest.importorskip("torch")
    processors = pytest.importorskip("transformers.generation.logits_process")
    n = logits.size
    logits = logits + np.arange(n, dtype=np.float32) * 2**-8  # no ties: transformers keeps all of them
    ids = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=10))
    penalty = data.draw(st.sampled_from([0.8, 1.3]))
    top_k, top_p, min_p = data.draw(st.sampled_from([(2, 0.7, 0.0), (n, 0.9, 0.1), (5, 1.0, 0.3)]))
    scores = torch.from_numpy(logits)[None]
    chain = [
        processors.RepetitionPenaltyLogitsProcessor(penalty),
        processors.TemperatureLogitsWarper(0.7),
        processors.TopKLogitsWarper(top_k),
        *([processors.TopPLogitsWarper(top_p)] if top_p < 1 else []),
        *([processors.MinPLogitsWarper(min_p)] if min_p else []),
    ]
    for step in chain:
        scores = step(torch.tensor([ids]), scores)
    want = torch.softmax(scores[0].double(), -1).numpy()
    s = sampler(ids, n, repetition_penalty=penalty, temperature=0.7, top_k=top_k, top_p=top_p, min_p=min_p)
    kept, p = candidates(s.process(logits, np.array(ids, np.int32)), s.sampling, softmax)
    got = np.zeros(n)
    got[slice(None) if kept is None else kept] = p.astype(np.float64) / p.astype(np.float64).sum()
    borders = abs((want > 0).sum() - (got > 0).sum())
    assert borders <= 1  # sums on the very border of top_p round differently
    if not borders:
        assert np.abs(got - want).max() < 5e-6


def test_greedy_is_fast_enough():
    logits = np.random.default_rng(0).standard_normal(151_936).astype(np.float32)
    s, ids = sampler(vocabulary=logits.size, temperature=0), np.zeros(1, np.int32)
    seconds = []
    for _ in range(30):
        begin = time.perf_counter()
        s.choose(logits, ids)
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 1e-3  # about 20 microseconds; loose, since machines differ

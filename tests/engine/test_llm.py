"""The public object: prompts, limits, streams, the two phases, sessions, and what a closed one says."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from fake_model import FakeModel
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lanewise import ContextError, LanewiseError, SamplingParams
from lanewise.llm import LLM


def test_kinds_of_prompts(llm):
    keywords = {"temperature": 0, "max_tokens": 4}
    one = llm.generate("abc abc", **keywords)
    ids = llm.tokenize("abc abc")
    assert llm.generate(ids, **keywords).token_ids == one.token_ids
    assert llm.generate(np.array(ids, np.int64), **keywords).token_ids == one.token_ids
    assert llm.generate(tuple(ids), **keywords).token_ids == one.token_ids
    results = llm.generate(["abc abc", ids, np.array(ids)], **keywords)
    assert [r.token_ids for r in results] == [one.token_ids] * 3
    assert llm.generate([], **keywords) == []  # no prompts
    assert llm.generate("", **keywords).usage.prompt_tokens == 1  # the begin token
    assert str(one) == one.text == llm.detokenize(one.token_ids)
    json.dumps(one.to_dict())


def test_prompts_that_are_refused(llm, model):
    with pytest.raises(ValueError, match=f"token id 99 at 1 is outside the vocabulary of {model.vocabulary}"):
        llm.generate([0, 99])
    with pytest.raises(TypeError, match="whole numbers"):
        llm.generate([0.5, 1.5])
    with pytest.raises(TypeError, match="did you mean 'top_k'"):
        llm.generate("a", topk=3)
    with pytest.raises(TypeError, match="must be a SamplingParams"):
        llm.generate("a", {"top_k": 3})


def test_keywords_override_params(llm):
    params = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True)
    assert len(llm.generate("a", params).token_ids) == 3
    assert len(llm.generate("a", params, max_tokens=5).token_ids) == 5


def test_context_overflow_says_both_numbers(llm):
    with pytest.raises(ContextError, match="210 tokens are needed, but the context holds 200") as caught:
        llm.generate([0] * 150, max_tokens=60)
    assert (caught.value.needed, caught.value.limit) == (210, 200)
    with pytest.raises(ContextError, match=r"201 .* 200"):
        llm.generate([0] * 200)
    result = llm.generate([0] * 190, ignore_eos=True)  # max_tokens is not given: what is left
    assert (result.usage.completion_tokens, result.finish_reason) == (10, "length")
    for call in (llm.logits, llm.prefill, llm.score):
        with pytest.raises(ContextError):
            call([0] * 202)


def test_truncation_only_when_asked(llm):
    ids = [0, *range(2, 20)] * 15
    keep = 200 - 20
    keywords = {"max_tokens": 20, "temperature": 0}
    left = llm.generate(ids, truncate="left", **keywords)
    assert left.usage.truncated_tokens == len(ids) - keep
    assert left.token_ids == llm.generate([0, *ids[len(ids) - keep + 1 :]], **keywords).token_ids
    right = llm.generate(ids, truncate="right", **keywords)
    assert right.token_ids == llm.generate(ids[:keep], **keywords).token_ids
    assert llm.generate([0, 2], truncate="left", **keywords).usage.truncated_tokens == 0
    with pytest.raises(ValueError, match="'left' or 'right'"):
        llm.generate(ids, truncate="middle")
    with pytest.raises(ContextError):
        llm.generate(ids, truncate="left", max_tokens=300)


def test_the_end_token_and_min_tokens(llm):
    for seed in range(40):
        result = llm.generate("a", seed=seed, max_tokens=50)
        if result.finish_reason == "stop":
            assert result.token_ids[-1] == 1
            assert 1 not in result.token_ids[:-1]
        held = llm.generate("a", seed=seed, max_tokens=50, min_tokens=12)
        assert 1 not in held.token_ids[:12]
        free = llm.generate("a", seed=seed, max_tokens=20, ignore_eos=True)
        assert len(free.token_ids) == 20


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 1000), st.lists(st.sampled_from(["a", "ab", "b.", "c a", "天", "end", "气", "h\n"]), max_size=3))
def test_stream_equals_generate(seed, stop):
    with LLM.from_model(FakeModel(seed=seed % 7)) as llm:
        keywords = {"seed": seed, "max_tokens": 40, "stop": stop, "logprobs": 1}
        want = llm.generate("abc", **keywords)
        shown = ""
        chunks = []
        for chunk in llm.stream("abc", **keywords):
            shown += chunk.text
            chunks.append(chunk)
            assert want.text.startswith(shown)
        assert shown == want.text == chunks[-1].result.text
        assert [c.token_id for c in chunks] == want.token_ids
        assert [c.logprob for c in chunks] == [x.logprob for x in want.logprobs]
        assert [c.finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 1)
        assert chunks[-1].finish_reason == want.finish_reason
        full = llm.generate("abc", **{**keywords, "stop": ()}).text
        ends = [full.find(s) for s in stop if s in full]
        assert full.startswith(want.text)
        if ends:
            assert want.finish_reason == "stop"
            assert not any(s in want.text for s in stop)


def test_closing_a_stream_frees_its_pages(llm):
    stream = llm.stream("abc", max_tokens=100, ignore_eos=True)
    next(stream)
    assert llm.info()["cache_pages_used"] > 0
    stream.close()
    assert llm.info()["cache_pages_used"] == 0
    stream = llm.stream("abc", max_tokens=100, ignore_eos=True)
    next(stream)
    del stream
    assert llm.info()["cache_pages_used"] == 0


def test_a_stream_checks_at_the_call(llm):
    with pytest.raises(ContextError):
        llm.stream([0] * 300)


def test_logits_and_score(llm, model):
    ids = [0, *range(2, 12)]
    logits = llm.logits(ids)
    assert logits.shape == (len(ids), model.vocabulary)
    for i in range(len(ids)):
        assert np.array_equal(logits[i], model.logits_after(np.array(ids[: i + 1])))
    score = llm.score(ids)
    x = logits.astype(np.float64)
    logp = x - np.log(np.exp(x).sum(-1, keepdims=True))
    want = [logp[i, ids[i + 1]] for i in range(len(ids) - 1)]
    assert score.logprobs[0] is None
    assert score.logprobs[1:] == pytest.approx(want, abs=1e-5)
    assert score.sum == pytest.approx(sum(want), abs=1e-4)
    assert score.perplexity == pytest.approx(math.exp(-np.mean(want)), rel=1e-5)
    assert math.isnan(llm.score([0]).perplexity)
    assert llm.score("abc").token_ids == llm.tokenize("abc")


def test_timings_and_progress(llm):
    seen = []
    result = llm.generate([[0, 2], [0, 3]], max_tokens=5, ignore_eos=True, progress=seen.append)[0]
    t = result.timings
    assert t.prefill_tokens == 2
    assert t.decode_tokens == 4
    assert 0 < t.prefill_seconds <= t.time_to_first_token
    assert t.decode_tokens_per_second == 4 / t.decode_seconds
    assert seen[-1] == (4, 4, 10, 2, 2)
    llm.generate("a", max_tokens=2, progress=True)


def test_closed(model):
    llm = LLM.from_model(model)
    session, sequence = llm.session(), llm.prefill("a")
    with llm:
        pass
    assert model.closed
    llm.close()
    calls = [
        lambda: llm.generate("a"), lambda: llm.chat("a"), lambda: llm.stream("a"), lambda: llm.logits([0]),
        lambda: llm.prefill([0]), lambda: llm.tokenize("a"), llm.info, llm.memory_plan, llm.session,
        lambda: sequence.decode(1), lambda: session.send("a"),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(LanewiseError, match="this LLM is closed"):
            call()
    sequence.close()


def test_without_a_tokenizer(model):
    model.tokenizer = None
    with LLM.from_model(model) as llm:
        assert llm.generate([0, 2], max_tokens=3, ignore_eos=True).text == ""
        assert not llm.has_chat_template
        for call in (lambda: llm.generate("a"), lambda: llm.generate([0], stop="a"), lambda: llm.chat("a")):
            with pytest.raises(LanewiseError, match="without a tokenizer"):
                call()


def test_chat(llm):
    result = llm.chat("abc", temperature=0, max_tokens=5)
    ids = llm.tokenize(llm.apply_chat_template([{"role": "user", "content": "abc"}]), add_special_tokens=False)
    assert result.token_ids == llm.generate(ids, temperature=0, max_tokens=5).token_ids
    assert "".join(c.text for c in llm.stream_chat("abc", temperature=0, max_tokens=5)) == result.text


class SequenceMachine(RuleBasedStateMachine):
    """A Sequence and its forks against plain lists of ids."""

    def __init__(self):
        super().__init__()
        self.model = FakeModel(context=40)
        self.llm = LLM.from_model(self.model)
        self.pairs = [(self.llm.prefill([]), [])]

    @rule(which=st.integers(0, 99), token=st.integers(0, 20))
    def decode(self, which, token):
        sequence, ids = self.pairs[which % len(self.pairs)]
        if len(ids) == 40:
            with pytest.raises(ContextError, match=r"41 .* 40"):
                sequence.decode(token)
            return
        ids.append(token)
        assert np.array_equal(sequence.decode(token), self.model.logits_after(np.array(ids)))

    @rule(which=st.integers(0, 99), tokens=st.lists(st.integers(0, 20), min_size=1, max_size=9))
    def extend(self, which, tokens):
        sequence, ids = self.pairs[which % len(self.pairs)]
        if len(ids) + len(tokens) <= 40:
            ids.extend(tokens)
            sequence.extend(tokens)

    @precondition(lambda self: len(self.pairs) < 5)
    @rule(which=st.integers(0, 99))
    def fork(self, which):
        sequence, ids = self.pairs[which % len(self.pairs)]
        self.pairs.append((sequence.fork(), list(ids)))

    @rule(which=st.integers(0, 99), part=st.floats(0, 1))
    def truncate(self, which, part):
        sequence, ids = self.pairs[which % len(self.pairs)]
        del ids[round(part * len(ids)) :]
        sequence.truncate(len(ids))

    @rule(which=st.integers(0, 99), token=st.integers(0, 20))
    def interrupt(self, which, token):
        sequence, ids = self.pairs[which % len(self.pairs)]
        if len(ids) < 40:
            self.model.interrupt_at = len(self.model.steps) + 1
            with pytest.raises(KeyboardInterrupt):
                sequence.decode(token)

    @precondition(lambda self: len(self.pairs) > 1)
    @rule()
    def close(self):
        self.pairs.pop()[0].close()

    @invariant()
    def same(self):
        for sequence, ids in self.pairs:
            assert sequence.token_ids == ids
            assert sequence.position == len(sequence) == len(ids)
            if ids:
                assert np.array_equal(sequence.logits, self.model.logits_after(np.array(ids)))

    def teardown(self):
        for sequence, _ in self.pairs:
            sequence.close()
        assert self.llm.info()["cache_pages_used"] == 0


SequenceMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestSequence = SequenceMachine.TestCase


def test_sequence_errors(llm):
    with llm.prefill("") as sequence:
        assert sequence.position == 1  # the begin token, which the tokenizer adds
    with pytest.raises(LanewiseError, match="Sequence is closed"):
        sequence.decode(1)
    with llm.prefill([]) as empty:
        with pytest.raises(ValueError, match="empty sequence"):
            _ = empty.logits
        with pytest.raises(ValueError, match="outside"):
            empty.decode(1000)
        with pytest.raises(ValueError, match="truncate"):
            empty.truncate(1)


def test_session_runs_only_what_is_new(llm, model):
    with llm.session("c.", temperature=0, max_tokens=6, ignore_eos=True) as chat:
        first = chat.send("abc")
        assert first.usage.cached_tokens == 0
        second = chat.send("def")
        assert second.usage.cached_tokens > 0
        cold = llm.chat(chat.history[:-1], temperature=0, max_tokens=6, ignore_eos=True)
        assert second.token_ids == cold.token_ids
        assert second.usage.prompt_tokens == cold.usage.prompt_tokens
        assert [m["role"] for m in chat.history] == ["system", "user", "assistant", "user", "assistant"]
        chat.history[1]["content"] = "h"  # edited: the cache is used as far as it is right
        assert chat.send("a").usage.cached_tokens < second.usage.cached_tokens
        chat.reset()
        assert len(chat.history) == 1
        assert chat.send("abc").token_ids == first.token_ids
    with pytest.raises(LanewiseError, match="ChatSession is closed"):
        chat.send("a")


def test_session_after_an_interrupt_and_a_closed_stream(llm, model):
    with llm.session(temperature=0, max_tokens=6, ignore_eos=True) as chat:
        model.interrupt_at = len(model.steps) + 3
        with pytest.raises(KeyboardInterrupt):
            chat.send("abc")
        assert chat.history == []
        answer = chat.send("abc")
        assert answer.usage.cached_tokens > 0
        assert answer.token_ids == llm.chat("abc", temperature=0, max_tokens=6, ignore_eos=True).token_ids
        stream = chat.stream("d")
        shown = next(stream).text + next(stream).text
        stream.close()
        assert chat.history[-1] == {"role": "assistant", "content": shown}
        follow = chat.send("e")
        cold = llm.chat(chat.history[:-1], temperature=0, max_tokens=6, ignore_eos=True)
        assert follow.token_ids == cold.token_ids


def test_session_without_a_template(llm):
    with llm.session(plain=True, temperature=0, max_tokens=5, ignore_eos=True) as chat:
        first = chat.send("abc")
        assert first.token_ids == llm.generate("abc", temperature=0, max_tokens=5, ignore_eos=True).token_ids
        with pytest.raises(ValueError, match="n must be 1"):
            chat.send("a", n=2)

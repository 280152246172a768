"""SamplingParams: what is refused and how; how the model's defaults enter."""

from __future__ import annotations

import pytest

from lanewise import SamplingParams
from lanewise.engine.params import default_max_tokens, resolve


def resolved(params, generation=None):
    return resolve(params, generation or {}, (1,), 50, default_max_tokens(params, generation or {}))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"temperature": -0.1}, "temperature must be at least 0, not -0.1"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p must be above 0 and at most 1, not 0"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -1}, "top_k must be at least 0"),
        ({"min_p": 2}, "min_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0"),
        ({"presence_penalty": 3}, "presence_penalty must be at least -2 and at most 2"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"max_tokens": 2, "min_tokens": 3}, "min_tokens 3 is more than max_tokens 2"),
        ({"n": 0}, "n must be at least 1"),
        ({"stop": ""}, "stop must be non-empty strings"),
        ({"seed": -1}, "seed"),
        ({"logit_bias": {3: float("inf")}}, "logit_bias of token 3"),
        ({"timeout": -1}, "timeout"),
    ],
)
def test_values_out_of_range(keywords, message):
    with pytest.raises(ValueError, match=message):
        SamplingParams(**keywords)


@pytest.mark.parametrize("keywords", [{"max_tokens": 1.5}, {"top_k": True}, {"temperature": "hot"}, {"n": None}])
def test_values_of_the_wrong_type(keywords):
    with pytest.raises(TypeError, match=next(iter(keywords))):
        SamplingParams(**keywords)


def test_unknown_names_get_the_nearest():
    with pytest.raises(TypeError, match="'temprature'; did you mean 'temperature'"):
        SamplingParams(temprature=1)
    with pytest.raises(TypeError, match="'zzzz'; known: max_tokens"):
        SamplingParams().with_changes({"zzzz": 1})
    with pytest.raises(TypeError, match="callable"):
        SamplingParams(logits_processors=[3])


def test_frozen_and_changed_by_copy():
    params = SamplingParams(stop="x", temperature=0)
    changed = params.with_changes({"temperature": 1.0})
    assert (params.temperature, changed.temperature, changed.stop) == (0, 1.0, ("x",))
    with pytest.raises(AttributeError):
        params.temperature = 2


def test_defaults_are_the_models_then_standard():
    generation = {"temperature": 0.6, "top_k": 20, "max_new_tokens": 9, "do_sample": False}
    sampling = resolved(SamplingParams(top_k=5), generation)
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.max_tokens) == (0.6, 5, 1.0, 9)
    plain = resolved(SamplingParams())
    assert (plain.temperature, plain.top_k, plain.top_p, plain.min_p, plain.max_tokens) == (1.0, 0, 1.0, 0.0, 256)
    assert resolved(SamplingParams(temperature=0), generation).temperature == 0
    assert resolved(SamplingParams(temperature=1e-7)).temperature == 0


def test_end_ids():
    assert resolved(SamplingParams(stop_token_ids=[4])).end_ids == {1, 4}
    assert resolved(SamplingParams(stop_token_ids=[4], ignore_eos=True)).end_ids == {4}
    with pytest.raises(ValueError, match="stop_token_ids: token id 50 is outside"):
        resolved(SamplingParams(stop_token_ids=[50]))
    with pytest.raises(ValueError, match="logit_bias"):
        resolved(SamplingParams(logit_bias={99: 1}))

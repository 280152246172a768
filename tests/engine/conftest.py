"""Fixtures of the engine's tests."""

import pytest
from fake_model import FakeModel

from lanewise.llm import LLM


@pytest.fixture
def model():
    return FakeModel()


@pytest.fixture
def llm(model):
    with LLM.from_model(model) as llm:
        yield llm
        assert llm.info()["cache_pages_used"] == 0, "pages were not given back"

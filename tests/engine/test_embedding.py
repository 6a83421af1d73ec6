"""Models that turn texts into vectors, by the core that serves them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks.models import model_path
from kernel.engine.base import EngineError, EngineOptions
from kernel.engine.embedding import EmbeddingEngine


@pytest.fixture(scope="module", params=["tiny-bert", "tiny-qwen3-embedding"])
def engine(request: pytest.FixtureRequest) -> Iterator[EmbeddingEngine]:
    options = EngineOptions(embedding=True, threads=2, window_tokens=256)
    engine = EmbeddingEngine(str(model_path(request.param, "q8_0")), options)
    yield engine
    engine.text.close()


def vectors(engine: EmbeddingEngine, texts: list[list[int]]) -> np.ndarray:
    return np.array([np.frombuffer(raw, "<f4") for raw in engine.embed(texts)])


def test_a_vector_has_length_one_and_the_width_that_the_core_says(engine):
    found = vectors(engine, [[5, 6, 7], [9] * 200])
    assert found.shape == (2, engine.info.embedding_width)
    assert np.allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-5)


def test_a_text_has_the_same_vector_whatever_came_before_it(engine):
    alone = vectors(engine, [[5, 6, 7]])[0]
    beside = vectors(engine, [[9] * 200, [5, 6, 7], [1, 2]])[1]
    assert alone.tobytes() == beside.tobytes()
    assert alone.tobytes() != vectors(engine, [[7, 6, 5]])[0].tobytes()


@pytest.mark.parametrize("count", [0, 257])
def test_a_text_without_tokens_or_with_too_many_is_refused_with_the_limit(engine, count):
    with pytest.raises(EngineError, match=f"{count} tokens: wanted 1 to 256"):
        engine.embed([[1] * count])

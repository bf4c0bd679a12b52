"""Attention row by row: what a pass over several tokens computes is what passes over each would."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers.integrations.sdpa_attention import sdpa_attention_forward  # noqa: E402

from jupyter_sc2.engines.torch.attention import ROW_BY_ROW_TOKENS, attend_row_by_row  # noqa: E402
from jupyter_sc2.engines.torch.engine import load, max_draft_tokens_for  # noqa: E402
from jupyter_sc2.models.cards import SHIPPED_MODEL  # noqa: E402
from tests.support.tiny import make_tiny_model  # noqa: E402


class Heads(torch.nn.Module):
    num_key_value_groups = 3
    is_causal = True


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("tokens", [1, 3, 9])
def test_it_is_the_attention_of_transformers(tokens: int, window: int | None):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, length, 64, generator=generator)
        for heads, length in ((9, tokens), (3, 700), (3, 700))
    )
    mask = torch.ones(tokens, 700, dtype=torch.bool).tril(700 - tokens)
    if window:
        mask = mask.triu(700 - tokens - window)
    arguments = (Heads(), query, key, value, mask[None, None])
    ours, _ = attend_row_by_row(*arguments, scaling=0.2)
    theirs, _ = sdpa_attention_forward(*arguments, scaling=0.2)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("window", [None, 100])
def test_rows_together_are_bit_for_bit_what_they_are_alone(window: int | None):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, tokens, 64, generator=generator).to(torch.bfloat16)
        for heads, tokens in ((9, ROW_BY_ROW_TOKENS), (3, 700), (3, 700))
    )
    mask = torch.ones(ROW_BY_ROW_TOKENS, 700, dtype=torch.bool).tril(700 - ROW_BY_ROW_TOKENS)
    if window:
        mask = mask.triu(700 - ROW_BY_ROW_TOKENS - window)
    together, _ = attend_row_by_row(Heads(), query, key, value, mask[None, None])
    for row in range(ROW_BY_ROW_TOKENS):
        end = 700 - ROW_BY_ROW_TOKENS + row + 1
        alone, _ = attend_row_by_row(
            Heads(),
            query[:, :, row : row + 1],
            key[:, :, :end],
            value[:, :, :end],
            mask[None, None, row : row + 1, :end] if window else None,
        )
        assert torch.equal(together[:, row], alone[:, 0])


def ways_of(tokens: int) -> torch.Tensor:
    """What tokens see that do not see one another, (1, 1, T, 700)."""
    seen = torch.cat([torch.ones(tokens, 700 - tokens), torch.eye(tokens)], dim=1)
    return seen.bool()[None, None]


@pytest.mark.parametrize("tokens", [2, ROW_BY_ROW_TOKENS])
def test_ways_get_the_attention_of_transformers(tokens: int):
    query, key, value = (torch.randn(1, n, len, 64) for n, len in ((9, tokens), (3, 700), (3, 700)))
    ours, _ = attend_row_by_row(Heads(), query, key, value, ways_of(tokens))
    theirs, _ = sdpa_attention_forward(Heads(), query, key, value, ways_of(tokens))
    torch.testing.assert_close(ours, theirs)


def test_ways_are_attended_to_together(monkeypatch):
    taken = []
    function = torch.nn.functional.scaled_dot_product_attention

    def noted(query, *args, **kwargs):
        taken.append(query.shape[2])
        return function(query, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    query, key, value = (
        torch.randn(1, n, len, 64) for n, len in ((9, ROW_BY_ROW_TOKENS), (3, 700), (3, 700))
    )
    attend_row_by_row(Heads(), query, key, value, ways_of(ROW_BY_ROW_TOKENS))
    assert taken == [3 * ROW_BY_ROW_TOKENS]  # of each key head the queries of three heads


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_models_that_are_not_packed_attend_so_too(tmp_path, monkeypatch, precision):
    taken = []
    function = torch.nn.functional.scaled_dot_product_attention

    def noted(query, *args, **kwargs):
        taken.append(tuple(query.shape[1:3]))
        return function(query, *args, **kwargs)

    engine = load(str(make_tiny_model(tmp_path, heads=4, kv_heads=2)), precision=precision)
    try:
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
        engine._forward([5])
    finally:
        engine.close()
    assert set(taken) == {(2, 2)}  # of each key head the queries of two heads


def test_the_draft_of_a_quantized_model_is_read_row_by_row():
    assert max_draft_tokens_for("4bit") + 1 == ROW_BY_ROW_TOKENS


def test_the_shipped_model_computes_four_tokens_in_a_pass_as_in_four():
    engine = load(str(SHIPPED_MODEL), precision="bf16", threads=1)
    try:
        prompt, more = list(range(300, 360)), [310, 4000, 77, 9000]
        engine.prefill(prompt, lambda: False)
        engine._forward(more)
        together = engine._logits
        engine._cache.truncate(len(prompt))
        for row, token in enumerate(more):
            engine._forward([token])
            assert np.array_equal(engine._logits[0], together[row])
    finally:
        engine.close()

"""4-bit layers and 8-bit tables with torch alone."""

import pytest

torch = pytest.importorskip("torch")

from jupyter_sc2.embedded.pack import compensated, pack  # noqa: E402
from jupyter_sc2.engines import load_engine, quantized  # noqa: E402
from jupyter_sc2.engines.int4 import (  # noqa: E402
    FEW,
    Int4Linear,
    Int8Head,
    Int8Table,
    dequantize_int4,
    quantize_int4,
    quantize_int8,
)
from jupyter_sc2.errors import ModelLoadError  # noqa: E402
from tests.tiny import make_tiny_model  # noqa: E402


@pytest.fixture
def weight():
    return torch.randn(96, 128, generator=torch.Generator().manual_seed(0)) * 0.05


def layer(weight, dtype=torch.float32, bias=None, exact=False) -> Int4Linear:
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    if bias is not None:
        linear.bias.data = bias
    made = Int4Linear(linear.to(dtype), dtype, exact=exact)
    for name, tensor in quantize_int4(weight).items():
        made._buffers[name] = tensor
    made.settle()
    return made.requires_grad_(False)


def test_four_bits_keep_a_weight_within_a_step(weight):
    quantized = quantize_int4(weight)
    restored = dequantize_int4(quantized["weight"], quantized["scales"])
    step = quantized["scales"][..., 0].max()
    assert (restored - weight).abs().max() <= 2 * step
    assert (restored - weight).std() < 0.09 * weight.std()


def test_rounding_is_made_up_for_by_the_inputs_that_go_together(weight):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(500, 8, generator=generator) @ torch.randn(8, 128, generator=generator)
    x += 0.1 * torch.randn(500, 128, generator=generator)
    parts = quantize_int4(weight)
    made_up = compensated(weight, parts["scales"], x.T @ x)
    errors = [
        (x @ (dequantize_int4(packed, parts["scales"]) - weight).T).square().mean()
        for packed in (made_up, parts["weight"])
    ]
    assert errors[0] < errors[1] / 3


def test_a_model_is_packed_by_what_it_reads(tmp_path):
    folder = make_tiny_model(tmp_path / "tiny")
    for name, rows in (("by itself", ()), ("by rows", [[20 + 7 * n % 300 for n in range(200)]])):
        pack(folder, tmp_path / name, rows)
    weights = [
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("by itself", "by rows")
    ]
    assert len(weights[0]) == len(weights[1]) and weights[0] != weights[1]


def test_a_group_of_equal_weights_stays_what_it_is():
    quantized = quantize_int4(torch.full((4, 64), 0.25))
    restored = dequantize_int4(quantized["weight"], quantized["scales"])
    assert torch.allclose(restored, torch.full((4, 64), 0.25))


def test_cutting_off_a_groups_ends_can_only_make_the_error_smaller(weight):
    errors = [
        (dequantize_int4(q["weight"], q["scales"]) - weight).square().mean()
        for q in (quantize_int4(weight, (1.0,)), quantize_int4(weight))
    ]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_few_tokens_and_many_give_the_same(weight, dtype):
    made = layer(weight, dtype)
    x = torch.randn(FEW + 1, 128).to(dtype)
    assert torch.allclose(made(x)[:FEW].float(), made(x[:FEW]).float(), atol=0.02)


def test_a_bias_is_added(weight):
    bias = torch.arange(96.0)
    x = torch.zeros(1, 128)
    assert torch.allclose(layer(weight, bias=bias)(x), bias)


def test_the_output_layer_is_the_table_of_embeddings(weight):
    table = Int8Table(96, 128, torch.float32)
    table._buffers.update(quantize_int8(weight))
    x = torch.randn(1, 2, 128)
    expected = x @ table(torch.arange(96)).T
    assert torch.allclose(Int8Head(table)(x), expected, atol=1e-3)
    assert torch.allclose(table(torch.arange(96)), weight, atol=0.002)


@pytest.fixture
def packed(tmp_path):
    folder = make_tiny_model(tmp_path / "model", hidden=64, intermediate=128)
    pack(folder, tmp_path / "packed")
    return tmp_path / "packed"


def logits(engine):
    engine.prefill(engine.encode("import numpy as np"), lambda: False)
    return engine._logits[-1].clone()


def test_a_packed_model_takes_a_quarter_of_the_disk(packed):
    sizes = [
        (folder / "model.safetensors").stat().st_size
        for folder in (packed, packed.parent / "model")
    ]
    assert sizes[0] < 0.3 * sizes[1]


def test_a_packed_model_is_loaded_as_it_is(packed):
    engine = load_engine(str(packed))
    assert engine.precision == "packed"
    assert engine.card.parameters != "?"


def test_a_packed_model_says_what_its_unpacked_weights_say(packed):
    quick, exact = load_engine(str(packed)), load_engine(str(packed), precision="fp32")
    found, expected = logits(quick), logits(exact)
    assert torch.nn.functional.cosine_similarity(found, expected, dim=0) > 0.99


@pytest.mark.parametrize("precision", ["4bit", "4bit-double", "8bit"])
def test_where_fewer_bits_are_set_a_packed_model_is_loaded_as_it_is(packed, precision):
    assert load_engine(str(packed), precision=precision).precision == "packed"


def test_a_packed_model_cannot_be_quantized_again(packed):
    with pytest.raises(ModelLoadError, match="is packed in 4 bits already"):
        quantized.make(packed, "4bit", lambda state, share: None)

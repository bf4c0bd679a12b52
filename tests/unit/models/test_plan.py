"""Sizes: computed, against what full-size weights and small models really took; and the automatic choice."""

from __future__ import annotations

import json

import pytest

from jupyter_sc2.engines import load_engine
from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.models.cards import SHIPPED_MODEL, Shape, cards
from jupyter_sc2.models.files import plan_for
from jupyter_sc2.models.plan import (
    GGUF,
    TORCH,
    check,
    choose,
    choose_gguf,
    file_bytes,
    has_int4,
    memory,
    plan,
    smaller,
    weights,
)
from jupyter_sc2.options import LoadOptions
from jupyter_sc2.runtime.hardware import Machine, machine
from jupyter_sc2.settings import PRECISIONS
from tests.support.tiny import make_tiny_model

LAPTOP = Machine(cores=2, features=("AVX2",), memory=8 << 30, free=5_000_000_000)
XEON = Machine(
    cores=2,
    features=("AVX2", "AVX-512", "AVX512-BF16", "AMX"),
    memory=24 << 30,
    free=20_000_000_000,
)
BIG_XEON = Machine(cores=16, features=XEON.features, memory=64 << 30, free=60_000_000_000)
GPU = Machine(
    cores=8, gpu="a GPU", gpu_memory=24 << 30, gpu_free=22_000_000_000, free=8_000_000_000
)

SMALL_ARM = Machine(cores=2, memory=8 << 30, free=5_000_000_000)
SMALL_GPU = Machine(cores=8, gpu="a GPU", gpu_free=10_000_000_000, features=("AVX2",))


@pytest.fixture
def three_b() -> Shape:
    return cards()["starcoder2-3b"].shape


@pytest.mark.parametrize(
    ("precision", "megabytes"),
    # Counted from the tensors or the file, with random weights of this shape.
    [("bf16", 6061), ("8bit", 3185), ("int4", 2153), ("Q4_K_M", 1890), ("Q4_0", 1750)],
)
def test_sizes_of_3b_are_those_that_were_measured(three_b, precision, megabytes):
    assert weights(three_b, precision, XEON) / 1e6 == pytest.approx(megabytes, rel=0.005)


def test_3b_in_int4_is_onnx_runtimes(three_b):
    rows = {row.precision: row.engine for row in plan(three_b, XEON, tokens=2048)}
    assert rows["int4"] == "onnxruntime" and rows["4bit"] == "transformers"


def test_4_bits_are_the_floor_and_the_scales(three_b):
    floor = three_b.linear / 2 + 2 * (three_b.embedding + three_b.rest)
    assert floor / 1e6 == pytest.approx(1743.2, rel=0.001)
    assert weights(three_b, "4bit", XEON) - floor == pytest.approx(
        three_b.linear / 64 * 2, rel=0.001
    )
    without = Machine(features=("AVX-512",), gpu="a GPU")
    assert weights(three_b, "4bit", without) - floor == pytest.approx(
        three_b.linear / 64 * 4, rel=0.001
    )


def test_memory_includes_the_kv_cache(three_b):
    extra = memory(three_b, "bf16", XEON, 2048) - memory(three_b, "bf16", XEON, 0)
    assert extra == 2048 * 30_720
    assert memory(three_b, "fp32", XEON, 10) - memory(three_b, "fp32", XEON, 0) == 10 * 61_440


def test_without_native_bf16_what_is_not_quantized_is_fp32(three_b):
    more = weights(three_b, "8bit", LAPTOP) - weights(three_b, "8bit", XEON)
    assert more == 2 * (three_b.embedding + three_b.rest)


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "8bit", "int4", "4bit"])
def test_computed_memory_is_what_loading_takes(tmp_path, precision):
    folder = make_tiny_model(
        tmp_path / "m", hidden=256, layers=4, intermediate=1024, vocab_size=800, context=512
    )
    shape = Shape.from_config(json.loads((folder / "config.json").read_text()))
    engine = load_engine(str(folder), precision=precision)
    ids = [30 + index % 300 for index in range(256)]  # the cache grows in steps of that
    engine.prefill(ids, lambda: False)
    computed = memory(shape, precision, machine(), len(ids))
    assert computed == pytest.approx(engine.memory_bytes(), rel=0.01)
    engine.close()


@pytest.mark.parametrize(
    ("name", "here", "chosen"),
    [
        ("starcoder2-3b", XEON, "int4"),  # in bf16 a token takes 0.4 s on two cores
        ("starcoder2-3b", BIG_XEON, "bf16"),
        ("starcoder2-3b", LAPTOP, "int4"),
        ("starcoder2-3b", GPU, "bf16"),
        ("starcoder2-15b", GPU, "8bit"),
        ("starcoder2-15b", LAPTOP, "int4"),
        ("starcoder2-3b", SMALL_ARM, "int4"),
        ("codegemma-2b", SMALL_ARM, "4bit"),  # torch has no quick 4-bit product there
        ("starcoder2-15b", SMALL_GPU, "4bit"),
        ("qwen2.5-coder-0.5b", LAPTOP, "fp32"),
        ("qwen2.5-coder-0.5b", XEON, "bf16"),
    ],
)
def test_the_choice_is_the_most_exact_that_fits_and_keeps_up(name, here, chosen):
    precision, why = choose(cards()[name].shape, here, 2048)
    assert precision == chosen and why


def test_gguf_is_chosen_by_what_fits(three_b):
    def having(free: int) -> str:
        return choose_gguf(three_b, Machine(free=free), 2048)[0]

    assert [having(n * 100_000_000) for n in (50, 20, 15, 5)] == [
        "Q4_K_M",
        "Q3_K_M",
        "Q2_K",
        "Q2_K",
    ]


def test_a_plan_marks_what_loading_takes(three_b):
    for engine, precision in (("auto", "auto"), ("llamacpp", "auto"), ("auto", "Q8_0")):
        rows = plan(three_b, XEON, tokens=2048, engine=engine, precision=precision)
        (chosen,) = [row for row in rows if row.chosen]
        expected = (
            choose_gguf(three_b, XEON, 2048)
            if engine == "llamacpp"
            else choose(three_b, XEON, 2048)
        )
        assert chosen.precision == (expected[0] if precision == "auto" else precision)
        assert chosen.why
    double = plan(three_b, XEON, tokens=2048, precision="4bit-double")
    assert [row.precision for row in double if row.chosen] == ["4bit-double"]


@pytest.mark.parametrize("precision", ["auto", "4bit", "8bit"])
def test_the_embedded_model_is_taken_as_it_is_packed(precision):
    *_, rows = plan_for(LoadOptions(model=str(SHIPPED_MODEL), precision=precision), tokens=0)
    (chosen,) = [row for row in rows if row.chosen]
    assert chosen.precision == "packed"
    assert chosen.engine == "onnxruntime"
    assert not {"4bit", "8bit"} & {row.precision for row in rows}


def test_what_does_not_fit_is_marked_and_refused(three_b):
    rows = {row.precision: row for row in plan(three_b, LAPTOP, tokens=2048)}
    assert (rows["bf16"].fits, rows["4bit"].fits) == (False, True)
    assert rows["bf16"].file_bytes == file_bytes(three_b, "bf16")
    unknown = plan(three_b, Machine(), tokens=2048)
    assert {row.fits for row in unknown} == {None}
    check(three_b, LAPTOP, name="x", precision="4bit", tokens=2048)
    with pytest.raises(ModelLoadError) as caught:
        check(three_b, LAPTOP, name="starcoder2-3b", precision="bf16", tokens=2048)
    assert str(caught.value) == (
        "starcoder2-3b in bf16 needs about 6.1 GB of memory, and 5.0 GB are free. Try precision int4."
    )


@pytest.mark.parametrize("on", [LAPTOP, SMALL_ARM, SMALL_GPU], ids=["laptop", "arm", "gpu"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("precision", [*PRECISIONS[1:], "packed", "Q5_0", ""])
def test_where_memory_lacks_the_advice_takes_less_than_what_was_tried(
    three_b, precision, packed, on
):
    known = (*TORCH, *GGUF, "fp16", "4bit-double", "packed")
    tried = precision
    for _ in range(9):
        advice = smaller(tried, on, packed=packed)
        if not advice.startswith("precision "):
            break
        fewer = advice.removeprefix("precision ")
        assert fewer in known and (fewer in GGUF) == (tried in GGUF)
        assert memory(three_b, fewer, on, 0) < memory(three_b, tried, on, 0)
        assert fewer != "int4" or has_int4(on)
        tried = fewer
    assert advice == "a smaller model"


@pytest.mark.torch
def test_this_machine_tells_something_of_itself():
    here = machine()
    assert here.cores >= 1 and here.free and here.memory and here.free <= here.memory
    assert f"{here.cores} cores" in str(here)

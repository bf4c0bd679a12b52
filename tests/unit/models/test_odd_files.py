"""A model's files with each field replaced by what it cannot be: one line, or as if the field were not there."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from jupyter_sc2.engines.gguf.header import GGUFHeader
from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.models.files import plan_for
from jupyter_sc2.options import LoadOptions
from jupyter_sc2.runtime.characters import first_unseen
from tests.support.odd import ODD, variants

CONFIG = {
    "model_type": "starcoder2",
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_size": 64,
    "intermediate_size": 128,
    "vocab_size": 400,
    "sliding_window": 512,
    "max_position_embeddings": 2048,
    "norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
    "use_bias": True,
    "mlp_bias": False,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "packed": {"version": 1},
    "quantization_config": None,
}
SIZES = [7, 4096, 1 << 20, [7], [4096, 7]]


def checked(act, *arguments: Any) -> Any:
    """What an act returns; if it fails, its line."""
    try:
        return act(*arguments)
    except ModelLoadError as error:
        line = str(error)
        assert "\n" not in line and len(line) < 500 and first_unseen(line) is None, line
        assert "Error:" not in line and "object has no" not in line, line
        return line


@pytest.mark.slow
def test_no_field_of_a_config_can_break_a_plan(tmp_path):
    for where, changed in variants(CONFIG, [*ODD, *SIZES]):
        (tmp_path / "config.json").write_text(json.dumps(changed))
        try:
            checked(lambda: plan_for(LoadOptions(model=str(tmp_path)), tokens=2048))
        except Exception as error:
            raise AssertionError(where) from error


@pytest.mark.torch
@pytest.mark.parametrize(
    "changes",
    [
        *({"residual_dropout": odd} for odd in (-1, 1.5, float("inf"))),
        *({"output_hidden_states": odd} for odd in (1.5, "x", [None], {"a": 1})),
        *({"return_dict": odd} for odd in (None, 0, "")),
        *({"norm_epsilon": odd} for odd in (None, "x", [], {})),
        *({"rope_parameters": odd} for odd in (True, -1, "x", [], [None])),
        *({"quantization_config": odd} for odd in (True, "x", [], {}, {"quant_method": 5})),
        *({"sliding_window": odd} for odd in ([7], [4096, 7], [])),
        *({"max_position_embeddings": odd} for odd in ([7], [], None)),
        *({"pad_token_id": odd} for odd in (1.5, "x", {})),
    ],
    ids=repr,
)
def test_an_odd_field_of_a_config_is_one_line_or_no_matter_when_a_model_is_loaded(
    tmp_path, changes
):
    pytest.importorskip("torch")
    from jupyter_sc2.engines import load_engine
    from tests.support.tiny import make_tiny_model

    folder = make_tiny_model(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))

    def load() -> None:
        engine = load_engine(str(folder), precision="fp32", threads=1)
        engine.prefill(engine.encode("x"), lambda: False)
        engine.close()

    checked(load)


# *.gguf

U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10
HEADER = {
    "general.architecture": "llama",
    "general.name": "x",
    "general.license": "mit",
    "general.file_type": 15,
    "llama.context_length": 2048,
    "llama.block_count": 2,
    "llama.embedding_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.key_length": 16,
    "llama.attention.value_length": 16,
    "llama.attention.sliding_window": 512,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": ["<fim_prefix>", "a", "\u0120b"],
    "tokenizer.ggml.token_type": [3, 1, 1],
    "jupyter_sc2.heals": True,
}
ODD_GGUF: list[Any] = [
    *(True, False, -1, 0, 1, 7, 1.5, 1 << 40, (1 << 64) - 1),
    *(float("nan"), float("inf"), -1e30, "", "x", "\x00\u202e", "x" * 5000),
    *(
        [],
        [0],
        [-1],
        ["x"],
        [1.5],
        [True],
        [float("nan")],
        ["a", "b", "c"],
        [9, 9, 9],
        list(range(50)),
    ),
]


def value(data: Any) -> tuple[int, bytes]:
    """A value of GGUF: its kind, and its bytes."""
    match data:
        case bool():
            return BOOL, struct.pack("<?", data)
        case int():
            if -(1 << 31) <= data < 0:
                return I32, struct.pack("<i", data)
            return (
                (U32, struct.pack("<I", data)) if data < 1 << 32 else (U64, struct.pack("<Q", data))
            )
        case float():
            return F32, struct.pack("<f", data)
        case str():
            text = data.encode(errors="surrogatepass")
            return STRING, struct.pack("<Q", len(text)) + text
    kinds = [value(one) for one in data] or [(U32, b"")]
    head = struct.pack("<IQ", kinds[0][0], len(data))
    return ARRAY, head + b"".join(content for _, content in kinds)


def gguf(file: Path, header: dict[str, Any], *, drop: int = 0) -> Path:
    """A file with this header and one tensor of four numbers, without the last bytes."""
    data = b"GGUF" + struct.pack("<IQQ", 3, 1, len(header))
    for name, one in header.items():
        kind, content = value(one)
        data += value(name)[1] + struct.pack("<I", kind) + content
    data += value("token_embd.weight")[1] + struct.pack("<IQQIQ", 2, 2, 2, 0, 0)
    data += bytes(-len(data) % 32) + struct.pack("<4f", *range(4))
    file.write_bytes(data[: len(data) - drop])
    return file


def read(file: Path) -> None:
    """All that the engine reads of a header before it starts llama.cpp."""
    from jupyter_sc2.engines.llamacpp.engine import _check_memory, _described
    from jupyter_sc2.models.cards import find_card

    header = GGUFHeader(file)
    card = _described(find_card(str(file)), header)
    assert 0 < card.window <= card.context
    _check_memory(header, card)
    assert isinstance(header.precision, str) and isinstance(header.licence, str)
    header.share_of(("F32",))
    assert len(header.bytes_of) == len(header.tokens)
    header.spelling  # noqa: B018


def test_the_header_as_it_is_can_be_read(tmp_path):
    pytest.importorskip("libgguf")
    read(gguf(tmp_path / "model.gguf", HEADER))


@pytest.mark.parametrize("key", HEADER)
def test_no_field_of_a_gguf_header_can_break_a_load(tmp_path, key):
    pytest.importorskip("libgguf")
    file = tmp_path / "model.gguf"
    for odd in ODD_GGUF:
        gguf(file, HEADER | {key: odd})
        try:
            checked(read, file)
        except Exception as error:
            raise AssertionError(f"{key} = {odd!r}"[:80]) from error
    checked(read, gguf(file, {name: one for name, one in HEADER.items() if name != key}))


def test_a_gguf_file_that_is_cut_anywhere_is_one_line(tmp_path):
    pytest.importorskip("libgguf")
    file = gguf(tmp_path / "model.gguf", HEADER)
    for size in range(0, file.stat().st_size, 7):
        os.truncate(gguf(file, HEADER), size)
        assert "Download or make it again" in (line := checked(read, file)) or "damaged" in line, (
            size
        )


@pytest.mark.slow
def test_a_gguf_header_with_any_byte_changed_is_one_line_or_read(tmp_path):
    pytest.importorskip("libgguf")
    file = gguf(tmp_path / "model.gguf", HEADER)
    data = file.read_bytes()
    for at in range(4, len(data) - 16, 3):
        for byte in (0xFF, 0x00, data[at] ^ 0x80):
            file.write_bytes(data[:at] + bytes([byte]) + data[at + 1 :])
            try:
                checked(read, file)
            except Exception as error:
                raise AssertionError(f"{at}: {byte}") from error

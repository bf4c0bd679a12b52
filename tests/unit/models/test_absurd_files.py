"""Files of a model that say absurd things are refused in one line, before anything is built of them."""

from __future__ import annotations

import json
import os
import struct
import sys
from pathlib import Path

import pytest

from jupyter_sc2.engines.decoding import tokenizer
from jupyter_sc2.engines.decoding.tokenizer import Tokenizer
from jupyter_sc2.engines.gguf.header import GGUFHeader
from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.models import files as model_files
from jupyter_sc2.runtime import bounded_read

CONFIG = {
    "model_type": "starcoder2",
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": None,
    "hidden_size": 64,
    "intermediate_size": [128, 256],
    "vocab_size": 400,
    "sliding_window": None,
    "mlp_only_layers": [],
    "time_step_limit": [0.0, float("inf")],
}


def refused(read, *arguments) -> str:
    with pytest.raises(ModelLoadError) as caught:
        read(*arguments)
    line = str(caught.value)
    assert len(line) < 300
    return line


def write(folder: Path, **changes) -> Path:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    return folder


# config.json


def test_a_config_as_they_are_is_read(tmp_path):
    assert model_files.read_config(write(tmp_path))["hidden_size"] == 64


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("num_hidden_layers", 1_000_000, "from 1 to 1,000, and is 1,000,000."),
        ("num_hidden_layers", -1, "and is -1."),
        ("num_hidden_layers", 0, "and is 0."),
        ("num_hidden_layers", "2", "and is '2'."),
        ("num_hidden_layers", True, "and is true."),
        ("num_hidden_layers", 2.5, "and is 2.5."),
        ("num_hidden_layers", float("nan"), "and is nan."),
        ("num_hidden_layers", float("inf"), "and is inf."),
        ("num_hidden_layers", {"a": 10**9}, "and is {'a': 1000000000}."),
        ("num_hidden_layers", [2, "x"], "and is [2, 'x']."),
        ("num_hidden_layers", 10**400, "and is 1000"),
        ("n_layer", 10**6, "n_layer has to be"),
        ("vocab_size", 10**9, "from 1 to 16,777,216, and is 1,000,000,000."),
        ("hidden_size", 10**7, "hidden_size has to be"),
        ("intermediate_size", [128, 10**7], "intermediate_size has to be"),
        ("num_attention_heads", 0, "num_attention_heads has to be"),
        ("num_key_value_heads", -4, "num_key_value_heads has to be"),
        ("head_dim", 1 << 40, "head_dim has to be"),
        ("max_position_embeddings", "16384", "max_position_embeddings has to be"),
        ("sliding_window", -1, "sliding_window has to be"),
        ("norm_epsilon", float("nan"), "norm_epsilon is no number (NaN)."),
        ("rope_theta", "x", "rope_theta has to be a number above 0, and is 'x'."),
        ("rope_parameters", {"rope_theta": -1}, "rope_theta has to be a number above 0"),
        ("text_config", {"inner": {"num_hidden_layers": 10**6}}, "and is 1,000,000."),
    ],
)
def test_a_config_with_an_absurd_size_is_refused(tmp_path, name, value, said):
    line = refused(model_files.read_config, write(tmp_path, **{name: value}))
    assert line.startswith(f"{tmp_path / 'config.json'} describes no model: ") and said in line


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"[" * 100_000, "it is nested too deep."),
        (b'{"model_type": ' + b'{"a":' * 100_000, "it is nested too deep."),
        (b'{"model_type": "\\ud800"}', "it has half of a surrogate pair."),
        (b'{"model_type": "\xff"}', "it is not UTF-8."),
        (b" " * (model_files.MAX_CONFIG_BYTES + 1), "it is larger than 17 MB."),
    ],
    ids=range(5),
)
def test_a_config_that_is_none_is_refused(tmp_path, data, said):
    (tmp_path / "config.json").write_bytes(data)
    assert refused(model_files.read_config, tmp_path).endswith(f"cannot be read: {said}")


def test_a_config_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    assert "it is no file" in refused(model_files.read_config, tmp_path)


def test_deep_nesting_is_refused_whatever_limit_the_user_has_set(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "getrecursionlimit", lambda: 10**9)
    parsed = []
    monkeypatch.setattr(bounded_read.json, "loads", parsed.append)
    (tmp_path / "config.json").write_bytes(b'{"a": "]]]", "b": ' + b"[" * 1001 + b"]" * 1001 + b"}")
    assert "it is nested too deep" in refused(model_files.read_config, tmp_path)
    assert parsed == []


def test_brackets_in_strings_are_no_nesting(monkeypatch):
    monkeypatch.setattr(sys, "getrecursionlimit", lambda: 10**9)
    data = json.dumps(["[" * 2000, '\\"[' * 2000, *([[]] * 2000)])
    assert bounded_read.parse_json(data.encode()) == json.loads(data)


def test_more_layers_than_tensors_are_refused(tmp_path):
    stored = {"a": model_files.Stored(tmp_path, (1,), "F32")}
    model_files.check_layers(1, stored, tmp_path)
    assert "describes 900 layers, and there are 1 tensors" in refused(
        model_files.check_layers, 900, stored, tmp_path
    )


# *.safetensors


def safetensors(folder: Path, header, data: bytes = bytes(16), length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = struct.pack("<Q", len(text) if length is None else length)
    (folder / "model.safetensors").write_bytes(size + text + data)
    return folder


def tensor(dtype="F32", shape=(2, 2), offsets=(0, 16)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_a_header_as_they_are_is_read(tmp_path):
    header = {"b": tensor(offsets=(16, 32)), "a": tensor(), "__metadata__": {"format": "pt"}}
    header["c"] = tensor("X9", (7,), (32, 48))  # of a later version
    found = model_files.read_headers(safetensors(tmp_path, header, bytes(48)))
    assert found.keys() == set("abc") and found["c"].shape == (7,)


@pytest.mark.parametrize(
    "header",
    [
        {"a": tensor(shape=(2, 3))},
        {"a": tensor(shape=(1 << 62, 1 << 62))},
        {"a": tensor(shape=(-2, -2))},
        {"a": tensor(shape=("2", 2))},
        {"a": tensor(shape=(2.0, 2))},
        {"a": tensor(shape=5)},
        {"a": tensor(offsets=(-16, 0))},
        {"a": tensor(offsets=(16, 0))},
        {"a": tensor(offsets=(0, 1 << 62))},
        {"a": tensor(offsets=(0, True))},
        {"a": tensor(offsets=(0, 16, 32))},
        {"a": tensor(offsets="x")},
        {"a": tensor(dtype=5)},
        {"a": tensor(), "b": tensor()},
        {"a": tensor("U8", (4,), (0, 4)), "b": tensor("U8", (4,), (12, 16))},
        {"a": []},
        [],
        b"[" * 100_000,
    ],
    ids=range(18),
)
def test_a_header_with_absurd_places_is_refused(tmp_path, header):
    line = refused(model_files.read_headers, safetensors(tmp_path, header))
    assert "is damaged (its header is not a safetensors header)" in line or "should have" in line


@pytest.mark.parametrize("length", [1 << 63, (1 << 64) - 1, 10**12])
def test_a_header_longer_than_the_file_is_refused(tmp_path, length):
    assert "its header is cut off" in refused(
        model_files.read_headers, safetensors(tmp_path, {}, length=length)
    )


def test_a_header_that_is_all_of_a_large_file_is_not_read(tmp_path):
    safetensors(tmp_path, b"{", length=1 << 40)
    os.truncate(tmp_path / "model.safetensors", (1 << 40) + 8)  # has holes: takes no room
    assert "its header has 1,099,511,627,776 bytes" in refused(model_files.read_headers, tmp_path)


@pytest.mark.parametrize(
    "name",
    ["../x.safetensors", "/x.safetensors", "a\\b", "nul", "a\0b", 5, None, [], {}],
    ids=ascii,
)
def test_a_shard_without_a_plain_name_is_refused(tmp_path, name):
    index = {"weight_map": {"a": name, "b": "model.safetensors"}}
    (tmp_path / model_files.INDEX).write_text(json.dumps(index))
    line = refused(model_files.read_headers, safetensors(tmp_path, {"a": tensor()}))
    assert "one of its 2 files of weights" in line


@pytest.mark.parametrize("text", ["[]", "{}", '{"weight_map": 5}', '{"weight_map": {"a": ', "[" * 9**5])  # fmt: skip
def test_an_index_that_is_none_is_refused(tmp_path, text):
    (tmp_path / model_files.INDEX).write_text(text)
    assert str(tmp_path / model_files.INDEX) in refused(model_files.read_headers, tmp_path)


# tokenizer.json


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"model": {"type": "BPE", "vocab": {"a": 4_000_000_000}, "merges": []}}, "4000000000"),
        ({"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}, "-1"),
        ({"model": {"type": "BPE", "vocab": {"a": "x"}, "merges": []}}, "'x'"),
        (
            {"model": {"vocab": {}}, "added_tokens": [{"content": "<a>", "id": 1 << 40}]},
            "1099511627776",
        ),
        ({"model": 5}, ""),
        ([], ""),
    ],
    ids=range(6),
)
def test_a_tokenizer_with_absurd_numbers_is_refused(tmp_path, spec, said):
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(spec))
    line = refused(Tokenizer, file)
    assert line.startswith(f"{file} cannot be read as a tokenizer: ") and said in line


def test_a_tokenizer_of_a_gigabyte_is_not_read(tmp_path):
    file = tmp_path / "tokenizer.json"
    file.write_bytes(b"{")
    os.truncate(file, 1 << 40)  # has holes: takes no room
    assert refused(Tokenizer, file).endswith("it is larger than 268 MB")
    assert tokenizer.MAX_FILE_BYTES < 1 << 30


@pytest.mark.parametrize("part", ["normalizer", "pre_tokenizer", "decoder"])
def test_a_tokenizer_that_is_nested_deep_is_refused(tmp_path, part):
    nested = {"type": "Sequence", "normalizers": [], "pretokenizers": [], "decoders": []}
    text = json.dumps(nested)
    for _ in range(300):
        text = json.dumps(nested).replace("[]", f"[{text}]", 1) if len(text) < 10**6 else text
    (tmp_path / "tokenizer.json").write_text(f'{{"model": {{"vocab": {{}}}}, "{part}": {text}}}')
    assert "cannot be read as a tokenizer" in refused(Tokenizer, tmp_path / "tokenizer.json")


# *.gguf


def text(data: str) -> bytes:
    return struct.pack("<Q", len(data)) + data.encode()


def gguf(folder: Path, data: bytes, *, tensors=0, entries=1, size: int | None = None) -> Path:
    file = folder / "model.gguf"
    file.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensors, entries) + data)
    if size is not None:
        os.truncate(file, size)  # has holes: takes no room
    return file


STRING, ARRAY, UINT8 = (struct.pack("<I", kind) for kind in (8, 9, 0))
HUGE = 1 << 40


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (b"", {"entries": 1 << 60}),
        (b"", {"entries": HUGE, "size": HUGE}),
        (b"", {"entries": 0, "tensors": HUGE, "size": HUGE}),
        (struct.pack("<Q", HUGE), {"size": 2 * HUGE}),
        (struct.pack("<Q", (1 << 64) - 1), {"size": HUGE}),
        (text("a") + STRING + struct.pack("<Q", HUGE), {"size": 2 * HUGE}),
        (text("a") + ARRAY + UINT8 + struct.pack("<Q", HUGE), {"size": 2 * HUGE}),
        (text("a") + ARRAY + STRING + struct.pack("<Q", HUGE), {"size": 2 * HUGE}),
        (text("a") + ARRAY + STRING + struct.pack("<QQ", 1, HUGE), {"size": 2 * HUGE}),
        (text("a") + ARRAY + ARRAY + struct.pack("<Q", 1), {"size": HUGE}),
        (struct.pack("<Q", HUGE), {"entries": 0, "tensors": 1, "size": 2 * HUGE}),
        (text("a") + struct.pack("<I", 1 << 31), {"entries": 0, "tensors": 1, "size": HUGE}),
        (text("a") + struct.pack("<I", 99), {"size": HUGE}),
        (text("a") + ARRAY + struct.pack("<IQ", 99, 1), {"size": HUGE}),
    ],
    ids=range(14),
)
def test_a_gguf_file_with_absurd_counts_is_refused(tmp_path, monkeypatch, data, options):
    libgguf = pytest.importorskip("libgguf")
    monkeypatch.setattr(libgguf, "read_gguf_header", lambda file: pytest.fail("was read"))
    file = gguf(tmp_path, data, **options)
    assert refused(GGUFHeader, file).startswith(f"{file} is damaged or not a GGUF file (")

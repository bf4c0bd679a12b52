"""GGUF files made of safetensors: llama.cpp computes with them what torch does with the originals."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from jupyter_sc2 import cli
from jupyter_sc2.models.cache_dir import cache_folder
from jupyter_sc2.models.plan import GGUF
from jupyter_sc2.runtime.child_process import Identity
from tests.support.tiny import make_tiny_model, make_tokenizer

torch = pytest.importorskip("torch")
for package in ("xllamacpp", "libgguf", "gguf"):
    pytest.importorskip(package)

import transformers  # noqa: E402

from jupyter_sc2.engines import load_engine  # noqa: E402
from jupyter_sc2.engines.gguf import locate as gguf_locate  # noqa: E402
from jupyter_sc2.engines.gguf import writer as gguf_writer  # noqa: E402
from jupyter_sc2.engines.gguf.header import GGUFHeader  # noqa: E402
from jupyter_sc2.engines.onnx.packing import pack  # noqa: E402
from jupyter_sc2.errors import ModelLoadError  # noqa: E402
from jupyter_sc2.models.cards import TRAINING_FILE, find_card  # noqa: E402
from jupyter_sc2.models.quant_mix import tensor_type  # noqa: E402
from jupyter_sc2.types import SamplingParams  # noqa: E402

PROMPT = [20 + 37 * i % 350 for i in range(40)]
ONE = SamplingParams(max_tokens=1)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_SC2_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Rows of 256 weights, as K-quants need."""
    return make_tiny_model(
        tmp_path_factory.mktemp("models") / "wide", hidden=256, intermediate=512, layers=4
    )


def never() -> bool:
    return False


def logprobs(engine, ids, size):
    """The distribution (V,) after `ids`, as the server tells it."""
    answer = engine._complete(ids, ONE, 0, [[engine.encode("x")[0], 1e6]], n=size)
    found = {e["id"]: e["logprob"] for e in answer["completion_probabilities"][0]["top_logprobs"]}
    return torch.tensor([found[id] for id in range(size)])


def reference(folder):
    engine = load_engine(str(folder), precision="fp32", threads=1)
    with torch.inference_mode():
        logits = engine._model(input_ids=torch.tensor([PROMPT]), use_cache=False).logits[0]
    engine.close()
    return torch.log_softmax(logits.float(), -1)


def divergence(folder, file, positions=(10, 20, 30, 40)) -> float:
    """Mean KL divergence from fp32 in torch to the file in llama.cpp, in nats."""
    expected = reference(folder)
    engine = load_engine(str(file))
    size = expected.shape[1]
    values = []
    for position in positions:
        wanted = expected[position - 1]
        got = logprobs(engine, PROMPT[:position], size)
        values.append(float((wanted.exp() * (wanted - got)).sum()))
    engine.close()
    return sum(values) / len(values)


# Architectures


def save(folder, config) -> None:
    """A random model of some architecture with a tokenizer of its own."""
    from safetensors.torch import save_file

    tokenizer = make_tokenizer()
    config.vocab_size = tokenizer.get_vocab_size()
    folder.mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
    tensors = {}
    for name, value in model.state_dict().items():
        if name != "lm_head.weight" or not config.tie_word_embeddings:
            tensors[name] = torch.empty_like(value).normal_(0.0, 0.15) + ("norm" in name)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(config.to_json_string(use_diff=False))
    tokenizer.save(str(folder / "tokenizer.json"))


SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


@pytest.mark.parametrize(
    "config",
    [
        transformers.Starcoder2Config(**SIZES, tie_word_embeddings=False),
        transformers.LlamaConfig(**SIZES, tie_word_embeddings=True, rope_theta=50000.0),
        transformers.GemmaConfig(**SIZES, head_dim=32),
        transformers.Qwen2Config(**SIZES, tie_word_embeddings=True),
    ],
    ids=lambda config: config.model_type,
)
def test_llama_cpp_computes_what_torch_does(tmp_path, config):
    folder = tmp_path / "model"
    save(folder, config)
    gguf_writer.write_gguf(folder, tmp_path / "model.gguf", "F16", name="model")
    assert abs(divergence(folder, tmp_path / "model.gguf")) < 1e-3


# Precisions


@pytest.mark.slow
def test_each_precision_is_read_by_llama_cpp_and_nearer_than_the_smaller_ones(wide, tmp_path):
    sizes, errors = [], []
    for precision in GGUF:
        file = tmp_path / f"{precision}.gguf"
        gguf_writer.write_gguf(wide, file, precision, name="wide")
        header = GGUFHeader(file)
        assert header.precision == precision
        sizes.append(header.weight_bytes)
        errors.append(abs(divergence(wide, file)))
    assert sizes == sorted(sizes, reverse=True)
    ordered = [error for name, error in zip(GGUF, errors, strict=True) if name != "Q4_0"]
    assert ordered == sorted(ordered)
    assert errors[0] < 1e-3 and errors[1] < 0.1


def test_a_packed_model_is_unpacked_on_the_way(wide, tmp_path):
    pack(wide, tmp_path / "packed")
    gguf_writer.write_gguf(tmp_path / "packed", tmp_path / "packed.gguf", "F16", name="packed")
    assert abs(divergence(tmp_path / "packed", tmp_path / "packed.gguf")) < 1e-3


@pytest.mark.parametrize("trained", [True, False])
def test_a_file_tells_whether_its_model_was_tuned_here(wide, tmp_path, trained):
    folder = tmp_path / "model"
    shutil.copytree(wide, folder)
    if trained:
        (folder / TRAINING_FILE).write_text("{}")
    gguf_writer.write_gguf(folder, tmp_path / "a.gguf", "F16", name="a")
    engine = load_engine(str(tmp_path / "a.gguf"))
    engine.close()
    assert engine.card.token_healing == trained


@pytest.mark.slow
def test_the_embedded_model_loses_next_to_nothing_in_q8_0(tmp_path):
    from jupyter_sc2.models.cards import EMBEDDED_FOLDER

    gguf_writer.write_gguf(EMBEDDED_FOLDER, tmp_path / "q8.gguf", "Q8_0", name="embedded")
    assert abs(divergence(EMBEDDED_FOLDER, tmp_path / "q8.gguf")) < 0.005


def test_mixtures_give_more_bits_where_errors_hurt_most():
    def kind(name, mixture="Q4_K_M", columns=3072, tied=True, group=12):
        return tensor_type(name, (128, columns), mixture, layers=30, group=group, tied=tied)

    assert kind("token_embd.weight") == kind("output.weight", tied=False) == "Q6_K"
    assert kind("token_embd.weight", tied=False) == "Q4_K"
    assert [kind(f"blk.{layer}.ffn_down.weight") for layer in (0, 3, 5, 28)] == [
        "Q6_K", "Q4_K", "Q6_K", "Q6_K",
    ]  # fmt: skip
    assert kind("blk.9.attn_q.weight") == kind("blk.9.ffn_up.weight") == "Q4_K"
    assert kind("blk.1.attn_v.weight", "Q3_K_M") == "Q5_K"
    assert kind("blk.9.attn_v.weight", "Q2_K") == "Q4_K"
    assert kind("blk.9.attn_v.weight", "Q2_K", group=2) == "Q3_K"
    # Rows that are no multiple of 256, or of 32.
    assert kind("blk.9.ffn_up.weight", columns=320) == "Q5_0"
    assert kind("token_embd.weight", columns=320) == "Q8_0"
    assert kind("blk.9.ffn_up.weight", columns=100) == "F16"
    assert tensor_type("blk.0.attn_q.bias", (64,), "Q2_K", layers=1, group=1, tied=True) == "F32"


# Files


def test_a_file_that_is_made_for_loading_is_found_again(wide, cache):
    engine = load_engine(str(wide), engine="llamacpp", precision="Q8_0")
    engine.close()
    (file,) = cache.rglob("*.gguf")
    made = file.stat().st_mtime_ns
    load_engine(str(wide), precision="Q8_0").close()
    assert file.stat().st_mtime_ns == made and cache_folder() == cache


def test_other_weights_in_the_same_folder_are_made_anew(tmp_path, cache):
    folder = make_tiny_model(tmp_path / "model")
    load_engine(str(folder), engine="llamacpp").close()
    (first,) = cache.rglob("*.gguf")
    make_tiny_model(folder, seed=1, layers=3)
    load_engine(str(folder), engine="llamacpp").close()
    (second,) = cache.rglob("*.gguf")  # the old one is gone
    assert second != first


def zero_a_quarter(file):
    size = file.stat().st_size
    with file.open("r+b") as stream:
        stream.seek(size // 2)
        stream.write(bytes(size // 4))


def flip_bits_unseen(file):
    """As a disk does it: the size and the time of the last change are the same."""
    data, status = bytearray(file.read_bytes()), file.stat()
    for at in range(len(data) // 2, len(data), len(data) // 400):
        data[at] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def damage_the_header(file):
    with file.open("r+b") as stream:
        stream.write(b"GGUX")


def empty(file):
    os.truncate(file, 0)


def cut_off(file):
    os.truncate(file, file.stat().st_size // 2)


def damage_the_note(file):
    file.with_name(file.name + ".json").write_text("{")


@pytest.mark.parametrize(
    "damage",
    [zero_a_quarter, flip_bits_unseen, damage_the_header, empty, cut_off, damage_the_note],
    ids=lambda damage: damage.__name__,
)
def test_a_damaged_file_that_was_made_here_is_made_again(wide, cache, damage):
    load_engine(str(wide), engine="llamacpp", precision="Q8_0").close()
    (file,) = cache.rglob("*.gguf")
    sound = file.read_bytes()
    damage(file)
    engine = load_engine(str(wide), precision="Q8_0")
    engine.close()
    assert file.read_bytes() == sound
    assert engine.notice == (
        "The stored GGUF file of wide in Q8_0 was damaged, or not made by this version, and was replaced."
    )
    engine = load_engine(str(wide), precision="Q8_0")
    engine.close()
    assert engine.notice == ""


def test_another_file_in_its_place_is_renamed(wide, cache, capsys):
    file = gguf_locate.place(find_card(str(wide)), wide, "Q8_0")
    file.parent.mkdir(parents=True)
    file.write_bytes(b"somebody's")
    assert quantize(capsys, wide, "--to", "Q8_0")[0] == 0
    assert file.with_name(file.name + ".aside").read_bytes() == b"somebody's"
    load_engine(str(wide), precision="Q8_0").close()


def test_a_damaged_file_whose_original_is_gone_is_named_with_what_to_do(wide, cache):
    file = gguf_locate.place(find_card("owner/name"), wide, "Q8_0")
    file.parent.mkdir(parents=True)
    file.write_bytes(b"GGUF")
    with pytest.raises(ModelLoadError, match="is damaged, and cannot be made again: owner/name is"):
        load_engine("owner/name", engine="llamacpp", precision="Q8_0", offline=True)
    assert file.read_bytes() == b"GGUF"


def test_the_file_of_a_hub_model_carries_its_id(wide):
    assert gguf_locate.place(find_card("owner/name"), wide, "Q4_K_M").name == (
        "owner--name-Q4_K_M.gguf"
    )


def test_what_is_not_finished_is_never_seen_and_tidied_up(wide, tmp_path):
    file = tmp_path / "made" / "model.gguf"

    def stop(share):
        assert not file.exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gguf_writer.write_gguf(wide, file, "Q8_0", name="wide", progress=stop)
    assert list(file.parent.iterdir()) == []
    gone = replace(Identity.of(os.getpid()), pid=dead_process())
    for name in (f".{gone.name}.0a1b", f".{file.name}.12.part"):  # the latter by an earlier version
        file.with_name(name).write_bytes(b"cut")
        os.utime(file.with_name(name), (1, 1))
    gguf_writer.write_gguf(wide, file, "Q8_0", name="wide")
    assert list(file.parent.iterdir()) == [file]


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_cannot_be_converted_is_refused_in_one_line(tmp_path):
    def refused(words, **changes):
        config = {**json.loads((folder / "config.json").read_text()), **changes}
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelLoadError, match=words):
            gguf_writer.write_gguf(folder, tmp_path / "x.gguf", "F16", name="x")

    folder = make_tiny_model(tmp_path / "model")
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    refused("has a model of type 'gpt2'", model_type="gpt2")
    refused("claims 9,999,999 tokens, but no tensor", model_type="starcoder2", vocab_size=9_999_999)
    refused("describes 900 layers, and there are", vocab_size=size, num_hidden_layers=900)
    refused("tokens and the model 100", num_hidden_layers=2, vocab_size=100)
    spec = json.loads((folder / "tokenizer.json").read_text())
    spec["pre_tokenizer"] = {"type": "Whitespace"}
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    refused("llama.cpp has no name for", vocab_size=size)


# The command


def quantize(capsys, *words) -> tuple[int, str, str]:
    code = cli.main(["quantize", *map(str, words)])
    return code, *capsys.readouterr()


def test_quantize_makes_the_file_that_loading_finds(wide, cache, capsys):
    code, out, err = quantize(capsys, wide, "--to", "Q4_K_M", "--json")
    made = json.loads(out)
    assert (code, err) == (0, "")
    assert made["precision"] == "Q4_K_M" and made["bytes"] == os.path.getsize(made["path"])
    assert made["path"] == str(gguf_locate.place(find_card(str(wide)), wide, "Q4_K_M"))


def test_quantize_writes_to_the_given_path(wide, tmp_path, capsys):
    file = tmp_path / "here.gguf"
    code, out, _ = quantize(capsys, wide, "--to", "Q8_0", "--output", file)
    assert code == 0 and str(file) in out and GGUFHeader(file).precision == "Q8_0"


def test_quantize_refuses_what_is_quantized_already(wide, tmp_path, capsys):
    file = tmp_path / "one.gguf"
    gguf_writer.write_gguf(wide, file, "Q8_0", name="wide")
    code, out, err = quantize(capsys, file, "--to", "Q4_K_M")
    assert (code, out) == (1, "") and "give the original weights" in err
    assert err.count("\n") == 1


def test_numbers_stay_finite(wide, tmp_path):
    file = tmp_path / "model.gguf"
    gguf_writer.write_gguf(wide, file, "Q2_K", name="wide")
    engine = load_engine(str(file))
    tokens = list(engine.generate(PROMPT, SamplingParams(max_tokens=4), (), never))
    assert all(math.isfinite(token.logprob) for token in tokens)
    engine.close()

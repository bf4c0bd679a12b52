"""Quantized layers, and the files that keep them: made once, never half, never stale."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.tiny import make_tiny_model

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("bitsandbytes")

from filelock import FileLock  # noqa: E402
from safetensors import safe_open  # noqa: E402

from jupyter_sc2.engines import load_engine  # noqa: E402
from jupyter_sc2.engines.torch import bnb_linear, model_builder, quantized_cache  # noqa: E402
from jupyter_sc2.errors import ModelLoadError  # noqa: E402

PRECISIONS = ("8bit", "int4", "4bit", "4bit-double")
IDS = list(range(20, 80))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return make_tiny_model(
        tmp_path_factory.mktemp("models") / "tiny", hidden=256, intermediate=1024
    )


@pytest.fixture
def folder(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "tiny"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache in which small models are kept too."""
    monkeypatch.setenv("JUPYTER_SC2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(quantized_cache, "MIN_MODEL_PARAMS", 0)
    monkeypatch.setattr(quantized_cache, "SPARE_DISK_BYTES", 0)
    return tmp_path / "cache" / "quantized"


@pytest.fixture
def quantizations(monkeypatch):
    """One entry for each time that a source is read."""
    calls = []

    def stream_weights(*arguments):
        calls.append(arguments[0].precision)
        return model_builder.stream_weights(*arguments)

    monkeypatch.setattr(quantized_cache, "stream_weights", stream_weights)
    return calls


def logits(engine):
    engine.prefill(IDS, lambda: False)
    return torch.from_numpy(engine._logits)


def manifest(cache):
    (file,) = cache.glob("*/manifest.json")
    return file, json.loads(file.read_text())


# Keeping


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_second_load_quantizes_nothing_and_computes_the_same(
    folder, cache, quantizations, precision, monkeypatch
):
    def load():
        return load_engine(str(folder), engine="transformers", precision=precision)

    first, second = logits(load()), load()
    assert torch.equal(logits(second), first) and second.notice == ""
    assert quantizations == [precision]
    monkeypatch.setattr(quantized_cache, "MIN_MODEL_PARAMS", 1 << 40)
    assert torch.equal(logits(load()), first)


def test_each_precision_has_its_own_file_and_double_quantization_a_smaller_one(folder, cache):
    sizes = {}
    for precision in PRECISIONS:
        place = quantized_cache.make(folder, precision, lambda state, share: None)
        assert {file.suffix for file in place.iterdir()} == {".json", ".safetensors"}
        sizes[precision] = json.loads((place / "manifest.json").read_text())["size"]
    assert len(list(cache.glob("*/manifest.json"))) == len(PRECISIONS)
    assert sizes["8bit"] > sizes["4bit"] > sizes["4bit-double"]
    assert sizes["8bit"] > sizes["int4"]


def test_small_models_are_not_stored(folder, cache, monkeypatch):
    monkeypatch.setattr(quantized_cache, "MIN_MODEL_PARAMS", 200_000_000)
    load_engine(str(folder), precision="4bit")
    assert not cache.exists()


def touch(folder):
    os.utime(folder / "model.safetensors", ns=(1, 1))


def change_config(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "norm_epsilon": 1e-4}))


@pytest.mark.parametrize("change", [touch, change_config], ids=["weights", "config"])
def test_a_changed_source_is_quantized_again_in_place_of_the_old(
    folder, cache, quantizations, change
):
    load_engine(str(folder), precision="4bit")
    change(folder)
    load_engine(str(folder), precision="4bit")
    assert quantizations == ["4bit"] * 2
    assert len(list(cache.glob("*/*.safetensors"))) == 1


@pytest.mark.parametrize("key", ["format", "bitsandbytes", "dtype", "size"])
def test_what_another_version_has_made_is_made_again(folder, cache, quantizations, key):
    load_engine(str(folder), precision="4bit")
    file, made = manifest(cache)
    file.write_text(json.dumps({**made, key: 0}))
    load_engine(str(folder), precision="4bit")
    assert quantizations == ["4bit"] * 2 and manifest(cache)[1][key] == made[key]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"file": 1}'])
def test_an_unreadable_manifest_is_no_error(folder, cache, quantizations, text):
    load_engine(str(folder), precision="4bit")
    manifest(cache)[0].write_text(text)
    load_engine(str(folder), precision="4bit")
    assert quantizations == ["4bit"] * 2


def test_a_later_commit_of_a_hub_model_takes_the_place_of_an_earlier_one(
    original, tmp_path, cache, quantizations
):
    for commit in ("a" * 40, "b" * 40):
        snapshot = tmp_path / "hub" / "models--owner--name" / "snapshots" / commit
        shutil.copytree(original, snapshot)
        os.utime(snapshot / "model.safetensors", ns=(1, 1 + len(quantizations)))
        quantized_cache.make(snapshot, "4bit", lambda state, share: None)
    assert quantizations == ["4bit"] * 2
    (place,) = (file.parent for file in cache.glob("*/manifest.json"))
    assert place.name.startswith("owner--name-4bit-")


def test_who_gives_up_leaves_nothing_behind(folder, cache, quantizations):
    class GivenUp(Exception):
        pass

    def give_up(state, share):
        if share is not None and share > 0.5:
            raise GivenUp

    with pytest.raises(GivenUp):
        load_engine(str(folder), precision="4bit", progress=give_up)
    assert list(cache.glob("*/*")) == []
    load_engine(str(folder), precision="4bit")
    assert quantizations == ["4bit"] * 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_what_a_killed_process_leaves_is_not_loaded_and_goes_away(folder, cache, quantizations):
    code = f"""
import os, signal
from jupyter_sc2.engines import load_engine
from jupyter_sc2.engines.torch import quantized_cache as quantized

def kill(state, share):
    if share is not None and share > 0.5:
        os.kill(os.getpid(), signal.SIGKILL)

quantized.MIN_MODEL_PARAMS = quantized.SPARE_DISK_BYTES = 0
load_engine({str(folder)!r}, precision="4bit", progress=kill)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    (half,) = cache.glob("*/*")
    assert half.suffix == ".safetensors"
    engine = load_engine(str(folder), precision="4bit")
    assert quantizations == ["4bit"] and not half.exists()
    assert torch.isfinite(logits(engine)).all()


def test_without_room_on_the_disk_it_works_and_says_why_it_is_slow(folder, cache, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10, 10, 0))
    engine = load_engine(str(folder), precision="4bit")
    assert engine.notice.startswith(
        "Quantizing again at each load, since the result cannot be kept: it takes "
    )
    assert torch.isfinite(logits(engine)).all() and list(cache.glob("*/*")) == []
    with pytest.raises(ModelLoadError, match=r"cannot be written: it takes"):
        quantized_cache.make(folder, "4bit", lambda state, share: None)


def test_a_disk_that_fills_up_meanwhile_is_no_error_either(folder, cache, monkeypatch):
    def full(self, name, tensor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(quantized_cache._Writer, "add", full)
    engine = load_engine(str(folder), precision="4bit")
    assert "cannot be kept: No space left on device." in engine.notice
    assert list(cache.glob("*/*")) == []


def test_a_cache_that_is_no_folder_is_no_error(folder, cache):
    cache.parent.write_text("a file")
    assert "cannot be kept: Not a directory" in load_engine(str(folder), precision="4bit").notice


def test_a_second_kernel_waits_for_the_first_and_takes_what_that_has_made(
    folder, cache, quantizations
):
    place = quantized_cache.make(folder, "4bit", lambda state, share: None)
    lock = FileLock(place.with_name(place.name + ".lock"))
    lock.acquire()
    file, made = manifest(cache)
    file.unlink()
    asked = []

    def release(state, share):
        asked.append(share)
        file.write_text(json.dumps(made))
        lock.release()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileLock, "acquire", _in_a_breath(FileLock.acquire))
        engine = load_engine(str(folder), precision="4bit", progress=release)
    assert asked == [None] and quantizations == ["4bit"]
    assert torch.isfinite(logits(engine)).all()


def test_on_a_disk_without_locks_the_weights_are_kept_all_the_same(
    folder, cache, quantizations, monkeypatch
):
    def refuse(self, **_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    assert load_engine(str(folder), precision="4bit").notice == ""
    load_engine(str(folder), precision="4bit")
    assert quantizations == ["4bit"]


def _in_a_breath(acquire):
    return lambda self, timeout: acquire(self, timeout=0.01)


def test_stored_tensors_are_aligned_and_mapped(folder, cache):
    place = quantized_cache.make(folder, "4bit", lambda state, share: None)
    (file,) = place.glob("*.safetensors")
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    assert (8 + length) % 4096 == 0
    assert all(entry["data_offsets"][0] % 64 == 0 for entry in header.values())
    with safe_open(file, framework="pt") as opened:  # the library finds it sound
        assert opened.get_tensor("model.layers.0.mlp.c_fc.weight").shape == (1024, 128)


def test_only_precisions_with_fewer_bits_can_be_made(folder, cache):
    with pytest.raises(ModelLoadError, match="bf16 is not a precision to quantize to"):
        quantized_cache.make(folder, "bf16", lambda state, share: None)


# Damage


def weights_of(cache):
    (file,) = cache.glob("*/*.safetensors")
    return file


def change(file, at, bytes):
    with file.open("r+b") as stream:
        stream.seek(at)
        stream.write(bytes)


def flip_bits(cache):
    file = weights_of(cache)
    data = bytearray(file.read_bytes())
    spread = random.Random(0)
    for _ in range(200):
        data[spread.randrange(len(data) // 2, len(data))] ^= 1 << spread.randrange(8)
    file.write_bytes(data)


def flip_one_bit_unseen(cache):
    """As a disk does it: the size and the time of the last change are the same."""
    file = weights_of(cache)
    status = file.stat()
    change(file, status.st_size - 999, bytes([file.read_bytes()[-999] ^ 4]))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def zero_a_quarter(cache):
    file = weights_of(cache)
    size = file.stat().st_size
    change(file, size // 2, bytes(size // 4))


def damage_the_header(cache):
    change(weights_of(cache), 8, b"}" * 40)


def cut_off(cache):
    os.truncate(weights_of(cache), weights_of(cache).stat().st_size // 2)


def empty(cache):
    os.truncate(weights_of(cache), 0)


def take_away(cache):
    weights_of(cache).unlink()


def put_anothers_there(cache):
    file = weights_of(cache)
    file.write_bytes(os.urandom(file.stat().st_size))


def make_it_a_folder(cache):
    file = weights_of(cache)
    file.unlink()
    file.mkdir()


def forget_the_checksum(cache):
    file, made = manifest(cache)
    del made["crc32"]
    file.write_text(json.dumps(made))


def name_a_file_elsewhere(cache):
    file, made = manifest(cache)
    elsewhere = Path(shutil.copy(weights_of(cache), cache.parent / "x.safetensors"))
    file.write_text(json.dumps({**made, "file": f"../../{elsewhere.name}"}))


def name_a_file_by_its_path(cache):
    file, made = manifest(cache)
    file.write_text(json.dumps({**made, "file": str(weights_of(cache).absolute())}))


def nest_the_manifest(cache):
    manifest(cache)[0].write_text("[" * 100_000)


def make_the_manifest_a_folder(cache):
    file, _ = manifest(cache)
    file.unlink()
    file.mkdir()


DAMAGES = (
    *(flip_bits, flip_one_bit_unseen, zero_a_quarter, damage_the_header, cut_off, empty, take_away),
    *(put_anothers_there, make_it_a_folder, forget_the_checksum, name_a_file_elsewhere),
    *(name_a_file_by_its_path, nest_the_manifest, make_the_manifest_a_folder),
)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_what_is_damaged_is_made_again_and_said_in_one_line(folder, cache, quantizations, damage):
    sound = logits(load_engine(str(folder), precision="4bit"))
    damage(cache)
    engine = load_engine(str(folder), precision="4bit")
    assert torch.equal(logits(engine), sound)
    assert engine.notice == "The kept weights in 4bit were damaged, and were made again."
    assert quantizations == ["4bit"] * 2
    assert load_engine(str(folder), precision="4bit").notice == ""
    assert quantizations == ["4bit"] * 2


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_what_cannot_be_read_is_made_again(folder, cache, quantizations):
    load_engine(str(folder), precision="4bit")
    weights_of(cache).chmod(0)
    assert "made again" in load_engine(str(folder), precision="4bit").notice


def test_quantizing_again_mends_what_is_damaged(folder, cache, quantizations):
    quantized_cache.make(folder, "8bit", lambda state, share: None)
    zero_a_quarter(cache)
    quantized_cache.make(folder, "8bit", lambda state, share: None)
    assert quantizations == ["8bit"] * 2


def test_a_file_in_the_place_of_the_folder_is_renamed(folder, cache):
    place = quantized_cache.make(folder, "4bit", lambda state, share: None)
    shutil.rmtree(place)
    place.write_text("somebody's")
    assert load_engine(str(folder), precision="4bit").notice == ""
    assert place.with_name(place.name + ".aside").read_text() == "somebody's"


# Layers


def need_the_kernel():
    if not bnb_linear.bitsandbytes().functional.has_avx512bf16():
        pytest.skip("this CPU has no AVX512-BF16")


@pytest.fixture
def tiled_layer():
    need_the_kernel()
    plain = torch.nn.Linear(256, 96, dtype=torch.bfloat16)
    layer = bnb_linear.TiledNF4Linear(plain, compressed=False)
    for name, tensor in layer.quantize(plain.weight.detach()).items():
        setattr(layer, name, tensor)
    layer.finalize()
    return plain, layer


def test_tiles_are_the_rows_in_another_order():
    rows = torch.randint(0, 256, (64, 96), dtype=torch.uint8)
    assert not torch.equal(bnb_linear.tile(rows), rows)
    weights = torch.stack([rows >> 4, rows & 15], dim=-1).view(64, 192)
    back = bnb_linear.untile(bnb_linear.tile(rows))
    halves = torch.stack([back >> 4, back & 15], dim=-1).view(64, 3, 32, 2)
    assert torch.equal(halves.transpose(2, 3).reshape(64, 192), weights)


def test_the_kernel_of_this_bitsandbytes_reads_our_tiles():
    need_the_kernel()
    assert bnb_linear.reads_tiles()


def test_a_kernel_that_reads_another_order_is_not_used(monkeypatch):
    need_the_kernel()
    monkeypatch.setattr(bnb_linear, "untile", lambda tiled: tiled)
    assert not bnb_linear.reads_tiles.__wrapped__()


def test_few_and_many_tokens_are_multiplied_by_the_same_weights(tiled_layer, monkeypatch):
    plain, layer = tiled_layer
    monkeypatch.setattr(bnb_linear, "DEQUANTIZED_ROWS", 256 * 32)
    x = torch.randn(2, 50, 256, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    with torch.inference_mode():
        few = torch.cat([layer(x[:1]), layer(x[1:])])
        many = layer(x)
        exact = plain(x)
    assert torch.allclose(few, many, rtol=0.02, atol=0.02)
    error = (many - exact).float().norm() / exact.float().norm()
    assert 0.02 < error < 0.15  # 4 bits lose about a tenth, whichever way


def test_quantized_layers_are_those_of_bitsandbytes(original):
    import bitsandbytes as bnb

    plain = torch.nn.Linear(128, 64)
    x = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))
    theirs = bnb.nn.Linear4bit(128, 64, quant_type="nf4", compress_statistics=True)
    theirs.load_state_dict(plain.state_dict())
    theirs = theirs.to("cpu").train()  # in this mode it keeps its rows as they are
    ours = bnb_linear.NF4Linear(plain, compressed=True)
    for name, tensor in ours.quantize(plain.weight.detach()).items():
        setattr(ours, name, tensor)
    ours.finalize()
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), atol=1e-5)


def test_a_cpu_without_the_kernel_computes_nearly_the_same(original, monkeypatch, cache):
    need_the_kernel()
    tokens = {}
    for tiles in (True, False):
        monkeypatch.setattr(model_builder, "reads_tiles", lambda tiles=tiles: tiles)
        tokens[tiles] = logits(load_engine(str(original), precision="4bit"))
    assert len(list(cache.glob("*/manifest.json"))) == 2
    difference = (tokens[True] - tokens[False]).norm() / tokens[True].norm()
    assert difference < 0.05

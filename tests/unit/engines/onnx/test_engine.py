"""The engine on ONNX Runtime: the same as torch says, what is cached, searched and refused."""

import errno
import math
import os
import re
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from jupyter_sc2.engines import choose_engine, load_engine
from jupyter_sc2.engines.decoding.beam_search import Hypothesis
from jupyter_sc2.engines.onnx import engine as onnx_engine
from jupyter_sc2.engines.onnx import prepacked
from jupyter_sc2.errors import GenerationError, ModelLoadError
from jupyter_sc2.types import SamplingParams, SpellingConstraint, Token
from tests.support.beams import beam_width
from tests.support.damage import flip_a_bit
from tests.support.paths import SMALL_MODEL

MODEL = SMALL_MODEL
GREEDY = SamplingParams(max_tokens=8)
TEXT = (
    "import numpy as np\nimport pandas as pd\n\ndf = pd.read_csv('sales.csv')\n"
    "total = df['amount'].sum()\nfor index, row in df.iterrows():\n    print(index, row)\n"
)
# Activations are rounded to 8 bits, and that differs a little from pass to pass.
NOISE = 0.25


def never() -> bool:
    return False


@pytest.fixture(scope="module")
def shared():
    engine = load_engine(str(MODEL), threads=2)
    yield engine
    engine.close()


@pytest.fixture
def engine(shared):
    shared._forget()
    shared.chunk = onnx_engine.CHUNK_TOKENS
    with beam_width(shared, 1):
        yield shared


@pytest.fixture
def prompt(engine):
    return engine.encode(TEXT)[:54]


def logits_after(engine, ids):
    """The logits (V,) after these ids, read anew."""
    engine._forget()
    engine.prefill(ids, never)
    return engine._logits[-1].copy()


def test_one_thread_goes_on_where_two_have_read(engine, prompt, monkeypatch):
    after_both = logits_after(engine, prompt)
    monkeypatch.setattr(prepacked, "is_stored", lambda runtime, folder: True)
    wide = engine._decoding[2]
    engine._forget()
    engine.prefill(prompt[:30], never)
    engine.use_threads(1)
    narrow = engine._decoding[1]
    assert engine.prefill(prompt, never) == len(prompt) - 30
    engine.use_threads(2)
    options = (narrow.session.get_session_options(), wide.session.get_session_options())
    assert [one.intra_op_num_threads for one in options] == [1, 2]
    assert engine._used == 2
    assert np.abs(engine._logits[-1] - after_both).max() < NOISE


def test_where_no_weights_are_shared_there_is_one_session():
    engine = load_engine(str(MODEL), threads=2)
    engine.use_threads(1)
    assert list(engine._decoding) == [engine._used] == [2]
    engine.close()


def test_a_closed_engine_leaves_no_session_behind():
    engine = load_engine(str(MODEL), threads=2)
    session = weakref.ref(engine._decoding[2].session)
    engine.close()
    assert session() is None


def ids_of(tokens: list[Token]) -> list[int]:
    return [token.id for token in tokens]


# The same as torch


@pytest.mark.parametrize("text", [TEXT, "x", "def mean(values):\n    return sum(values) / "])
def test_it_says_what_torch_says_of_the_same_weights(engine, text):
    pytest.importorskip("torch")
    ids = engine.encode(text)
    reference = load_engine(str(MODEL), engine="transformers", precision="fp32")
    expected = logits_after(reference, ids)
    reference.close()
    assert np.abs(logits_after(engine, ids) - expected).max() < NOISE


@pytest.mark.parametrize("window", [None, 16])
def test_layers_look_no_further_back_than_their_window(tmp_path, window):
    pytest.importorskip("torch")
    from jupyter_sc2.engines.onnx.graph import write_graph
    from jupyter_sc2.engines.onnx.packing import pack
    from tests.support.tiny import make_tiny_model

    make_tiny_model(tmp_path / "tiny", sliding_window=window)
    pack(tmp_path / "tiny", tmp_path / "packed")
    write_graph(tmp_path / "packed")
    ids = [20 + 7 * n % 300 for n in range(50)]
    found = logits_after(load_engine(str(tmp_path / "packed")), ids)
    reference = load_engine(str(tmp_path / "packed"), engine="transformers", precision="fp32")
    expected = logits_after(reference, ids)
    assert np.corrcoef(found, expected)[0, 1] > 0.999


# The KV cache


def test_only_what_is_new_of_a_prompt_is_read(engine, prompt):
    assert engine.prefill(prompt, never) == 54
    assert engine.prefill([*prompt[:50], 7, 8], never) == 2
    found = engine._logits[-1].copy()
    expected = logits_after(engine, [*prompt[:50], 7, 8])
    assert np.abs(found - expected).max() < NOISE


def test_the_same_prompt_is_not_read_again(engine, prompt):
    engine.prefill(prompt, never)
    assert engine.prefill(prompt, never) == 0


def test_what_was_decoded_is_not_read_again_when_it_is_accepted(engine, prompt):
    tokens = ids_of(list(engine.generate(prompt, GREEDY, (), never)))
    assert engine.prefill([*prompt, *tokens, 5], never) == 2


def test_a_prompt_that_was_left_for_another_is_taken_up_again(engine):
    first, second = engine.encode(TEXT), engine.encode("x = 1\n" * 40)
    expected = logits_after(engine, [*first, 5])
    engine._forget()
    engine.prefill(first, never)
    engine.prefill(second, never)
    assert engine.prefill([*first, 5], never) == 1
    assert np.abs(engine._logits[-1] - expected).max() < NOISE


def test_a_cache_that_grows_keeps_what_it_holds(engine, prompt, monkeypatch):
    monkeypatch.setattr(onnx_engine, "BLOCK_TOKENS", 16)
    cache = onnx_engine.KeysAndValues(5, 2, 80)
    monkeypatch.setattr(engine, "_cache", cache)
    found = logits_after(engine, prompt)
    assert cache.array.shape[2] == 64
    monkeypatch.undo()
    assert np.abs(found - logits_after(engine, prompt)).max() < NOISE


def test_room_that_nothing_was_written_to_takes_no_memory():
    psutil = pytest.importorskip("psutil")
    before = psutil.Process().memory_info().rss
    array = onnx_engine.zeros((56, 3, 16384, 64))  # 700 MB
    array[:, :, :4] = 1
    assert psutil.Process().memory_info().rss - before < 20 << 20


# Prefill and cancelling


def test_a_cancelled_prefill_keeps_whole_chunks(engine, prompt):
    engine.chunk = 20
    asked = []
    assert engine.prefill(prompt, lambda: asked.append(1) or len(asked) > 2) == 40
    assert engine._cache.ids == prompt[:40]
    assert engine.prefill(prompt, never) == 14


def test_a_cancelled_decode_ends_at_the_next_token(engine, prompt):
    tokens = []
    for token in engine.generate(prompt, GREEDY, (), lambda: len(tokens) >= 3):
        tokens.append(token)
    assert len(tokens) == 3


# Drafts and hypotheses


def test_correct_drafts_save_passes(engine, prompt):
    expected = ids_of(list(engine.generate(prompt, GREEDY, (), never)))
    engine.prefill(prompt, never)
    lengths = passes(engine)
    tokens = list(
        engine.generate(prompt, GREEDY, (), never, draft=lambda drawn: expected[len(drawn) :])
    )
    assert ids_of(tokens) == expected
    assert lengths == [4, 3]


def test_hypotheses_in_one_pass_see_their_own_tokens_only(engine, prompt):
    engine.prefill(prompt, never)
    hypotheses = [Hypothesis(None, tokens=(Token(id, 0.0),)) for id in (20, 30, 40)]
    engine._pass([20, 30, 40], None, hypotheses=hypotheses)
    hypotheses = [
        way.with_position(len(prompt) + row).extend(Token(50 + row, 0.0), b"", finished=False)
        for row, way in enumerate(hypotheses)
    ]
    engine._pass([52, 50], None, hypotheses=[hypotheses[2], hypotheses[0]])
    together = engine._logits.copy()
    for row, ids in enumerate(([40, 52], [20, 50])):
        alone = logits_after(engine, [*prompt, *ids])
        assert np.abs(together[row] - alone).max() < NOISE


def test_the_chosen_hypothesis_is_in_the_cache_as_if_it_had_been_the_only_one(engine, prompt):
    engine.prefill(prompt, never)
    hypotheses = [Hypothesis(None, tokens=(Token(id, 0.0),)) for id in (20, 30, 40)]
    engine._pass([20, 30, 40], None, hypotheses=hypotheses)
    engine._cache.select((len(prompt) + 2,), [40])
    engine._forward([60])
    found = engine._logits[-1].copy()
    assert engine._cache.ids == [*prompt, 40, 60]
    assert np.abs(found - logits_after(engine, [*prompt, 40, 60])).max() < NOISE


def test_a_search_finds_a_line_that_is_at_least_as_likely(engine):
    prompt = engine.encode("import numpy as np\nimport pandas as pd\n\ndf = pd.")
    stop = {engine.encode("\n")[0]}
    alone = list(engine.generate(prompt, SamplingParams(max_tokens=12), stop, never))
    with beam_width(engine, 4):
        best = list(engine.generate(prompt, SamplingParams(max_tokens=12), stop, never))

    def score(tokens):  # with the reward for each token, see search.py
        return sum(token.logprob + 0.15 for token in tokens)

    assert score(best) >= score(alone) - 0.1


def test_the_first_tokens_spell_what_was_cut_from_the_prompt(engine):
    prompt = engine.encode("import numpy as np\nimport pan")[:-1]
    tokens = list(engine.generate(prompt, GREEDY, (), never, SpellingConstraint((b"pan",))))
    assert engine.decode_bytes(ids_of(tokens)).startswith(b"pan")
    assert tokens[0].constrained_logprob is not None


def passes(engine) -> list[int]:
    """The number of tokens of each forward pass from now on."""
    lengths: list[int] = []
    compute = type(engine)._pass

    def noted(ids, *args, **options):
        lengths.append(len(ids))
        return compute(engine, ids, *args, **options)

    engine._pass = noted
    return lengths


# What it leaves alone, and what it refuses


def test_neither_torch_nor_transformers_is_imported():
    code = (
        "import sys; from jupyter_sc2.engines import load_engine\n"
        f"engine = load_engine({str(MODEL)!r})\n"
        "engine.prefill(engine.encode('import '), lambda: False)\n"
        "print(sorted({'torch', 'transformers', 'huggingface_hub', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_a_closed_engine_says_so(tmp_path):
    engine = load_engine(str(MODEL))
    engine.close()
    assert engine.memory_bytes() == 0
    with pytest.raises(GenerationError, match="not loaded any more"):
        engine.prefill([1, 2], never)


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(MODEL, tmp_path / "copy"))


def test_a_packed_folder_without_its_graph_is_loaded_with_torch(copy):
    assert choose_engine(str(copy), "auto", "auto", "") == "onnxruntime"
    (copy / "model.onnx").unlink()
    assert choose_engine(str(copy), "auto", "auto", "") == "transformers"
    with pytest.raises(ModelLoadError, match=r"has no model\.onnx, which ONNX Runtime needs"):
        load_engine(str(copy), engine="onnxruntime")


def test_precisions_that_are_computed_in_full_are_torchs(copy):
    assert choose_engine(str(copy), "auto", "fp32", "") == "transformers"
    assert choose_engine(str(copy), "auto", "4bit", "") == "onnxruntime"


def test_a_folder_of_links_is_loaded_as_well(tmp_path):
    for file in MODEL.iterdir():
        (tmp_path / file.name).symlink_to(file)
    load_engine(str(tmp_path)).close()


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors"])
def test_a_damaged_file_is_named_in_one_line(copy, name):
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelLoadError, match=name) as caught:
        load_engine(str(copy))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_of_another_model_is_refused(copy):
    from jupyter_sc2.models.cards import SHIPPED_MODEL

    shutil.copy(SHIPPED_MODEL / "tokenizer.json", copy / "tokenizer.json")
    with pytest.raises(ModelLoadError, match="do not belong together"):
        load_engine(str(copy))


def test_nothing_is_logged_or_printed_at_load(capfd):
    load_engine(str(MODEL)).close()
    assert capfd.readouterr() == ("", "")


def test_probabilities_are_those_of_the_whole_vocabulary(engine, prompt):
    (token,) = engine.generate(prompt, SamplingParams(max_tokens=1), (), never)
    logits = logits_after(engine, prompt).astype(np.float64)
    total = math.log(np.exp(logits - logits.max()).sum()) + logits.max()
    assert token.logprob == pytest.approx(logits[token.id] - total, abs=NOISE)


# What is kept of the packed weights


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The folders that are there, after a model was loaded."""
    if not Path("/proc/cpuinfo").exists():
        pytest.skip("nothing is kept where the processor cannot be told")
    monkeypatch.setenv("JUPYTER_SC2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prepacked, "MIN_MODEL_BYTES", 0)
    return lambda: sorted((tmp_path / "cache" / "onnxruntime").iterdir())


def test_the_second_load_takes_what_the_first_has_packed(kept, prompt, engine):
    expected = logits_after(engine, prompt)
    load_engine(str(MODEL)).close()
    (folder,) = kept()
    written = (folder / "weights.bin").stat().st_mtime_ns
    second = load_engine(str(MODEL))
    assert kept() == [folder] and (folder / "weights.bin").stat().st_mtime_ns == written
    assert np.abs(logits_after(second, prompt) - expected).max() < NOISE
    second.close()


def test_stored_weights_belong_to_a_version_of_the_runtime_and_to_a_model(kept, copy, monkeypatch):
    load_engine(str(MODEL)).close()
    load_engine(str(copy)).close()
    assert len(kept()) == 2
    monkeypatch.setattr(onnxruntime, "__version__", "1.99.0")
    load_engine(str(MODEL)).close()
    assert len(kept()) == 3


def zero_a_block(file):
    with file.open("r+b") as stream:
        stream.seek(file.stat().st_size // 2)
        stream.write(bytes(4096))


def cut_off(file):
    os.truncate(file, file.stat().st_size // 2)


def empty(file):
    os.truncate(file, 0)


def make_it_a_folder(file):
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("name", ["weights.bin", "model.onnx", "scales.json", "seals.json"])
@pytest.mark.parametrize(
    "damage",
    [zero_a_block, flip_a_bit, cut_off, empty, make_it_a_folder, Path.unlink],
    ids=lambda damage: damage.__name__,
)
def test_what_is_damaged_is_packed_again(kept, prompt, engine, name, damage):
    expected = logits_after(engine, prompt)
    load_engine(str(MODEL)).close()
    (folder,) = kept()
    sound = (folder / name).read_bytes()
    damage(folder / name)
    again = load_engine(str(MODEL))
    assert np.abs(logits_after(again, prompt) - expected).max() < NOISE
    again.close()
    assert kept() == [folder]
    assert len((folder / name).read_bytes()) == len(sound)
    assert prepacked.is_stored(onnxruntime, MODEL)


def test_the_scales_that_were_packed_with_the_weights_are_not_kept_in_memory(kept, prompt):
    load_engine(str(MODEL)).close()
    again = load_engine(str(MODEL))
    logits_after(again, prompt)
    (folder,) = kept()
    entries = re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())
    shared = [e for e in entries if str(folder / "weights.bin") in e and "r--s" in e.split()[1]]
    assert [re.findall(r"(?m)^Rss: +(\d+) kB", entry) for entry in shared] == [["0"]]
    again.close()


def test_a_file_in_the_place_of_the_prepacked_weights_is_renamed(kept):
    load_engine(str(MODEL)).close()
    (folder,) = kept()
    shutil.rmtree(folder)
    folder.write_text("somebody's")
    load_engine(str(MODEL)).close()
    assert prepacked.is_stored(onnxruntime, MODEL)
    assert folder.with_name(folder.name + ".aside").read_text() == "somebody's"


def test_where_nothing_can_be_written_it_is_loaded_all_the_same(kept, tmp_path):
    (tmp_path / "cache").write_text("a file in the way")
    load_engine(str(MODEL)).close()


def test_damaged_weights_that_cannot_be_deleted_are_not_used(kept, prompt, engine, monkeypatch):
    expected = logits_after(engine, prompt)
    load_engine(str(MODEL)).close()
    (folder,) = kept()
    flip_a_bit(folder / "weights.bin")

    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(prepacked.shutil, "rmtree", refuse)
    again = load_engine(str(MODEL))
    assert np.abs(logits_after(again, prompt) - expected).max() < NOISE
    again.close()


def test_stored_weights_that_can_be_neither_read_nor_deleted_are_not_used(kept, monkeypatch):
    load_engine(str(MODEL)).close()

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(prepacked.checksums, "_checksum", fail)
    monkeypatch.setattr(prepacked.shutil, "rmtree", fail)
    whole = prepacked.checksums.is_whole
    monkeypatch.setattr(
        prepacked.checksums,
        "is_whole",
        lambda file, *rest: file.suffix == ".onnx" or whole(file, *rest),
    )
    load_engine(str(MODEL)).close()


def test_stored_weights_in_a_folder_that_may_only_be_read_are_loaded_once(kept, monkeypatch):
    load_engine(str(MODEL)).close()

    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    loaded = []
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(prepacked.os, "utime", refuse)
    monkeypatch.setattr(prepacked.unfinished, "place_in", refuse)
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda f, *a, **k: loaded.append(f) or session(f, *a, **k)
    )
    load_engine(str(MODEL)).close()
    (folder,) = kept()
    assert loaded == [str(folder / "model.onnx")]


def test_the_least_recently_used_entries_are_deleted(kept, tmp_path, monkeypatch):
    monkeypatch.setattr(prepacked, "MAX_FILES", 1)
    load_engine(str(MODEL)).close()
    (first,) = kept()
    os.utime(first, (1, 1))
    monkeypatch.setattr(prepacked, "_processor", lambda: "another")
    load_engine(str(MODEL)).close()
    (second,) = kept()
    assert second != first


def test_what_a_killed_process_has_not_finished_is_removed_by_the_next_load(kept, tmp_path):
    unfinished = tmp_path / "cache" / "onnxruntime"
    # Killed as soon as the folder is there, with the weights written in part.
    code = f"""
import os, signal
from jupyter_sc2.engines.onnx import engine as onnx, prepacked
prepacked.MIN_MODEL_BYTES = 0
keeping = prepacked._storing
def killed(options, file):
    (file.parent / "weights.bin").write_bytes(b"some of them")
    os.kill(os.getpid(), signal.SIGKILL)
prepacked._storing = killed
onnx.load({str(MODEL)!r})
"""
    done = subprocess.run([sys.executable, "-c", code])
    assert done.returncode == -9
    (left,) = unfinished.iterdir()
    assert left.name.startswith(".") and (left / "weights.bin").exists()
    load_engine(str(MODEL)).close()
    (folder,) = kept()
    assert not folder.name.startswith(".")


# When there is no memory for a pass


@pytest.mark.parametrize("fails", ["zeros", "_bias", "_bind", "rotations"])
def test_after_a_pass_for_which_there_was_no_memory_the_tokens_are_the_same(
    engine, monkeypatch, fails
):
    def no_memory(*_, **__):
        raise MemoryError

    prompt = [20 + 7 * i % 200 for i in range(30)]
    monkeypatch.setattr(onnx_engine, "BLOCK_TOKENS", 16)  # the array has to grow
    loaded = load_engine(str(MODEL))
    expected = [token.id for token in engine.generate(prompt, GREEDY, (), lambda: False)]
    loaded.prefill(prompt[:10], lambda: False)
    with pytest.MonkeyPatch.context() as patch:
        if fails == "zeros":
            patch.setattr(onnx_engine, "zeros", no_memory)
        elif fails == "_bind":  # when the graph is told where the new array is
            patch.setattr(onnx_engine.Computation, fails, no_memory)
        elif fails == "rotations":
            patch.setattr(onnx_engine.np, "cos", no_memory)
        else:
            patch.setattr(loaded, fails, no_memory)
        with pytest.raises(MemoryError):
            list(loaded.generate(prompt, GREEDY, (), lambda: False))
    assert [token.id for token in loaded.generate(prompt, GREEDY, (), lambda: False)] == expected
    loaded.close()


def test_the_interpreter_exits_at_once_in_the_middle_of_a_pass():
    code = f"""
import threading, time
from jupyter_sc2.types import SamplingParams
from jupyter_sc2.engines import load_engine
from jupyter_sc2.runtime.exit_gate import gate
busy = threading.Event()

def work():
    engine, first = load_engine({str(MODEL)!r}), 0
    with gate.guarded():
        while True:
            first = (first + 1) % 200
            prompt = [first, *range(20, 220)]
            list(engine.generate(prompt, SamplingParams(max_tokens=20), (), lambda: False))
            busy.set()

threading.Thread(target=work, daemon=True).start()
busy.wait()
time.sleep(0.05)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")

"""What cannot be loaded: each with its one line. And where weights are looked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.tiny import make_tiny_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402

from jupyter_sc2.engines import load_engine  # noqa: E402
from jupyter_sc2.errors import ModelLoadError  # noqa: E402
from jupyter_sc2.models import files as model_files  # noqa: E402
from jupyter_sc2.runtime.hardware import Machine  # noqa: E402


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("models") / "good")


@pytest.fixture
def folder(good, tmp_path):
    return Path(shutil.copytree(good, tmp_path / "model"))


def message(model, **options) -> str:
    with pytest.raises(ModelLoadError) as caught:
        load_engine(str(model), **options)
    line = str(caught.value)
    assert "\n" not in line and len(line) < 400
    return line


def logits(engine):
    engine.prefill([30, 31, 32], lambda: False)
    return torch.from_numpy(engine._logits)


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def change_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


# Names and folders


def test_unknown_name():
    assert message("starcodr2-3b").startswith(
        "There is no model named 'starcodr2-3b'. Did you mean starcoder2-3b?"
    )


def test_missing_folder(tmp_path):
    assert message(tmp_path / "nowhere") == (
        f"{tmp_path}/nowhere does not exist: give the folder that holds config.json and *.safetensors."
    )


def test_a_file_is_no_folder(folder):
    assert "config.json is a file, not a folder" in message(folder / "config.json")


def test_no_config(folder):
    (folder / "config.json").unlink()
    assert message(folder) == f"{folder} has no config.json, so it is not a model's folder."


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model_type": 3}'])
def test_config_that_is_none(folder, text):
    (folder / "config.json").write_text(text)
    assert str(folder / "config.json") in message(folder)


def test_no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    assert (
        message(folder)
        == f"{folder} has no tokenizer.json, and without its tokenizer a model cannot be used."
    )


@pytest.mark.parametrize("text", ["{", "{}", '{"model": 1}'])
def test_tokenizer_that_is_none(folder, text):
    (folder / "tokenizer.json").write_text(text)
    assert message(folder).startswith(f"{folder}/tokenizer.json cannot be read as a tokenizer: ")


def test_tokenizer_of_another_model(folder, tmp_path):
    other = make_tiny_model(tmp_path / "other", special=("<|endoftext|>",))
    shutil.copy(folder / "tokenizer.json", other)
    assert "they do not belong together" in message(other)


def test_a_model_without_fill_in_the_middle_loads_and_says_so(tmp_path):
    engine = load_engine(str(make_tiny_model(tmp_path / "plain", special=("<|endoftext|>",))))
    assert engine.special_ids == {"<|endoftext|>": 0}
    assert engine.card.note == ("A local folder. Reads only the text before the cursor.")


# Weights


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    assert message(folder) == f"{folder} has no *.safetensors, so there are no weights to load."


def test_pickles_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert message(folder) == (
        f"{folder} has only pytorch_model.bin, a pickle, which could run code when it is opened: "
        "save the model as safetensors."
    )


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_truncated_weights(folder, keep):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    assert message(folder).startswith(f"{file} is damaged (")


def test_truncated_data_is_seen_before_it_is_read(folder):
    file = folder / "model.safetensors"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-1])
    assert f"(it has {size - 1:,} bytes and should have {size:,})" in message(folder)


def test_weights_that_are_something_else(folder):
    file = folder / "model.safetensors"
    file.write_text(
        "version https://example.org/spec/v1\noid sha256:0\n" * 9
    )  # as a large-file pointer is
    assert message(folder).startswith(f"{file} is damaged (")


def test_wrong_shapes(folder):
    change_config(folder, intermediate_size=96)
    assert message(folder) == (
        f"{folder}/model.safetensors does not fit config.json: model.layers.0.mlp.c_fc.weight has the shape 128 x 64, "
        "and the model wants 96 x 64."
    )


def test_missing_tensor(folder):
    change_tensors(folder, lambda tensors: tensors.pop("model.layers.1.mlp.c_proj.weight"))
    assert message(folder) == (
        f"The weights in {folder} lack model.layers.1.mlp.c_proj.weight, so the model would be partly random."
    )
    change_config(folder, num_hidden_layers=3)
    assert "and 16 more" in message(folder)


def test_untied_output_layer_is_not_made_up(folder):
    change_config(folder, tie_word_embeddings=False)
    assert "lack lm_head.weight" in message(folder)


def test_a_tied_tensor_may_be_stored_under_either_name(good, folder):
    change_tensors(
        folder,
        lambda tensors: tensors.update(
            {"lm_head.weight": tensors.pop("model.embed_tokens.weight")}
        ),
    )
    first, second = load_engine(str(good)), load_engine(str(folder))
    assert torch.equal(logits(first), logits(second))
    assert first.memory_bytes() == second.memory_bytes()


def test_missing_shard(folder):
    (folder / model_files.INDEX).write_text(
        json.dumps({"weight_map": {"a": "model.safetensors", "b": "other.safetensors"}})
    )
    assert message(folder) == f"{folder} lacks other.safetensors, one of its 2 files of weights."


def test_shards_are_put_together(good, folder):
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"a.safetensors": names[:9], "b.safetensors": names[9:]}
    (folder / "model.safetensors").unlink()
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    index = {name: file for file, part in parts.items() for name in part}
    (folder / model_files.INDEX).write_text(json.dumps({"weight_map": index}))
    assert torch.equal(logits(load_engine(str(folder))), logits(load_engine(str(good))))


def test_loaded_weights_are_those_of_transformers(folder):
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(folder)
    with torch.inference_mode():
        expected = reference(input_ids=torch.tensor([[30, 31, 32]])).logits[0, -1]
    assert torch.allclose(logits(load_engine(str(folder), precision="fp32")), expected, atol=1e-5)


# Architectures


def test_code_beside_the_weights_is_never_run(folder):
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    change_config(folder, model_type="evil", auto_map={"AutoModelForCausalLM": "evil.Evil"})
    assert (
        message(folder)
        == f"{folder} needs Python code of its own to run (auto_map), which is never executed."
    )
    change_config(folder, model_type="starcoder2")  # native: the map is ignored
    load_engine(str(folder))


def test_unknown_and_unsuited_architectures(folder):
    change_config(folder, model_type="resnet")
    assert "has a model of type 'resnet'" in message(folder)
    change_config(folder, model_type="starcoder2", quantization_config={"quant_method": "gptq"})
    assert "already quantized (gptq)" in message(folder)


def test_impossible_config(folder):
    change_config(folder, hidden_size=-1)
    assert str(folder / "config.json") in message(folder)


def test_more_layers_than_tensors_are_refused_before_any_is_built(folder, monkeypatch):
    change_config(folder, num_hidden_layers=900)
    model = transformers.Starcoder2ForCausalLM
    monkeypatch.setattr(model, "__init__", lambda self, *a: pytest.fail("is built"))
    assert "describes 900 layers, and there are 35 tensors" in message(folder)


def test_the_card_tells_what_the_files_say(tmp_path):
    folder = make_tiny_model(tmp_path / "small", context=512, sliding_window=128)
    card = load_engine(str(folder)).card
    assert (card.name, card.context, card.window) == ("small", 512, 128)
    assert card.parameters.endswith("K")


# Quantizing and memory


def test_missing_bitsandbytes(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    assert (
        message(folder, precision="4bit")
        == "Precision 4bit needs the package bitsandbytes: pip install bitsandbytes."
    )


def test_too_large_for_this_machine(folder, monkeypatch):
    monkeypatch.setattr(model_files, "free_memory", lambda: 10)
    monkeypatch.setattr(model_files, "machine", lambda **_: Machine(features=("AVX2",)))
    assert message(folder, precision="fp32") == (
        "model in fp32 needs about 0 MB of memory, and 0 MB are free. Try precision int4."
    )


def test_progress_goes_from_nothing_to_all_and_can_end_the_loading(folder):
    shares = []
    load_engine(str(folder), progress=lambda state, share: shares.append((state, share)))
    assert shares[:2] == [("loading", None), ("loading", 0.0)] and shares[-1] == ("loading", 1.0)
    assert shares[1:] == sorted(shares[1:])

    class GivenUp(Exception):
        pass

    def give_up(state, share):
        raise GivenUp

    with pytest.raises(GivenUp):
        load_engine(str(folder), progress=give_up)

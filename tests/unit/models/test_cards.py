"""The cards: ours, the user's, and what is told of a card that is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.models.cards import (
    EMBEDDED,
    FIM_ROLES,
    STARCODER2_STOP,
    TRAINING_FILE,
    Shape,
    card_errors,
    cards,
    find_card,
    with_known_layout,
)
from jupyter_sc2.prompt.builder import PromptBuilder


@pytest.fixture
def user_file(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
    return tmp_path / "jupyter_sc2_models.toml"


@pytest.mark.parametrize(
    ("name", "parameters", "kv_bytes"),
    [
        ("starcoder2-3b", 3_030_371_328, 30_720),
        ("starcoder2-7b", 7_173_923_840, 65_536),
        ("starcoder2-15b", 15_957_889_024, 81_920),
        ("codegemma-2b", 2_506_172_416, 18_432),
        ("qwen2.5-coder-0.5b", 494_032_768, 12_288),
        ("qwen2.5-coder-1.5b", 1_543_714_304, 28_672),
        ("deepseek-coder-1.3b", 1_346_471_936, 196_608),
        ("codellama-7b", 6_738_546_688, 524_288),
    ],
)
def test_sizes_follow_from_the_shape(name, parameters, kv_bytes):
    shape = cards()[name].shape
    assert (shape.parameters, shape.kv_bytes()) == (parameters, kv_bytes)


def test_every_card_can_fill_in_or_says_that_it_cannot():
    for card in cards().values():
        assert set(FIM_ROLES) <= set(card.special), card.name
        assert set(card.special.values()) <= set(card.stop), card.name
        assert card.window <= card.context, card.name
    assert "went wrong" in cards()["starcoder2-15b"].note
    assert cards()["starcoder2-15b"].order == "left-to-right"


def test_starcoder2_stops_at_every_token_that_opens_another_document():
    card = cards()["starcoder2-3b"]
    ids = {name: id for id, name in enumerate(STARCODER2_STOP)}
    builder = PromptBuilder(card, lambda text: [], ids)
    assert builder.stop_ids == set(ids.values())
    assert {"<file_sep>", "<fim_pad>", "<repo_name>", "<jupyter_start>"} <= set(card.stop)
    assert (card.context, card.window) == (16384, 4096)


def test_a_family_is_overridden_key_by_key():
    three = cards()["qwen2.5-coder-3b"]
    assert three.licence == "Qwen Research" and three.special == cards()["qwen2.5-coder-7b"].special


def test_licences_say_what_they_ask():
    for card in cards().values():
        if (
            card.licence == "unknown"
        ):  # the tests have another embedded model, of which nobody has said it
            assert card.name == "embedded"
            continue
        assert card.licence_summary and card.licence_url.startswith("https://"), card.name


def test_a_user_adds_a_card_and_changes_one_of_ours(user_file):
    user_file.write_text(
        '[model.mine]\nfamily = "qwen2.5-coder"\nhub_id = "me/mine"\nlicence = "MIT"\ncontext = 8192\n'
        "[model.starcoder2-3b]\nhub_id = 'bigcode/starcoder2-3b'\nrevision = 'abc'\n"
        "[family.own]\norder = 'psm'\n"
        "[family.own.special]\nfim_prefix = '[P]'\nfim_suffix = '[S]'\nfim_middle = '[M]'\n"
        "[model.other]\nfamily = 'own'\n"
    )
    mine = find_card("me/mine")
    assert (mine.name, mine.special["fim_prefix"], mine.order) == ("mine", "<|fim_prefix|>", "psm")
    assert (mine.context, mine.window, mine.licence_line) == (8192, 8192, "MIT.")
    assert find_card("starcoder2-3b").revision == "abc"
    assert find_card("other").special["fim_middle"] == "[M]"
    assert "starcoder2-7b" in cards()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[model.x]\norder = 'pms'\n",
            "table [model.x]: order is wrong: Invalid enum value 'pms'.",
        ),
        (
            "[model.x]\ncontext = 'long'\n",
            "table [model.x]: context is wrong: Expected `int`, got `str`.",
        ),
        (
            "[model.x]\nhubid = 'a/b'\n",
            "table [model.x]: hubid is no key of a model; did you mean hub_id?",
        ),
        ("[model.x]\nfamily = 'lama'\n", "table [model.x]: family must be one of starcoder2, "),
        (
            "[model.x.special]\nfim_pre = '<P>'\n",
            "table [model.x]: special.fim_pre is no role: fim_prefix, ",
        ),
        (
            "[model.x.shape]\nlayers = 'x'\n",
            "table [model.x]: shape.layers is wrong: Expected `int`, got `str`.",
        ),
        (
            "[model.x]\nlanguages = []\n",
            "table [model.x]: languages must name at least one language",
        ),
        (
            "[model.x]\nlanguages = 'r'\n",
            "table [model.x]: languages is wrong: Expected `array`, got `str`.",
        ),
        ("[models.x]\n", "there is no table [models]; use [model.NAME]."),
        ("model = 3\n", "[model] holds tables: [model.NAME]."),
        ("[model.x\n", "is not a TOML file: "),
        ("[model.x]\nnote = " + "[" * 100_000, "is nested too deep."),
        ("[model.x]\nnote = " + "{a = " * 100_000, "is nested too deep."),
        ("#" + " " * (4 << 20), "cannot be read: it is larger than 4 MB."),
        ("[model.'../../x']\n", "table [model.../../x]: name is no plain name: '../../x'."),
        ("[model.'/x']\n", "name is no plain name: '/x'."),
        ('[model."x\\u001b"]\n', "name is no plain name: "),
        ('[model.x]\nhub_id = "../x"\n', "table [model.x]: hub_id is no plain name: '../x'."),
        ('[model.x]\nhub_id = "a/b/c"\n', "table [model.x]: hub_id is no plain name: 'a/b/c'."),
        ('[model.x]\nhub_id = "a\\u0000/b"\n', "table [model.x]: hub_id is no plain name: "),
        ('[model.x]\ngguf = "a\\\\b"\n', "table [model.x]: gguf is no plain name: "),
        ('[model.x]\nrevision = "../x"\n', "table [model.x]: revision is no plain name: "),
        ('[model.x]\ngguf_file = "{x}"\n', "gguf_file has braces other than {precision}."),
    ],
)
def test_a_wrong_file_is_one_line_with_file_table_and_key(user_file, text, said):
    user_file.write_text(text)
    (error,) = card_errors()
    line = str(error)
    assert line.startswith(str(user_file)) and said in line and "\n" not in line


@pytest.mark.parametrize("text", ["[", "[models.x]\n", "[model.x]\nhubid = 'a/b'\n[model.y]\n"])
def test_a_wrong_file_takes_no_other_model_away(user_file, text):
    user_file.write_text(text)
    assert find_card("embedded") is EMBEDDED
    assert find_card("starcoder2-3b") == cards()["starcoder2-3b"]
    assert ("y" in cards(), "x" in cards()) == ("model.y" in text, False)


@pytest.mark.parametrize("text", ["[", "[model.x]\nhubid = 'a/b'\n"])
def test_a_model_that_is_wrong_says_so_when_it_is_wanted(user_file, text):
    user_file.write_text(text)
    with pytest.raises(ModelLoadError, match=re.escape(str(user_file))):
        find_card("x")


@pytest.mark.parametrize(
    ("model", "name", "family"),
    [
        ("./starcoder2-3b-Q4_K_M.gguf", "starcoder2-3b-Q4_K_M", "starcoder2"),
        ("qwen2.5-coder-0.5b-q8_0.gguf", "qwen2.5-coder-0.5b-q8_0", "qwen2.5-coder"),
        ("some/where/x.gguf", "x", "starcoder2"),
        ("/models/DeepSeek-Coder-1.3b-base", "DeepSeek-Coder-1.3b-base", "deepseek-coder"),
        ("owner/CodeLlama-7b-python", "owner/CodeLlama-7b-python", "codellama"),
    ],
)
def test_an_unknown_model_is_laid_out_as_the_one_it_is_named_after(model, name, family):
    card = find_card(model)
    assert (card.name, card.family, card.licence) == (name, family, "unknown")


def test_the_layout_is_corrected_by_the_tokenizer():
    qwen = cards()["qwen2.5-coder-7b"]
    stranger = find_card("./whatever")
    assert with_known_layout(stranger, set(qwen.stop)).special == qwen.special
    assert with_known_layout(stranger, set(STARCODER2_STOP)) is stranger
    assert with_known_layout(stranger, {"<s>"}) is stranger
    starcoder1 = {"<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<|endoftext|>", "<filename>"}
    assert "file_sep" not in with_known_layout(find_card("granite-code-3b"), starcoder1).special


def test_a_shape_is_read_from_a_configuration():
    config = {
        "model_type": "qwen2",
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    }
    assert Shape.from_config(config) == cards()["qwen2.5-coder-0.5b"].shape
    assert Shape.from_config({"model_type": "resnet"}) is None


def test_what_was_trained_here_heals_and_another_folder_does_not(tmp_path: Path):
    ours, other = tmp_path / "ours", tmp_path / "other"
    ours.mkdir()
    other.mkdir()
    (ours / TRAINING_FILE).write_text("{}")
    assert (find_card(str(ours)).token_healing, find_card(str(other)).token_healing) == (
        True,
        False,
    )

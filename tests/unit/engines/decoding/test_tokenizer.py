"""Text to ids and back, for vocabularies of both kinds."""

import json

import pytest

pytest.importorskip("tokenizers")

from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers

from jupyter_sc2.engines.decoding.tokenizer import Tokenizer


@pytest.fixture(params=["normalizer", "metaspace"])
def sentencepiece(request, tmp_path):
    """A vocabulary as CodeLlama's: blanks are U+2581, and a text is given one to begin with."""
    pieces = ["<s>", "\u2581<PRE>", *"abcxy=\n\u2581"]
    tokenizer = FastTokenizer(models.BPE({piece: id for id, piece in enumerate(pieces)}, []))
    tokenizer.add_special_tokens(["<s>", "\u2581<PRE>"])
    if request.param == "normalizer":
        steps = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        tokenizer.normalizer = normalizers.Sequence(steps)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert json.loads((tmp_path / "tokenizer.json").read_text())["model"]["type"] == "BPE"
    return Tokenizer(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("text", ["x = y", " x", "", "a\n b", "xy"])
def test_a_piece_of_text_is_encoded_as_it_stands(sentencepiece, text):
    assert sentencepiece.decode_bytes(sentencepiece.encode(text)).decode() == text


def test_special_tokens_are_known_by_their_spelling(sentencepiece):
    assert sentencepiece.special_ids == {"<s>": 0, "\u2581<PRE>": 1}

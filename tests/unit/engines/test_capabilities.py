"""What engines can do is declared, and what one leaves out is said."""

from dataclasses import replace

import pytest

from jupyter_sc2.engines import load_engine
from jupyter_sc2.engines.base import Capabilities, limitations
from jupyter_sc2.models.cards import EMBEDDED, EMBEDDED_FOLDER
from tests.support.fake_engine import FakeEngine
from tests.support.paths import ROOT


def test_a_greedy_engine_says_that_beams_are_left_out():
    engine = FakeEngine("x")
    engine.card = replace(EMBEDDED, beam_width=4)
    assert "decodes greedily" in limitations(engine) and "4 beams" in limitations(engine)


def test_nothing_is_left_out_of_a_model_that_asks_for_no_beams():
    engine = FakeEngine("x")
    engine.card = replace(EMBEDDED, beam_width=1)
    assert limitations(engine) == ""


def test_without_log_probabilities_the_confidence_is_said_to_have_no_effect():
    engine = FakeEngine("x")
    engine.card = replace(EMBEDDED, beam_width=1)
    engine.capabilities = Capabilities(logprobs=False)
    assert "confidence" in limitations(engine)


@pytest.mark.parametrize("name", ["onnxruntime", "transformers"])
def test_engines_of_this_process_search_as_many_beams_as_the_model_asks_for(name):
    if name == "transformers":
        pytest.importorskip("transformers")
    engine = load_engine("embedded", engine=name)
    assert engine.capabilities.beam_width == engine.card.beam_width
    assert engine.capabilities.max_draft_tokens > 0
    assert limitations(engine) == ""
    engine.close()


def test_where_no_constraint_holds_that_is_said():
    engine = FakeEngine("x")
    engine.card = replace(EMBEDDED, beam_width=1)
    engine.capabilities = Capabilities(constraints="none")
    assert "takes no constraints" in limitations(engine)


def declared() -> dict[str, Capabilities]:
    """What the engines declare, by their names in the documentation."""
    from jupyter_sc2.engines.decoding.tokenizer import Tokenizer
    from jupyter_sc2.engines.llamacpp.engine import LlamaCppEngine
    from jupyter_sc2.engines.openai.discovery import Deployment
    from jupyter_sc2.engines.openai.engine import capabilities_of
    from jupyter_sc2.engines.openai.text_vocabulary import TextVocabulary

    ids = Tokenizer(EMBEDDED_FOLDER / "tokenizer.json")

    def server(kind: str, vocabulary: Tokenizer | TextVocabulary) -> Capabilities:
        return capabilities_of(Deployment("m", kind, vocabulary, EMBEDDED))

    return {
        "`llamacpp`": LlamaCppEngine.capabilities,
        "`openai`: vLLM, ids": server("vllm", ids),
        "`openai`: vLLM, text": server("vllm", TextVocabulary(())),
        "`openai`: llama-server, `jupyter sc2 serve`": server("llamacpp", ids),
        "`openai`: others": server("", ids),
    }


def documented() -> dict[str, list[str]]:
    text = (ROOT / "docs" / "server.md").read_text("utf-8")
    lines = [line for line in text.splitlines() if line.startswith(("| `openai`", "| `llamacpp`"))]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: cells for name, *cells in rows if len(cells) == 5}


def test_the_documentation_says_of_each_engine_what_it_declares():
    expected = {
        name: [
            str(one.beam_width),
            str(one.max_draft_tokens),
            one.constraints,
            "yes" if one.logprobs else "not promised",
            "if set" if one.remote else "yes",
        ]
        for name, one in declared().items()
    }
    assert documented() == expected

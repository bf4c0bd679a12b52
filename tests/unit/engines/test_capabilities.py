"""What engines can do is declared, and what one leaves out is said."""

from dataclasses import replace

import pytest

from jupyter_sc2.engines import load_engine
from jupyter_sc2.engines.base import Capabilities, limitations
from jupyter_sc2.models.cards import EMBEDDED
from tests.support.fake_engine import FakeEngine


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

"""Engines that follow another number of hypotheses than their model's card asks for."""

from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch


@contextmanager
def beam_width(engine, width: int):
    capabilities = replace(engine.capabilities, beam_width=width)
    with patch.object(engine, "capabilities", capabilities):
        yield engine

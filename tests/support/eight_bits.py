"""What the tests of the two ways to compute in 8 bits share: models, and the logits that are compared."""

import sys

import numpy as np

from jupyter_sc2.engines.onnx import eight_bits, int4
from jupyter_sc2.types import SamplingParams
from tests.support.tiny import make_tiny_model

IDS = [20 + 7 * index % 300 for index in range(160)]
GREEDY = SamplingParams(max_tokens=8)


def never() -> bool:
    return False


def make_windowed_model(folder, window=32):
    """A folder with a packed StarCoder2 of random weights whose layers look back so many tokens."""
    return int4.make(make_tiny_model(folder, hidden=128, intermediate=256, sliding_window=window))


def logits(engine, ids=IDS):
    """What follows these ids (V,), read anew."""
    engine._forget()
    engine.prefill(ids, never)
    return engine._logits[-1].copy()


def difference(engine, other):
    """Between their logits, as a share of all logits."""
    ours, theirs = logits(engine), logits(other)
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def greedy_ids(engine):
    return [token.id for token in engine.generate(IDS, GREEDY, (), never)]


def take_away(lacks, cache, monkeypatch):
    """Makes one of these impossible or missing: exact sums, memory, onnx (the package) or a disk."""
    if lacks == "exact sums":
        monkeypatch.setattr(eight_bits, "adds_exactly", lambda runtime: False)
    elif lacks == "memory":
        monkeypatch.setattr(eight_bits, "free_memory", lambda: 1000)
    elif lacks == "onnx":
        monkeypatch.setitem(sys.modules, "onnx", None)
    else:
        cache.parent.mkdir()
        cache.write_text("a file in the way")

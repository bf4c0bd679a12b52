"""What the confidence setting shows, and what that saves: `python -m benchmarks.shown NOTEBOOK… --picture FILE`.

At each pause of a typist the model suggests at any confidence. From these answers two curves are drawn, over all
thresholds: of the cut, as it is in use (pipeline/cut.py), and of a gate that shows all or nothing by the mean
probability of the first three tokens, as it was before. A user takes the first words of what is shown, as far as they
are right, and reads on only at the next pause. Then it says how soon the first text came, in milliseconds after the
pause, at the places where both show some at their default. The ten notebooks of docs/measured.md are made by `python -m
benchmarks.holes FOLDER --notebooks FOLDER`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from jupyter_sc2.cli.evaluate import code_of
from jupyter_sc2.evaluation import taking
from jupyter_sc2.evaluation.runner import open_session
from jupyter_sc2.models.calibration import begins_line
from jupyter_sc2.models.cards import EMBEDDED
from jupyter_sc2.options import LoadOptions
from jupyter_sc2.pipeline.cut import ends_by_gain
from jupyter_sc2.types import Completion, CompletionRequest, SamplingParams

THRESHOLDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
GATE = 0.4  # its default
GATES = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)


class Answers:
    """A session's suggestions at any confidence, each asked for once."""

    def __init__(self) -> None:
        self.session = open_session(LoadOptions(), max_tokens=48)
        self._known: dict[tuple[str, str], Completion] = {}
        self.first_texts: list[tuple[float, float]] = []  # seconds, of the cut and of the gate

    def __call__(self, request: CompletionRequest) -> Completion:
        key = (request.id, request.prefix)
        if key not in self._known:
            # With a seed of its own, which counts for nothing here, no request is answered from a cache.
            sampling = SamplingParams(max_tokens=48, seed=len(self._known))
            began, texts = time.perf_counter(), []
            for answer in self.session.complete(replace(request, sampling=sampling)):
                texts.append((time.perf_counter() - began, answer.text))
            self._known[key] = answer
            self._note_first_texts(request, answer, texts)
        return self._known[key]

    def _note_first_texts(
        self, request: CompletionRequest, answer: Completion, texts: list[tuple[float, str]]
    ) -> None:
        """When enough of the answer was there: for the gate three tokens, for the cut an end with a gain."""
        known = min(answer.tokens[2].end if len(answer.tokens) > 2 else math.inf, len(answer.text))
        gate = [at for at, text in texts if len(text) >= known and self.gate(request, GATE)]
        cut = [
            at
            for at, text in texts
            if self._cut(request, answer, EMBEDDED.confidence, text, final=text == answer.text)
        ]
        if gate and cut:
            self.first_texts.append((cut[0], gate[0]))

    def cut(self, request: CompletionRequest, threshold: float) -> str:
        answer = self(request)
        return self._cut(request, answer, threshold, answer.text, final=True)

    def _cut(
        self,
        request: CompletionRequest,
        answer: Completion,
        threshold: float,
        text: str,
        *,
        final: bool,
    ) -> str:
        engine = self.session.engine
        assert engine is not None
        tokens = [token for token in answer.tokens if token.end <= len(text)]
        certainties = engine.card.calibration.certainties(
            tokens, new_line=begins_line(request.prefix)
        )
        ends = ends_by_gain(text, certainties, threshold, request, final=final)
        return text[: ends[0]] if ends else ""

    def gate(self, request: CompletionRequest, threshold: float) -> str:
        answer = self(request)
        first = [token.logprob for token in answer.tokens[:3]]
        sure = not first or math.exp(sum(first) / len(first)) >= threshold
        return answer.text if sure else ""


def count(notebooks: dict[str, list[str]], show: Callable[[CompletionRequest], str]) -> Any:
    """The figures of all notebooks together, of a user who takes words; what was taken is not continued at once."""
    total = taking.Counts()
    for name, cells in notebooks.items():

        def ask(event: Any, there: Any, name: str = name) -> taking.Answer:
            return taking.Answer(show(taking.request(event, there, f"{name}:{event.visit}")))

        total.add(taking.count(cells, "word", ask, in_a_row=1))
    return total.figures()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", type=Path, nargs="+")
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    notebooks, answers = code_of(args.notebooks), Answers()
    curves = {
        "cut": [(one, count(notebooks, partial(answers.cut, threshold=one))) for one in THRESHOLDS],
        "gate": [(one, count(notebooks, partial(answers.gate, threshold=one))) for one in GATES],
    }
    for name, points in curves.items():
        for threshold, figures in points:
            print(name, threshold, json.dumps(figures))
    cut, gate = zip(*answers.first_texts, strict=True)
    print(
        f"first text at {len(cut)} places: {1e3 * median(cut):.0f} ms, the gate's {1e3 * median(gate):.0f}"
    )
    if args.picture is not None:
        draw(curves, args.picture)


def draw(curves: dict[str, list[tuple[float, Any]]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    names = {"cut": "cut where it pays (now)", "gate": "all or nothing (before)"}
    for name, points in curves.items():
        wrong = [one["wrong_characters_per_100_keys"] for _, one in points]
        saved = [100 * one["keys_saved"] for _, one in points]
        axes.plot(wrong, saved, marker="o", label=names[name])
        for (threshold, _), x, y in zip(points, wrong, saved, strict=True):
            axes.annotate(
                f"{threshold:g}", (x, y), (4, -10), textcoords="offset points", fontsize=7
            )
    axes.set_xlabel("wrong characters shown for each 100 keys")
    axes.set_ylabel("keys saved, word by word (%)")
    axes.set_title("What is gained for what has to be read, by confidence")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file)


if __name__ == "__main__":
    main()

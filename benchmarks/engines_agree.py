"""Compares ONNX Runtime's and torch's output for the same weights: `python -m benchmarks.engines_agree ROWS`.

ROWS come from `benchmarks.holes`. Tokens are decoded greedily, without beam search, on the first 50 rows: in how many
all are the same, where the first one differs, and by how much torch preferred its own there. Torch computes in fp32.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from jupyter_sc2.engines import load_engine
from jupyter_sc2.evaluation import holes
from jupyter_sc2.evaluation.ablation import without
from jupyter_sc2.evaluation.runner import read_rows
from jupyter_sc2.prompt.builder import PromptBuilder
from jupyter_sc2.types import SamplingParams

TOKENS = 24


def greedy(engine: Any, ids: list[int]) -> list[int]:
    sampling = SamplingParams(max_tokens=TOKENS)
    with without("beam search"):
        return [token.id for token in engine.generate(ids, sampling, (), lambda: False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--count", type=int, default=50)
    args = parser.parse_args()
    onnx = load_engine("embedded", engine="onnxruntime")
    torch = load_engine("embedded", engine="transformers", precision="fp32")
    builder = PromptBuilder(onnx.card, onnx.encode, onnx.special_ids)
    same = 0
    places: list[int] = []
    gaps: list[float] = []
    noise: list[float] = []
    for row in read_rows(args.rows, ())[: args.count]:
        ids = list(builder.build(holes.request(row), budget=1024).ids)
        one, other = greedy(onnx, ids), greedy(torch, ids)
        torch.prefill(ids, lambda: False)
        onnx.prefill(ids, lambda: False)
        noise.append(float((onnx._logits[-1] - torch._logits[-1]).std()))
        at = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
        if at is None:
            same += 1
            continue
        torch.prefill([*ids, *other[:at]], lambda: False)
        logits = torch._logits[-1]
        places.append(at)
        gaps.append(float(logits[other[at]] - logits[one[at]]))
    print(f"{same} of {args.count} the same for {TOKENS} tokens")
    print(f"the logits differ by {np.mean(noise):.3f} (standard deviation, mean of the rows)")
    if gaps:
        print(
            f"first difference at token {statistics.median(places):.0f} (median), logits apart by"
        )
        print(", ".join(f"{gap:.2f}" for gap in sorted(gaps)))


if __name__ == "__main__":
    main()

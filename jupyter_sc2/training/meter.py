"""The speed of a training: tokens a second, share of the device's peak, share of time spent waiting for rows, memory.

For one token a model with N parameters needs some 6 N floating-point operations, without those of attention: 652
million for the 108.6 million of the embedded model. An H100's dense bf16 peak is 989 TFLOP/s by its data sheet; large
products reach 798. So in eight minutes, at these shares of the peak:

    20 %   303 thousand tokens/s   146 million tokens
    35 %   531                     255
    45 %   683                     328

A run should come nearer to the first. Per token and layer, the operations between the products read and write some 90
kB forward and backward, 2.6 MB for 28 layers: at 3.0 TB/s that alone takes 0.9 µs. The products, with no more than 576
to 1,536 inputs each, take 1.3 µs if they reach 500 TFLOP/s, and attention over some 300 tokens takes 0.3 µs. The 2.5 µs
together are 400 thousand tokens/s, or 26 %.

Measured on an H200: 345 thousand tokens/s over 1,176 steps, 22.7 % of the peak, in micro-batches of 65,536 tokens with
flex attention; 0.2 % of the time was spent waiting for rows, which 12 processes made. With random weights, over ten
seconds each: 343 thousand in the same way, 284 in micro-batches of 32,768, and 263 in these with a dense mask.
"""

from __future__ import annotations

import sys
from typing import Any

# Dense bf16 peaks in TFLOP/s, by the data sheets. The first key that is a part of the device's name counts.
PEAKS = {"H200": 989.0, "H100": 989.0, "A100": 312.0}


def known_peak(device: str) -> float | None:
    """The peak of a device by its name, in TFLOP/s; None if it is not known."""
    return next((peak for name, peak in PEAKS.items() if name in device), None)


class Meter:
    """Counts the tokens and seconds of steps, without the measurements and checkpoints between them."""

    def __init__(self, parameters: int, peak: float | None = None) -> None:
        self._flop_per_token = 6 * parameters
        self._peak = peak  # TFLOP/s
        self._tokens = 0
        self._seconds = self._waited = 0.0

    def add(self, tokens: int, seconds: float, waited: float) -> None:
        """Counts one step, with its seconds, and how many of them were spent waiting for rows."""
        self._tokens += tokens
        self._seconds += seconds
        self._waited += waited

    def read(self) -> dict[str, Any]:
        """The figures since the last reading; resets the counters."""
        seconds = self._seconds or 1.0
        speed = self._tokens / seconds
        figures = {
            "tokens_per_second": round(speed),
            "teraflops": round(speed * self._flop_per_token / 1e12, 2),
            "utilisation": None,
            "waited": round(self._waited / seconds, 4),
        }
        if self._peak:
            figures["utilisation"] = round(speed * self._flop_per_token / 1e12 / self._peak, 4)
        self._tokens, self._seconds, self._waited = 0, 0.0, 0.0
        return figures


def speed_text(figures: dict[str, Any]) -> str:
    """The figures in one line."""
    parts = [f"{figures['tokens_per_second']:,} tokens/s"]
    if figures["utilisation"] is not None:
        parts.append(f"{figures['utilisation']:.1%} of the peak")
    parts.append(f"{figures['waited']:.1%} waiting for rows")
    return "  ".join(parts)


def memory_used(device: str) -> float | None:
    """The peak memory so far, in GB, of the GPU or of this process; None if it is not known."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 1e9
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e9 if sys.platform == "darwin" else most / 1e6

"""Measures precisions of one model in turn, in one process, so that other load meets them all; prints a table.

python -m benchmarks.precisions --model FOLDER [--rounds 12] [--prefill 512] [--threads 2] [bf16 4bit int4 ...]

Each runs on the engine that loading chooses; "transformers:int4" names one.

Loading is measured first: with what was quantized before, so run it twice for the time of a second load. Then each
round has, for each precision, a pass over 1, 4 and 16 tokens below a hundred; the median and the least time are shown,
and the median of the ratios to the last-named precision in the same round. Prefill is measured in turn, too. With
`--threads 1` the times are CPU time of that thread, which other processes change little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

LENGTHS = (1, 4, 16)
CONTEXT = 100
VOCABULARY = 5000  # ids that every tokenizer has


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("precisions", nargs="*", default=["bf16", "4bit", "int4"])
    parser.add_argument("--model", required=True, help="folder of the original weights")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--prefill", type=int, default=512, help="tokens; 0 for none")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--prefill-rounds", type=int, default=2)
    arguments = parser.parse_args()
    clock = time.thread_time if arguments.threads == 1 else time.perf_counter
    engines = {
        name: load(arguments.model, name, arguments.threads) for name in arguments.precisions
    }
    times: dict[str, dict[str, list[float]]] = {name: {} for name in engines}
    for length in LENGTHS:
        for _ in range(arguments.rounds):
            for name, engine in engines.items():
                milliseconds = 1e3 * pass_over(engine, length, clock)
                note(times[name], f"{length} tokens, ms", milliseconds)
                print(f"  {name}, {length} tokens: {milliseconds:.0f} ms", flush=True)
    if arguments.prefill:
        for number in range(arguments.prefill_rounds):
            for name, engine in engines.items():
                seconds = prefill(engine, arguments.prefill, clock, number)
                note(times[name], f"prefill of {arguments.prefill}, s", seconds)
    table(times)


def load(model: str, precision: str, threads: int | None) -> Any:
    from jupyter_sc2.engines import load_engine

    start = time.perf_counter()
    engine_name, _, name = precision.rpartition(":")
    engine = load_engine(
        model, engine=engine_name or "auto", precision=name, threads=threads, offline=True
    )
    print(f"{precision}: loaded in {time.perf_counter() - start:.1f} s, ", end="")
    print(f"{engine.memory_bytes() / 1e6:.0f} MB", flush=True)
    return engine


def pass_over(engine: Any, length: int, clock: Callable[[], float]) -> float:
    """Seconds of one pass; a prefill of what is read already cuts the cache back."""
    engine.prefill(ids(CONTEXT), lambda: False)
    start = clock()
    engine.prefill(ids(CONTEXT + length), lambda: False)
    return clock() - start


def prefill(engine: Any, length: int, clock: Callable[[], float], number: int) -> float:
    """Seconds for another text each time: one that was read before is not read again."""
    engine.prefill([1], lambda: False)
    start = clock()
    engine.prefill(ids(length, number + 1), lambda: False)
    return clock() - start


def ids(count: int, shift: int = 0) -> list[int]:
    return [256 + (7919 * index + shift) % VOCABULARY for index in range(count)]


def note(times: dict[str, list[float]], key: str, value: float) -> None:
    times.setdefault(key, []).append(value)


def table(times: dict[str, dict[str, list[float]]]) -> None:
    names = list(times)
    last = names[-1]
    print(f"| | {' | '.join(names)} | in the same round, times that of {last} |")
    print("|" + " --- |" * (len(names) + 2))
    for key in times[last]:
        cells = [
            f"{statistics.median(times[name][key]):.4g} (least {min(times[name][key]):.4g})"
            for name in names
        ]
        ratios = [
            f"{name} "
            + f"{statistics.median(a / b for a, b in zip(times[name][key], times[last][key], strict=True)):.2f}"
            for name in names[:-1]
        ]
        print(f"| {key} | {' | '.join(cells)} | {', '.join(ratios)} |", flush=True)


if __name__ == "__main__":
    main()

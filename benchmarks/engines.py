"""Measures engines and precisions on one model, each in a process of its own, and prints a Markdown table.

python -m benchmarks.engines --model FOLDER [--prompt 512] [--tokens 32] [ENGINE:PRECISION[:MODEL] ...]

    bf16, 8bit and 4bit of the torch engine are measured if no rows are named
    llamacpp:Q4_K_M:./model.gguf measures a file

Load time is from the call to a model that answers; the torch engine's first load of a quantized precision quantizes
into an empty cache, and the second finds the result there. Memory is that of the process and its children in MB
(1e6 bytes): the peak while loading, and the steady one after prefill and decoding, both without what the process
had with its libraries before. In brackets is the engine's own count. Wall times depend on other load; CPU seconds are
beside them.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.paths import ROOT, SMALL_MODEL

MODEL = SMALL_MODEL
ROWS = ("transformers:bf16", "transformers:8bit", "transformers:4bit")
COLUMNS = (
    *("engine, precision", "load 1st / 2nd, s", "load, CPU s", "peak 1st / 2nd, MB", "steady, MB"),
    *(
        "after unloading, MB",
        "prefill, tok/s",
        "prefill, CPU s",
        "decode, ms/token",
        "decode, CPU ms/token",
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure engines and precisions on one model.")
    parser.add_argument("rows", nargs="*", metavar="ENGINE:PRECISION[:MODEL]")
    parser.add_argument("--model", "--folder", required=True, help="folder of the original weights")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("--tokens", type=int, default=32, help="tokens to decode")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments, arguments.rows[0])))
        return
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + " --- |" * len(COLUMNS), flush=True)
    for row in arguments.rows or ROWS:
        with tempfile.TemporaryDirectory() as cache:
            first, second = (in_a_process(arguments, row, cache) for _ in range(2))
        print("| " + " | ".join(cells(row, first, second)) + " |", flush=True)


def cells(row: str, first: dict[str, float], second: dict[str, float]) -> list[str]:
    return [
        row.replace(":", ", ", 1),
        f"{first['load']:.1f} / {second['load']:.1f}",
        f"{first['load_cpu']:.1f} / {second['load_cpu']:.1f}",
        f"{first['peak']:.0f} / {second['peak']:.0f}",
        f"{second['steady']:.0f} ({second['counted']:.0f})",
        f"{second['unloaded']:.0f}",
        f"{second['prefill']:.1f}",
        f"{second['prefill_cpu']:.1f}",
        f"{second['decode']:.0f}",
        f"{second['decode_cpu']:.0f}",
    ]


def in_a_process(arguments: argparse.Namespace, row: str, cache: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.engines", row, "--measure"]
    command += ["--model", arguments.model, "--threads", str(arguments.threads)]
    command += ["--prompt", str(arguments.prompt), "--tokens", str(arguments.tokens)]
    environment = {**os.environ, "JUPYTER_SC2_CACHE": os.environ.get("JUPYTER_SC2_CACHE", cache)}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    if done.returncode:
        sys.exit(f"{row} failed:\n{done.stderr}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(arguments: argparse.Namespace, row: str) -> dict[str, Any]:
    from jupyter_sc2.engines import load_engine
    from jupyter_sc2.types import SamplingParams

    engine_name, precision, *rest = row.split(":", 2)
    warm_up(engine_name)
    before = resident()
    with peak() as highest:
        start, cpu = time.perf_counter(), cpu_seconds()
        engine = load_engine(
            rest[0] if rest else arguments.model,
            engine=engine_name,
            precision=precision,
            threads=arguments.threads or None,
            offline=True,
        )
        load, load_cpu = time.perf_counter() - start, cpu_seconds() - cpu
    ids = [256 + 7919 * index % 20_000 for index in range(arguments.prompt)]
    start, cpu = time.perf_counter(), cpu_seconds()
    engine.prefill(ids, lambda: False)
    prefill, prefill_cpu = time.perf_counter() - start, cpu_seconds() - cpu
    sampling, cpu = SamplingParams(max_tokens=arguments.tokens + 1), cpu_seconds()
    times = [time.perf_counter() for _ in engine.generate(ids, sampling, (), lambda: False)]
    decode_cpu = cpu_seconds() - cpu
    result = {
        "load": load,
        "load_cpu": load_cpu,
        "peak": (max(highest) - before) / 1e6,
        "steady": (resident() - before) / 1e6,
        "counted": engine.memory_bytes() / 1e6,
        "prefill": len(ids) / prefill,
        "prefill_cpu": prefill_cpu,
        "decode": (times[-1] - times[0]) / (len(times) - 1) * 1e3,
        "decode_cpu": decode_cpu / (len(times) - 1) * 1e3,
    }
    engine.close()
    gc.collect()
    return {**result, "unloaded": (resident() - before) / 1e6}


def warm_up(engine: str) -> None:
    """Loads the libraries, whose memory is not the model's."""
    from jupyter_sc2.engines import load_engine

    if engine == "transformers":
        for precision in ("bf16", "8bit", "4bit"):
            load_engine(str(MODEL), engine=engine, precision=precision).close()


def processes() -> list[Any]:
    import psutil

    this = psutil.Process()
    return [this, *this.children(recursive=True)]


def resident() -> int:
    return sum(process.memory_info().rss for process in processes())


def cpu_seconds() -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes())


@contextmanager
def peak() -> Iterator[list[int]]:
    """Samples the memory every 20 ms inside the block."""
    samples, done = [resident()], threading.Event()

    def sample() -> None:
        while not done.wait(0.02):
            samples.append(resident())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()
        samples.append(resident())


if __name__ == "__main__":
    main()

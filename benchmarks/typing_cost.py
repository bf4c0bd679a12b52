"""Measures the README's figures about speed: `python -m benchmarks.typing_cost`.

Each figure is the median of several runs; pairs alternate, so that a drift of the machine affects both.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from jupyter_client.manager import start_new_kernel

from jupyter_sc2.notebook import Cell, Notebook
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.types import Completion, CompletionRequest


def seconds(*command: str) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def import_ms(runs: int = 15) -> float:
    """What `import jupyter_sc2` adds to Python's own start."""
    pairs = [
        seconds(sys.executable, "-c", "import jupyter_sc2") - seconds(sys.executable, "-c", "pass")
        for _ in range(runs)
    ]
    return statistics.median(pairs) * 1000


def load_ext_ms(runs: int = 5) -> float:
    """How long `%load_ext jupyter_sc2` takes in a fresh kernel's cell."""
    code = (
        "import time; _t = time.perf_counter()\n"
        "get_ipython().run_line_magic('load_ext', 'jupyter_sc2')\n"
        "print((time.perf_counter() - _t) * 1000)"
    )
    times = []
    for _ in range(runs):
        manager, client = start_new_kernel()
        said: list[str] = []
        client.execute_interactive(
            code, output_hook=lambda m, said=said: said.append(m["content"].get("text", ""))
        )
        times.append(float("".join(said)))
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return statistics.median(times)


def execute_seconds(runs: int = 4) -> tuple[float, float]:
    """`jupyter execute` of a short notebook, with `%load_ext jupyter_sc2` in it and without."""

    def notebook(path: Path, first: str) -> Path:
        cells = [nbformat.v4.new_code_cell(source) for source in (first, "1 + 1", "print('x')")]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
        return path

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "jupyter", "execute", "--kernel_name=python3"]
        plain = notebook(Path(folder) / "plain.ipynb", "pass")
        loading = notebook(Path(folder) / "loading.ipynb", "%load_ext jupyter_sc2")
        pairs = [
            (seconds(*command, str(loading)), seconds(*command, str(plain))) for _ in range(runs)
        ]
    with_, without = zip(*pairs, strict=True)
    return statistics.median(with_), statistics.median(without)


def typing(line: str, cells: int = 60) -> dict[str, float]:
    """Types a line below a notebook of some 1,000 tokens, key by key, with the embedded model."""
    notebook = Notebook(
        tuple(Cell(id=str(n), source=f"data_{n} = load({n})\nplot(data_{n})") for n in range(cells))
    )
    session = Session()
    started = time.perf_counter()
    session.load()
    session.wait_ready()
    load_seconds = time.perf_counter() - started
    answers: list[Completion] = []
    for end in range(len(line) + 1):
        request = CompletionRequest(
            text=line[:end], offset=end, notebook=notebook, trigger="automatic"
        )
        answers.append([*session.complete(request)][-1])
    session.close()
    asked = [
        answer for answer in answers[1:] if answer.source == "model" and answer.stats.prompt_tokens
    ]
    first = [a.stats.first_token_ms for a in asked if a.stats.first_token_ms is not None]
    return {
        "load_seconds": load_seconds,
        "prompt_tokens": asked[-1].stats.prompt_tokens,
        "read_per_key": statistics.median(
            a.stats.prompt_tokens - a.stats.reused_tokens for a in asked
        ),
        "first_token_ms": statistics.median(first),
        "total_ms": statistics.median(a.stats.total_ms for a in asked),
        "from_cache": sum(a.source == "cache" for a in answers) / len(answers),
    }


def main() -> None:
    print(f"import jupyter_sc2: {import_ms():.0f} ms beyond Python's own start")
    print(f"%load_ext jupyter_sc2 in a kernel: {load_ext_ms():.0f} ms")
    with_, without = execute_seconds()
    print(f"jupyter execute: {with_:.2f} s with the extension, {without:.2f} s without")
    figures = typing("fig, ax = plt.subplots(figsize=(8, 4))")
    print(
        "embedded model: loaded in {load_seconds:.1f} s; with a prompt of {prompt_tokens} tokens a key reads "
        "{read_per_key:.0f} of them, first token after {first_token_ms:.0f} ms, line after {total_ms:.0f} ms; "
        "{from_cache:.0%} of the keys answered from the cache".format(**figures)
    )


if __name__ == "__main__":
    main()

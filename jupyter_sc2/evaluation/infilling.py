"""HumanEval-Infilling (Bavarian et al., arXiv 2207.14255; MIT): functions with a hole, judged by their tests.

A row is {"task_id", "prompt", "suffix", "canonical_solution", "test", "entry_point"}, as in the published files. The
model's code runs in a separate process with a time limit, in which sockets, other processes and writing to files are
refused. This prevents accidents, not attacks.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jupyter_sc2.evaluation.runner import Row, answer, interval, mean
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.types import Completion, CompletionRequest

NEEDED = ("task_id", "prompt", "suffix", "canonical_solution", "test", "entry_point")
TIMEOUT_S = 10.0

# Audit hooks cannot be removed again (PEP 578).
GUARD = """
import sys
import typing, math, collections, itertools, functools, heapq, bisect, string, random, copy, re, hashlib
def _refuse(event, args):
    if event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "shutil.")):
        raise PermissionError(event)
    if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        raise PermissionError(event)
    if event in ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.kill", "os.chmod", "ctypes.dlopen"):
        raise PermissionError(event)
sys.addaudithook(_refuse)
"""


def evaluate(
    session: Session, rows: Sequence[Row], *, kept: Path | None = None, progress: str | None = None
) -> dict[str, Any]:
    """Fills every hole and runs the tests; returns the figures, and the results under "rows"."""
    by_id = {row["task_id"]: row for row in rows}
    requests = {name: request(row) for name, row in by_id.items()}

    def judge(name: str, completion: Completion) -> Row:
        row = by_id[name]
        text = _as_long_as(row["canonical_solution"], completion.text)
        expected = row["canonical_solution"]
        return {
            "exact": text.strip() == expected.strip(),
            "passed": passes(row, text),
        }

    results = answer(session, requests, judge, kept=kept, progress=progress)
    exact = [float(result["exact"]) for result in results]
    passed = [float(result["passed"]) for result in results]
    return {
        "model": session.status.model,
        "engine": session.status.engine,
        "n": len(results),
        "exact_match": mean(exact),
        "exact_match_interval": interval(exact),
        "pass_at_1": mean(passed),
        "pass_at_1_interval": interval(passed),
        "rows": results,
    }


def request(row: Row) -> CompletionRequest:
    """The request for a row: automatic if the hole is one line, explicit for a block, which would be cut otherwise."""
    line = "\n" not in row["canonical_solution"].rstrip("\n")
    return CompletionRequest(
        text=row["prompt"] + row["suffix"],
        offset=len(row["prompt"]),
        trigger="automatic" if line else "invoke",
    )


def passes(row: Row, middle: str, *, timeout: float = TIMEOUT_S) -> bool:
    """Whether the function with this middle passes the row's tests within `timeout` seconds."""
    # The suffix begins on its own line; a completion of one line does not end with a line break.
    if row["canonical_solution"].endswith("\n") and not middle.endswith("\n"):
        middle += "\n"
    program = f"{GUARD}\n{row['prompt']}{middle}{row['suffix']}\n{row['test']}\ncheck({row['entry_point']})\n"
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", program],
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _as_long_as(expected: str, text: str) -> str:
    """The first lines of the text, as many as the hole has."""
    return "\n".join(text.split("\n")[: max(1, expected.rstrip("\n").count("\n") + 1)])

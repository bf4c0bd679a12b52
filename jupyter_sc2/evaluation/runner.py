"""Sends a session one request per row, with progress, and stores the answers so that a run can be resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from jupyter_sc2 import engines
from jupyter_sc2.engines.base import Engine
from jupyter_sc2.errors import RequestError
from jupyter_sc2.models.cards import NotebookLayout, Order
from jupyter_sc2.options import CompletionOptions, LoadOptions
from jupyter_sc2.pipeline.grounding import Namespace
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.runtime.atomic_write import append_line
from jupyter_sc2.runtime.bounded_read import MAX_INPUT_BYTES, parse_json, up_to
from jupyter_sc2.types import Completion, CompletionRequest, SamplingParams

Row = dict[str, Any]
RESAMPLES = 1000


def open_session(
    options: LoadOptions,
    *,
    max_tokens: int,
    context_tokens: int = 2048,
    order: Order | None = None,
    notebook_layout: NotebookLayout | None = None,
    low_priority: bool = False,
    namespace: Namespace | None = None,
    confidence: float | None = 0.0,
    next_suggestion: str = "off",
) -> Session:
    """A session that decodes greedily or by beam search. `order` and `notebook_layout` override the model's own layout.

    Every suggestion is shown, at any confidence, unless `confidence` is given; None uses the model's own threshold.
    """

    def load_engine(*args: Any, **kwargs: Any) -> Engine:
        engine = engines.load_engine(*args, **kwargs)
        card = engine.card
        engine.card = replace(
            card, order=order or card.order, notebook_layout=notebook_layout or card.notebook_layout
        )
        return engine

    sampling = SamplingParams(max_tokens=max_tokens)
    session = Session(
        load_engine=load_engine,
        options=CompletionOptions(
            sampling=sampling,
            context_tokens=context_tokens,
            confidence=confidence,
            next_suggestion=next_suggestion,
        ),
        load_options=options,
        low_priority=low_priority,
        namespace=namespace,
    )
    session.load()
    session.wait_ready()
    return session


def read_rows(path: Path, needed: Iterable[str]) -> list[Row]:
    """The rows of a JSON lines file, which may be gzipped. Raises RequestError with one line."""
    import gzip
    import zlib

    needed = tuple(needed)
    try:
        with path.open("rb") as file:
            packed = file.peek(2).startswith(b"\x1f\x8b")
            data = up_to(MAX_INPUT_BYTES, gzip.GzipFile(fileobj=file) if packed else file)  # type: ignore[arg-type]
        rows = [parse_json(line) for line in data.split(b"\n") if line.strip()]
    except OSError as error:
        raise RequestError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, EOFError, zlib.error) as error:
        raise RequestError(f"{path} does not hold JSON lines: {error}.") from error
    for number, row in enumerate(rows, 1):
        missing = [key for key in needed if not isinstance(row, dict) or key not in row]
        if missing:
            raise RequestError(f"Row {number} of {path} has no {', '.join(missing)}.")
    if not rows:
        raise RequestError(f"{path} holds no rows.")
    return rows


def answer(
    session: Session,
    requests: Mapping[str, CompletionRequest],
    judge: Callable[[str, Completion], Row],
    *,
    kept: Path | None = None,
    progress: str | None = None,
) -> list[Row]:
    """The results of `judge` for each request's completion, in the order of the requests.

    With `kept`, each result is appended to that file of JSON lines at once, and requests whose results are in it
    already are skipped. `progress` is the label of the bar on stderr; None shows none. Raises RequestError for a file
    that cannot be read or written.
    """
    done = {row["id"]: row for row in _kept_rows(kept)} if kept else {}
    todo = [name for name in requests if name not in done]
    for name in _with_progress(todo, progress, len(requests)):
        *_, last = session.complete(requests[name])
        done[name] = {"id": name, "text": last.text, **judge(name, last)}
        if kept is not None:
            keep_row(kept, done[name])
    return [done[name] for name in requests]


def keep_row(file: Path, row: Row) -> None:
    """Appends a result to a file of JSON lines. Raises RequestError."""
    try:
        append_line(file, json.dumps(row, ensure_ascii=False))
    except OSError as error:
        raise RequestError(f"{file} cannot be written: {error.strerror or error}.") from error


def interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the mean by resampling (percentile bootstrap)."""
    if not values:
        return (0.0, 0.0)
    rng = Random(seed)
    means = sorted(sum(rng.choices(values, k=len(values))) / len(values) for _ in range(RESAMPLES))
    return (round(means[int(0.025 * RESAMPLES)], 4), round(means[int(0.975 * RESAMPLES)], 4))


def mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4) if values else 0.0


def middle(values: Sequence[float | None]) -> float | None:
    """The median of the known values."""
    known = [value for value in values if value is not None]
    return round(median(known), 1) if known else None


def _kept_rows(path: Path) -> Iterator[Row]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise RequestError(f"Cannot read {path}: {error.strerror or error}.") from error
    # Not splitlines: a text may hold other characters that end a line.
    for line in data.split(b"\n"):
        try:
            row = parse_json(line)
        except ValueError:  # a line that an interrupted run left incomplete
            continue
        if isinstance(row, dict) and isinstance(row.get("id"), str):
            yield row


def _with_progress(names: Sequence[str], label: str | None, total: int) -> Iterable[str]:
    if label is None:
        return names
    from tqdm import tqdm

    bar: Iterable[str] = tqdm(
        names, desc=label, total=total, initial=total - len(names), unit="row"
    )
    return bar

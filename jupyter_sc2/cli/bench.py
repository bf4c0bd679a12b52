"""`jupyter sc2 bench`: measures latency and tokens while a notebook is typed on this machine."""

from __future__ import annotations

import argparse
import operator
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from jupyter_sc2.cli.evaluate import code_of
from jupyter_sc2.cli.options import add_model_options, load_options, print_json
from jupyter_sc2.errors import RequestError

if TYPE_CHECKING:
    from jupyter_sc2.pipeline.session import Session


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("bench", help="measure latency")
    tasks = parser.add_subparsers(title="tasks", metavar="TASK", required=True)
    replay = tasks.add_parser("replay", help="replay the typing of notebooks key by key")
    replay.add_argument("notebooks", type=Path, nargs="+", metavar="NOTEBOOK")
    replay.add_argument("--keys", type=int, metavar="N", help="type only the end, about N keys")
    replay.add_argument("--seed", type=int, default=0)
    replay.add_argument(
        "--speed", type=float, default=1.0, metavar="X", help="type X times as fast as people do"
    )
    replay.add_argument("--max-tokens", type=int, default=48, metavar="N")
    replay.add_argument("--context-tokens", type=int, default=2048, metavar="N")
    replay.add_argument(
        "--baselines",
        action="store_true",
        help="compare with model.generate (engine transformers) or llama.cpp's /infill (llamacpp)",
    )
    replay.add_argument(
        "--ablation", action="store_true", help="repeat with each technique switched off in turn"
    )
    replay.add_argument(
        "--accept",
        action="store_true",
        help="accept what is right at each pause, and time the text that follows",
    )
    replay.add_argument(
        "--take",
        action="store_true",
        help="count the keys that a user saves who takes what is right; types whole notebooks, not in real time",
    )
    replay.add_argument(
        "--confidence",
        type=float,
        metavar="P",
        help="the setting (default with --take: the model's own, else 0, which shows all)",
    )
    replay.add_argument(
        "--reading-cost",
        type=float,
        default=0.2,
        metavar="KEYS",
        help="with --take: what a wrong character that is shown costs (default: %(default)s)",
    )
    replay.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="with --take: file for each place's answer; a second run continues it",
    )
    add_model_options(replay)
    replay.add_argument("--json", action="store_true", help="print one JSON object")
    replay.set_defaults(run=_replay)


def _replay(args: argparse.Namespace) -> int:
    from jupyter_sc2.evaluation.replay import slowdown
    from jupyter_sc2.types import CompletionRequest

    if args.speed <= 0:
        raise RequestError(f"--speed must be more than 0, not {args.speed:g}.")
    if args.confidence is not None and not 0 <= args.confidence <= 1:
        raise RequestError(f"--confidence must lie between 0 and 1, not {args.confidence:g}.")
    notebooks = code_of(args.notebooks)
    if args.take:
        return _take(notebooks, args)
    session = _open(args)
    try:
        status = session.status
        figures: dict[str, Any] = {
            "model": status.model,
            "engine": status.engine,
            "precision": status.precision,
            **_type_all(session, notebooks, args),
        }
        figures["baselines"] = _baselines(session, notebooks, args) if args.baselines else {}
        last = "\n".join(chain(*notebooks.values()))[-500:]
        request = CompletionRequest(text=last, offset=len(last), trigger="invoke")
        figures["running_cell_takes"] = slowdown(session, request)
    finally:
        session.close()
    if args.ablation:
        figures["without"] = _ablation(notebooks, args)
    if args.json:
        print_json(figures)
    else:
        _print(figures)
    return 0


def _open(args: argparse.Namespace) -> Session:
    from jupyter_sc2.evaluation.runner import open_session

    return open_session(
        load_options(args),
        max_tokens=args.max_tokens,
        context_tokens=args.context_tokens,
        confidence=0.0 if args.confidence is None else args.confidence,
        low_priority=True,  # as in a kernel
        next_suggestion="auto",
    )


def _take(notebooks: dict[str, list[str]], args: argparse.Namespace) -> int:
    from jupyter_sc2.evaluation import taking
    from jupyter_sc2.evaluation.runner import open_session
    from jupyter_sc2.types import CompletionRequest

    session = open_session(
        load_options(args),
        max_tokens=args.max_tokens,
        context_tokens=args.context_tokens,
        confidence=args.confidence,
    )

    def complete(request: CompletionRequest) -> taking.Answer:
        *_, last = session.complete(request)
        return taking.Answer(last.text, last.stats.total_ms)

    def say(name: str, row: dict[str, Any]) -> None:
        print(
            f"{Path(name).name}: word by word {row['keys_saved']:.1%} of the keys", file=sys.stderr
        )

    try:
        asker = taking.Asker(complete, args.results)
        figures = taking.evaluate(
            notebooks, asker, seed=args.seed, reading_cost=args.reading_cost, progress=say
        )
    finally:
        session.close()
    if args.json:
        print_json(figures)
        return 0
    for way in taking.WAYS:
        print(f"{way}: " + ", ".join(f"{key} {value}" for key, value in figures[way].items()))
    return 0


def _type_all(
    client: Any, notebooks: dict[str, list[str]], args: argparse.Namespace, label: str = ""
) -> dict[str, Any]:
    """The figures of all notebooks, and those of each."""
    from jupyter_sc2.evaluation.replay import figures, replay
    from jupyter_sc2.evaluation.typist import type_cells

    count = _counter(client)
    typed, rows = {}, {}
    for path, code in notebooks.items():
        events = type_cells(code, Random(args.seed), keys=args.keys)
        name = f"{label} {Path(path).name}".strip()
        before, ahead_before = client.tokens_read, client.tokens_ahead
        typed[path] = replay(
            client,
            _with_progress(events, name),
            speed=args.speed,
            pauses_only=getattr(client, "pauses_only", False),
            accepts=args.accept,
        )
        decoded, used = map(operator.sub, client.tokens_ahead, ahead_before)
        rows[path] = figures(
            typed[path],
            count,
            read_in_all=client.tokens_read - before,
            ahead=(decoded, used),
        )
        _say(name, rows[path])
    read = sum(row["prompt_tokens_per_key"]["total"] for row in rows.values())
    ahead = [row["decoded_ahead"] for row in rows.values()]
    decoded, used = (sum(row[name] for row in ahead) for name in ("tokens", "used"))
    return {
        **figures(list(chain(*typed.values())), count, read_in_all=read, ahead=(decoded, used)),
        "notebooks": rows,
    }


def _baselines(
    session: Session, notebooks: dict[str, list[str]], args: argparse.Namespace
) -> dict[str, Any]:
    from jupyter_sc2.evaluation.baselines import Generate, Infill

    engine = session.engine
    assert engine is not None
    if engine.name == "transformers":
        client = Generate(engine, args.max_tokens, args.context_tokens)
        return {"generate": _type_all(client, notebooks, args, "generate")}
    if engine.name == "llamacpp" and args.model.endswith(".gguf"):
        infill = Infill(Path(args.model), engine, args.max_tokens, args.threads or None)
        try:
            return {"infill": _type_all(infill, notebooks, args, "infill")}
        finally:
            infill.close()
    raise RequestError("Baselines need the engine transformers, or a GGUF file as --model.")


def _ablation(notebooks: dict[str, list[str]], args: argparse.Namespace) -> dict[str, Any]:
    from jupyter_sc2.evaluation.ablation import TECHNIQUES, without

    results = {}
    for technique in TECHNIQUES:
        session = _open(args)  # a new one, with empty caches
        try:
            with without(technique):
                typed = _type_all(session, notebooks, args, f"without {technique}:")
        finally:
            session.close()
        results[technique] = {name: typed[name] for name in typed if name != "notebooks"}
    return results


def _counter(client: Any) -> Callable[[str], int]:
    engine = getattr(client, "engine", None)
    return len if engine is None else lambda text: len(engine.encode(text))


def _print(figures: dict[str, Any]) -> None:
    for name, value in figures.items():
        if name in ("notebooks", "baselines", "without"):
            for what, rows in value.items():
                print(f"{name}: {what}")
                for row, number in rows.items():
                    if row != "notebooks":
                        print(f"  {row}: {number}")
        else:
            print(f"{name}: {value}")


def _say(name: str, figures: dict[str, Any]) -> None:
    """Prints the figures so far: a large model takes many minutes per notebook."""
    first, read = figures["first_text_ms"]["p50"], figures["prompt_tokens_per_key"]["total"]
    print(
        f"{name}: first text {'never' if first is None else f'{first:,.0f} ms'} (p50), "
        f"{read:,} prompt tokens read, {figures['keys']} keys",
        file=sys.stderr,
        flush=True,
    )


def _with_progress(events: Any, name: str) -> Any:
    if not sys.stderr.isatty():
        return events
    from tqdm import tqdm

    return tqdm(events, desc=name, unit="key")

"""Counts what a small model as the source of draft tokens would be worth, beside prompt lookup.

python -m benchmarks.drafts NOTEBOOK ... [--target FOLDER] [--draft FOLDER] [--cursors 30] [--tokens 48]

The target decodes greedily after cursors in the notebooks, where people pause. The draft model continues the same text;
its text is encoded with the target's tokenizer. Since greedy decoding does not depend on drafts, each way of drafting
is then replayed on the decoded tokens: how many passes of the target it takes, and how many tokens the draft model
decodes. Milliseconds are these counts times measured costs (COSTS) of StarCoder2-3B on two cores, not of this machine
now. Reading the notebook with the draft model, too, is not counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from jupyter_sc2.cli.evaluate import code_of
from jupyter_sc2.engines import load_engine
from jupyter_sc2.engines.base import Engine, no_draft
from jupyter_sc2.engines.decoding.prefix_cache import common_length
from jupyter_sc2.engines.decoding.prompt_lookup import MAX_NGRAM, PromptLookup
from jupyter_sc2.models.cards import EMBEDDED_FOLDER
from jupyter_sc2.notebook import Cell, Notebook
from jupyter_sc2.pipeline.completer import LOOKUP_HISTORY
from jupyter_sc2.prompt.builder import Prompt, PromptBuilder
from jupyter_sc2.types import CompletionRequest, SamplingParams
from tests.support.paths import SMALL_MODEL

# Milliseconds of a pass over 1, 2, … tokens (docs/measured.md).
COSTS = {
    "bf16": [334.0, *[360.0] * 15],
    "int4": [117.0, 119.0, 137.0, 156.0],
    "4bit": [160.0, 190.0, 221.0, 252.0],
}
DRAFT_MS = 10.0  # a token of the embedded model
DRAFT_LENGTHS = (0, 1, 2, 3, 4, 6)  # tokens of the draft model; 0 is prompt lookup alone
PAUSES = ("\n", "(", "=", ".", ", ", "= ")


@dataclass
class Decoded:
    """What the target decodes at one cursor, and the draft model's continuations by the text so far."""

    prompt: Prompt
    ids: list[int]
    continue_text: Callable[[bytes, int], bytes]


def main() -> None:
    parser = argparse.ArgumentParser(description="Count the worth of a draft model.")
    parser.add_argument("notebooks", type=Path, nargs="+")
    parser.add_argument("--target", default=str(EMBEDDED_FOLDER))
    parser.add_argument("--draft", default=str(SMALL_MODEL))
    parser.add_argument("--cursors", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=48)
    arguments = parser.parse_args()
    target, draft = (_greedy(folder) for folder in (arguments.target, arguments.draft))
    notebooks = list(code_of(arguments.notebooks).values())
    places = requests(notebooks, arguments.cursors)
    decoded = [decode(place, target, draft, arguments.tokens) for place in places]
    print("| tokens | pass | drafts of the model | passes | its tokens | ms a token | times |")
    print("|" + " --- |" * 7)
    for part in (f"{arguments.tokens}", "first line"):
        if part == "first line":
            decoded = [replace(one, ids=_first_line(one, target)) for one in decoded]
        for precision, costs in COSTS.items():
            alone = 0.0
            for length in DRAFT_LENGTHS:
                if length < len(costs):
                    sizes, drafted = count(decoded, target, len(costs) - 1, length)
                    ms = sum(costs[size] for size in sizes) + DRAFT_MS * drafted
                    alone = alone or ms
                    each = ms / sum(len(one.ids) - 1 for one in decoded)
                    print(
                        f"| {part} | {precision} | {length} | {len(sizes)} | {drafted} "
                        f"| {each:.1f} | {alone / ms:.2f} |",
                        flush=True,
                    )


def _greedy(folder: str) -> Engine:
    engine = load_engine(folder, offline=True)
    engine.capabilities = replace(engine.capabilities, beam_width=1)
    return engine


def requests(notebooks: Sequence[list[str]], wanted: int) -> list[CompletionRequest]:
    """Cursors where people pause, in the notebooks by turns."""
    rng, found = Random(0), list[CompletionRequest]()
    for number in range(wanted * 20):
        cells = notebooks[number % len(notebooks)]
        index = rng.randrange(len(cells))
        text = cells[index]
        ends = [end for end in range(1, len(text)) if text[:end].endswith(PAUSES)]
        if ends and len(found) < wanted:
            end = rng.choice(ends)
            above = [Cell(id=str(n), source=source) for n, source in enumerate(cells[:index])]
            found.append(
                CompletionRequest(
                    text=text[:end],
                    offset=end,
                    notebook=Notebook((*above, Cell(id=str(index), source=text))),
                    cell_id=str(index),
                )
            )
    return found


def decode(request: CompletionRequest, target: Engine, draft: Engine, tokens: int) -> Decoded:
    prompt = _prompt(request, target)
    small = _prompt(request, draft)
    known: dict[bytes, list[bytes]] = {}

    def continue_text(written: bytes, length: int) -> bytes:
        if len(known.get(written, ())) < length:
            text = (small.healing_suffix + written).decode(errors="ignore")
            ids = [*small.ids, *draft.encode(text)]
            drawn = draft.generate(ids, SamplingParams(max_tokens=length), (), lambda: False)
            known[written] = [draft.decode_bytes([token.id]) for token in drawn]
        return b"".join(known[written][:length])

    sampling = SamplingParams(max_tokens=tokens)
    drawn = target.generate(
        prompt.ids, sampling, (), lambda: False, prompt.constraint, draft=no_draft
    )
    return Decoded(prompt, [token.id for token in drawn], continue_text)


def _prompt(request: CompletionRequest, engine: Engine) -> Prompt:
    card = engine.card
    builder = PromptBuilder(card, engine.encode, engine.special_ids)
    return builder.build(request, budget=min(1500, card.window, card.context) - 100)


def _first_line(one: Decoded, target: Engine) -> list[int]:
    """The tokens up to the end of the first line that is not blank."""
    for end in range(1, len(one.ids)):
        if b"\n" in target.decode_bytes(one.ids[:end]).lstrip():
            return one.ids[:end]
    return one.ids


def count(
    decoded: Sequence[Decoded], target: Engine, limit: int, length: int
) -> tuple[list[int], int]:
    """The draft tokens in each pass, `limit` at most, and the tokens that the draft model has decoded for them.

    Prompt lookup drafts first, and the model, with `length` tokens, where that finds nothing.
    """
    sizes, drafted = list[int](), 0
    earlier: list[list[int]] = []
    for one in decoded:
        lookup = PromptLookup(one.prompt.ids, earlier)
        place = 0
        while place + 1 < len(one.ids):
            drawn = one.ids[: place + 1]
            written = target.decode_bytes(drawn)[len(one.prompt.healing_suffix) :]
            draft = list(lookup(drawn)[:limit])
            if not draft and length and written:
                drafted += length
                text = one.continue_text(written, length).decode(errors="ignore")
                draft = target.encode(text)[:limit]
            sizes.append(len(draft))
            place += 1 + common_length(draft, one.ids[place + 1 :])
        earlier = [*earlier, [*one.prompt.ids[-MAX_NGRAM:], *one.ids]][-LOOKUP_HISTORY:]
    return sizes, drafted


if __name__ == "__main__":
    main()

"""Measures the embedded model: `python -m benchmarks.embedded [ROWS]`.

Prints the card's table of common lines. With ROWS, from `benchmarks.holes`, also how soon the first text and a whole
line come below a notebook of some 1,000 tokens that has been read before, and the memory.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from dataclasses import replace
from pathlib import Path

from jupyter_sc2.evaluation import holes
from jupyter_sc2.evaluation.runner import open_session, read_rows
from jupyter_sc2.notebook import Cell, Notebook
from jupyter_sc2.options import CompletionOptions, LoadOptions
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.types import Completion, CompletionRequest, SamplingParams
from jupyter_sc2.usage import percentile

IMPORTS = "import numpy as np\nimport pandas as pd\nimport matplotlib.pyplot as plt"
SALES = f"{IMPORTS}\n\ndf = pd.read_csv('sales.csv')"
MODEL = "from sklearn.linear_model import LinearRegression"
SPLIT = f"{IMPORTS}\nfrom sklearn.model_selection import train_test_split\n{MODEL}"
TARGET = "X, y = df.drop(columns='target'), df['target']"
# (the cell above, the text of this one, the typed text): the last is about half of a line.
LINES = (
    ("", "", "import numpy as "),
    ("", "import numpy as np\n", "import pandas as "),
    ("", "import numpy as np\nimport pandas as pd\n", "import matplotlib.pyplot as "),
    ("", f"{IMPORTS}\n", "from sklearn.model_selection import train_"),
    (IMPORTS, "", "df = pd.read_c"),
    (SALES, "", "df.he"),
    (SALES, "", "df.groupby('region')['amount']."),
    (SALES, "", "fig, ax = plt.sub"),
    (SALES, "fig, ax = plt.subplots()\n", "ax.plot("),
    (SALES, "fig, ax = plt.subplots()\nax.plot(df['date'], df['amount'])\n", "ax.set_xl"),
    (f"{SPLIT}\n\n{TARGET}", "", "X_train, X_test, y_"),
    (f"{SPLIT}\n\n{TARGET}", "model = LinearRegression()\n", "model.fit("),
    (SPLIT, "model.fit(X_train, y_train)\n", "y_pred = model.pre"),
    ("", "name = 'Ada'\nage = 36\n", 'print(f"{name} is {'),
    ("", "values = [3, 1, 2]\n", "for i, value in enum"),
    ("", "values = [3, 1, 2]\n", "squares = [v ** 2 for "),
    ("", "", "with open('data.txt') as "),
    ("import json", "with open('config.json') as f:\n", "    config = json."),
    ("", "def mean(values):\n", "    return sum(values) / "),
    (IMPORTS, "", "x = np.linspace(0, "),
)
PAUSE_S = 0.7  # longer than the debounce
CONTEXT_CHARS = 2_500  # of the cells above, at some three characters a token
ARRIVING, TYPING, RESTING = 20, 60, 60  # rows; most of the typed ones need no model


def ordinary_lines(session: Session) -> None:
    print("| above | typed | completed |\n|---|---|---|")
    for above, before, typed in LINES:
        text = before + typed
        notebook = Notebook(tuple(Cell(id="above", source=source) for source in [above] if source))
        request = CompletionRequest(text=text, offset=len(text), notebook=notebook)
        *_, said = session.complete(request)
        stands = f"{above}\n{before}".strip("\n").replace(f"{IMPORTS}\n", "…\n")
        print(f"| {in_a_row(stands)} | `{typed}` | {in_a_row(said.text)} |")


def in_a_row(code: str) -> str:
    return f"`{code}`".replace("\n", "⏎") if code else ""


def first_text(session: Session, request: CompletionRequest) -> tuple[float | None, Completion]:
    """Milliseconds until there is something to show, and how it ended."""
    began, first = time.perf_counter(), None
    for said in session.complete(request):
        if said.text and first is None:
            first = (time.perf_counter() - began) * 1000
    return first, said


def latency(rows: Path, confidence: float | None) -> None:
    """Times where the cells above have been read, where the user has typed up to the cursor, and where it has
    rested."""
    session = open_session(LoadOptions(model="embedded", offline=True), max_tokens=32)
    sampling = SamplingParams(max_tokens=32)
    session.configure(CompletionOptions(sampling=sampling, confidence=confidence))
    below_long = [
        r for r in read_rows(rows, holes.NEEDED) if sum(map(len, r["cells"])) >= CONTEXT_CHARS
    ]
    asked = [holes.request(row) for row in below_long if row["prefix"]]
    # Each row once, because answers are cached.
    arriving = [(replace(one, text="", offset=0), one) for one in asked[:ARRIVING]]
    typing = [(a_key_before(one), one) for one in asked[ARRIVING:][:TYPING]]
    resting = [(a_key_before(one), one) for one in asked[ARRIVING + TYPING :][:RESTING]]
    scenes = (
        ("asked in another cell", arriving),
        ("asked a key before", typing),
        ("the cursor rested a key before", resting),
    )
    for name, pairs in scenes:
        firsts: list[float] = []
        lines: list[float] = []
        read: list[int] = []
        for before, one in pairs:
            time.sleep(PAUSE_S)
            if pairs is resting:
                session.prefetch(before)
                while not session.idle:
                    time.sleep(0.01)
            else:
                first_text(session, before)
            time.sleep(PAUSE_S)
            first, said = first_text(session, one)
            # The suggestion of the previous key needs no model if it still applies.
            if first is not None and said.stats.generated_tokens:
                firsts.append(first)
                read.append(said.stats.prompt_tokens - said.stats.reused_tokens)
                if 8 <= said.stats.generated_tokens <= 12:
                    lines.append(said.stats.total_ms)
        gate = "as usual" if confidence is None else confidence
        print(
            f"confidence {gate}, {name}: first text {spread(firsts)}; "
            f"8 to 12 tokens {spread(lines)}; {statistics.median(read or [0]):.0f} tokens of the prompt read"
        )
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB at most")
    session.close()


def a_key_before(request: CompletionRequest) -> CompletionRequest:
    text, offset = request.text, request.offset
    return replace(request, text=text[: offset - 1] + text[offset:], offset=offset - 1)


def spread(times: list[float]) -> str:
    if not times:
        return "never"
    p90 = percentile(sorted(times), 0.9)
    return f"{statistics.median(times):.0f} ms (p90 {p90:.0f}, of {len(times)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path, nargs="?")
    args = parser.parse_args()
    if args.rows:
        for confidence in (None, 0.0):
            latency(args.rows, confidence)
    session = open_session(LoadOptions(model="embedded", offline=True), max_tokens=16)
    ordinary_lines(session)
    session.close()


if __name__ == "__main__":
    main()

"""What is found in indexed code and what is not, and what a session does about it."""

from __future__ import annotations

import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest

from jupyter_sc2.attribution.check import Checker
from jupyter_sc2.attribution.index import Index, writing
from jupyter_sc2.attribution.lexemes import HASH
from jupyter_sc2.attribution.match import Matcher
from jupyter_sc2.attribution.sources import named
from jupyter_sc2.kernel.comm import protocol
from jupyter_sc2.notebook import Notebook
from jupyter_sc2.options import CompletionOptions
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.types import Attribution, Completion, CompletionRequest
from tests.support.fake_engine import FakeEngine
from tests.support.paths import ROOT
from tests.support.planted import original, own_code, planted

STDLIB = Path(sysconfig.get_path("stdlib"))
MODULES = (
    *("argparse", "ast", "calendar", "dataclasses", "difflib"),
    *("enum", "fractions", "inspect", "statistics", "tarfile"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of some modules of the standard library."""
    place = tmp_path_factory.mktemp("index")
    with writing(place) as writer:
        writer.update([named(STDLIB / f"{module}.py", licence="PSF-2.0") for module in MODULES])
    return place


@pytest.fixture(scope="module")
def matcher(place: Path) -> Matcher:
    return Matcher(Index(place))


def function(module: str, name: str) -> str:
    lines = (STDLIB / f"{module}.py").read_text("utf-8").split("\n")
    start = next(n for n, line in enumerate(lines) if line.lstrip().startswith(f"def {name}("))
    depth = len(lines[start]) - len(lines[start].lstrip())
    end = next(
        n for n in range(start + 1, len(lines))
        if lines[n].strip() and len(lines[n]) - len(lines[n].lstrip()) <= depth and lines[n].strip()[0] not in ")]"
    )  # fmt: skip
    return "\n".join(lines[start:end])


BLOCK = function("difflib", "find_longest_match")


def test_planted_fragments_are_found_and_original_code_is_not(matcher):
    files = [STDLIB / f"{module}.py" for module in MODULES]
    found: dict[str, list[bool]] = {}
    for one in planted(files, 150):
        names = [match.attribution.path for match in matcher.find(one.text, HASH)]
        found.setdefault(one.kind, []).append(one.file.name in names)
    sure = found["exact"] + found["reformatted"]
    assert sum(sure) >= 0.99 * len(sure)
    assert sum(found["line dropped"]) > 0.5 * len(found["line dropped"])
    for text in [*original(60), *own_code(ROOT, 30)]:
        assert matcher.find(text, HASH) == []


def test_a_match_says_where_it_is(matcher):
    (match,) = matcher.find(f"x = 1\n{BLOCK}\n", HASH)
    attribution = match.attribution
    lines = (STDLIB / "difflib.py").read_text("utf-8").split("\n")
    first, last = attribution.lines
    assert lines[first - 1].lstrip().startswith("def find_longest_match(")
    assert BLOCK.strip().split("\n")[-1].strip() == lines[last - 1].strip() or last > first
    assert (attribution.source, attribution.licence) == ("difflib.py", "PSF-2.0")
    assert attribution.verified
    assert match.start == 10


def test_each_run_in_a_text_is_found(matcher):
    other = function("difflib", "get_matching_blocks")
    text = f"{BLOCK}\n{next(original(1))}\n{other}"
    first, second = sorted(matcher.find(text, HASH), key=lambda match: match.start)
    assert "def find_longest_match" in text[first.start : first.end]
    assert "def get_matching_blocks" in text[second.start : second.end]


def test_the_threshold_counts_lexemes(matcher):
    (match,) = matcher.find(BLOCK, HASH)
    length = match.attribution.lexemes
    assert matcher.find(BLOCK, HASH, threshold=length)
    assert matcher.find(BLOCK, HASH, threshold=length + 1) == []


def test_tables_of_numbers_match_nothing(tmp_path):
    table = "DATA = [\n" + "    [1.5, None, True, -2],\n" * 60 + "]\n"
    (tmp_path / "table.py").write_text(table * 5)
    with writing(tmp_path / "index") as writer:
        writer.update([named(tmp_path / "table.py")])
    assert Matcher(Index(tmp_path / "index")).find(table, HASH) == []


@pytest.mark.parametrize(("changed", "found"), [(0, 1), (1, 0)])
def test_a_run_of_few_names_matches_if_it_is_the_same_to_the_letter(tmp_path, changed, found):
    def table(change):
        return "".join(f"    (f * 10**-{n}, ' {n * 7 + change}.5a'),\n" for n in range(20))

    (tmp_path / "table.py").write_text(f"DATA = [\n{table(0)}]\n")
    with writing(tmp_path / "index") as writer:
        writer.update([named(tmp_path / "table.py")])
    assert len(Matcher(Index(tmp_path / "index")).find(table(changed), HASH)) == found


def test_a_changed_file_is_not_reported_and_a_lost_one_by_the_index_alone(tmp_path):
    file = tmp_path / "lost.py"
    file.write_text(BLOCK)
    with writing(tmp_path / "index") as writer:
        writer.update([named(file)])
    file.write_text(next(original(1)))
    assert Matcher(Index(tmp_path / "index")).find(BLOCK, HASH) == []
    file.unlink()
    (match,) = Matcher(Index(tmp_path / "index")).find(BLOCK, HASH)
    assert not match.attribution.verified
    assert match.attribution.lines is None


def test_a_match_of_hashes_is_verified_in_the_file(matcher, monkeypatch):
    """As if all runs had one hash."""
    import numpy as np

    from jupyter_sc2.attribution import match as module

    hashes, _ = module.fingerprints(module.lex(BLOCK.encode(), HASH).numbers)
    text = next(original(1))

    def all_alike(numbers):
        return np.full(len(numbers) - 24, hashes[0], np.uint32), np.arange(
            len(numbers) - 24, dtype=np.uint32
        )

    monkeypatch.setattr(module, "fingerprints", all_alike)
    assert matcher.find(text, HASH) == []


# A suggestion, in its cell


def request(text: str, offset: int | None = None, **more) -> CompletionRequest:
    return CompletionRequest(
        text=text,
        offset=len(text) if offset is None else offset,
        notebook=Notebook(),
        trigger="invoke",
        id="r",
        **more,
    )


CUT = BLOCK.rindex("\n", 0, -200)
BEFORE, REST = BLOCK[: CUT + 1], BLOCK[CUT + 1 :]
SUGGESTED = REST.split("\n")[0]


def test_a_suggestion_counts_together_with_the_code_around_it(place):
    checker = Checker(Index(place))
    assert checker.matches(request(SUGGESTED[:0]), SUGGESTED, 65) == ()
    (found, *_) = checker.matches(request(BEFORE), REST, 65)
    assert found.path == "difflib.py"
    behind = BLOCK[CUT + 1 + len(SUGGESTED) :]
    assert checker.matches(request(BEFORE + behind, len(BEFORE)), SUGGESTED, 65)


def test_the_likeliest_origin_is_found_however_slow_the_machine_is(place, monkeypatch):
    monkeypatch.setattr("jupyter_sc2.attribution.check.LOOKUP_TIMEOUT_S", 0.0)
    assert Checker(Index(place)).matches(request(BEFORE), REST, 65)


def test_a_suggestion_beside_copied_code_is_none(place):
    checker = Checker(Index(place))
    for text in original(5, seed=9):
        assert checker.matches(request(BLOCK + "\n\n\n"), text, 65) == ()


def test_without_an_index_nothing_is_imported(tmp_path):
    import subprocess

    code = (
        "import sys; from pathlib import Path; from jupyter_sc2.attribution.check import Checker;"
        "from jupyter_sc2.attribution.index import Index; from jupyter_sc2.types import *;"
        f"Checker(Index(Path({str(tmp_path)!r}))).matches(CompletionRequest(text='a', offset=1), 'b', 65);"
        "print('numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_what_goes_wrong_with_the_index_does_not_keep_a_suggestion_back(place, monkeypatch):
    checker = Checker(Index(place))
    monkeypatch.setattr(Matcher, "find", lambda *args, **more: 1 / 0)
    assert checker.matches(request(BEFORE), REST, 65) == ()


def answers(place: Path, policy: str, candidates: int = 1, trigger="invoke") -> list[Completion]:
    engine = FakeEngine()
    engine.answers = [REST]
    options = CompletionOptions(attribution=policy)
    options = replace(options, sampling=replace(options.sampling, max_tokens=1000))
    session = Session(
        load_engine=lambda model, **more: engine, options=options, attributor=Checker(Index(place))
    )
    try:
        session.load()
        session.wait_ready(20)
        return list(
            session.complete(replace(request(BEFORE), candidates=candidates, trigger=trigger))
        )
    finally:
        session.close()


@pytest.mark.parametrize("policy", ["show", "warn"])
def test_a_session_says_where_a_suggestion_may_come_from(place, policy):
    final = answers(place, policy)[-1]
    assert final.text
    assert final.attribution[0].path == "difflib.py"
    assert final.policy == policy


def test_a_session_can_switch_the_check_off(place):
    final = answers(place, "off")[-1]
    assert final.text
    assert final.attribution == ()


def test_a_blocked_suggestion_is_not_shown_not_even_in_part(place):
    updates = answers(place, "block")
    assert [one.text for one in updates] == [""]
    assert updates[-1].reason == "matches_indexed_code"
    assert updates[-1].attribution


def test_without_an_index_a_text_is_shown_as_it_grows_whatever_is_to_be_blocked(tmp_path):
    assert len(answers(tmp_path, "block")) > 1


def test_the_message_to_the_front_end_has_the_attribution_only_where_there_is_one():
    one = Attribution(
        source="pandas", version="3", licence="BSD-3-Clause", path="a.py", lines=(1, 9)
    )
    completion = Completion(text="x", finish_reason="stop", attribution=(one,), policy="warn")
    message = protocol.update("1", completion)
    assert message["attribution"][0]["source"] == "pandas"
    assert message["policy"] == "warn"
    assert not {"attribution", "policy"} & protocol.update("1", Completion(text="x")).keys()

import pytest

from jupyter_sc2.attribution.lexemes import DASH, HASH, MARK_INTERVAL_BYTES, SLASH, lex, readings
from jupyter_sc2.attribution.winnow import (
    GUARANTEED_LEXEMES,
    RUN_LEXEMES,
    WINDOW_RUNS,
    fingerprints,
)


def words(text: str, family=HASH) -> list[str]:
    lexemes = lex(text.encode(), family)
    return [lexemes.text[slice(*lexemes.span(i))].decode() for i in range(len(lexemes))]


def same(one: str, other: str, family=HASH) -> bool:
    return (
        lex(one.encode(), family).numbers.tolist() == lex(other.encode(), family).numbers.tolist()
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = f(a, b)  # why\n", "x=f( a,\n  b,)"),
        ("name = 'one'", 'name = f"""two"""'),
        ("return (a and\n        b)", "return a and b"),
        ("for (a, b) in (c):\n    pass", "for a, b in c: pass"),
        ("x = 'a' 'b'\ny = [1, 2, 3]", "x = r'ab'\ny = [4]"),
        ("def f():\n    '''Says.'''\n    return 1", "def f():\n    return 2"),
        ("from a import (b, c)", "from a import b, c"),
        ("if a:\n    b = 1; c = 2", "if a:\n    b = 1\n    c = 2"),
        ("x = a + \\\n    b", "x = a + b"),
        ("x = 1e-3 * .5", "x = 0.001 * 0.5"),
    ],
)
def test_what_a_formatter_changes_makes_no_difference(one, other):
    assert same(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = f(a)", "x = f(b)"),
        ("x = f(a)", "x = f[a]"),
        ("x = f()", "x = f"),
        ("x = a + b", "x = a - b"),
        ("x = {'a': 1}", "x = {a: 1}"),
    ],
)
def test_names_and_signs_do(one, other):
    assert not same(one, other)


def test_a_run_is_as_long_as_its_tokens_are_many():
    lexemes = lex(b"x = [1, 2, 3]  # one\ny = (a) + b", HASH)
    assert len(lexemes) == 10
    assert lexemes.length(0, 10) == 16


def test_comments_are_those_of_the_language():
    assert words("let a = b; // c\n/* d\n e */ f(`g\nh`)", SLASH) == [
        "let",
        "a",
        "=",
        "b",
        "f",
        "(",
        "`g\nh`",
        ")",
    ]
    assert words("select a -- b\n from c", DASH) == ["select", "a", "from", "c"]
    assert words("a // b  # c") == ["a", "/", "/", "b"]


def test_a_string_that_is_not_closed_ends_with_its_line():
    assert words('x = "abc\ny = 1') == ["x", "=", '"abc', "y", "=", "1"]


def test_any_bytes_are_lexemes():
    everything = bytes(range(256)) * 3
    for family in (HASH, SLASH, DASH):
        lexemes = lex(everything, family)
        assert lexemes.span(len(lexemes) - 1)[1] <= len(everything)


def test_a_long_text_is_read_in_chunks_that_make_no_difference():
    line = "value_{0} = compute(first_{0}, 'text {0}', [1, 2])  # about {0}\n"
    text = (
        "".join(line.format(n) for n in range(2000))
        + '"""'
        + "x\n" * MARK_INTERVAL_BYTES
        + '"""\nlast = 1'
    )
    lexemes = lex(text.encode(), HASH)
    assert len(lexemes.marks) > 10
    once = [number for n in range(2000) for number in lex(line.format(n).encode(), HASH).numbers]
    assert lexemes.numbers.tolist() == once + lex(b"last = 1", HASH).numbers.tolist()
    byte, before = lexemes.marked()[7]
    rest = lex(text.encode()[byte:], HASH)
    assert rest.numbers[:500].tolist() == lexemes.numbers[before : before + 500].tolist()


def test_a_text_may_begin_in_a_docstring():
    code = "a = b + c\n" * 3
    found = [lexemes for _, lexemes in readings(f"of a sentence.\n'''\n{code}".encode(), HASH)]
    assert any(same(lexemes.text.decode(), code) for lexemes in found)


def test_texts_with_enough_in_common_share_a_fingerprint():
    import numpy as np

    rng = np.random.default_rng(0)
    for _ in range(200):
        common = rng.integers(1, 2**63, GUARANTEED_LEXEMES, dtype=np.uint64)
        one, other = (
            np.concatenate(
                [rng.integers(1, 2**63, n, np.uint64), common, rng.integers(1, 2**63, m, np.uint64)]
            )
            for n, m in rng.integers(0, 80, (2, 2))
        )
        first, second = (set(fingerprints(numbers)[0].tolist()) for numbers in (one, other))
        assert first & second


def test_fingerprints_are_few():
    import numpy as np

    numbers = np.random.default_rng(1).integers(1, 2**63, 50_000, dtype=np.uint64)
    hashes, places = fingerprints(numbers)
    assert len(hashes) / len(numbers) == pytest.approx(2 / (WINDOW_RUNS + 1), rel=0.05)
    assert max(np.diff(places)) <= WINDOW_RUNS
    constant = np.full(10_000, 7, np.uint64)
    assert len(fingerprints(constant)[0]) < 10_000 / WINDOW_RUNS + 2


def test_a_text_shorter_than_a_run_has_none():
    import numpy as np

    assert len(fingerprints(np.ones(RUN_LEXEMES - 1, np.uint64))[0]) == 0

"""One completion while it is decoded: where another way is taken, and what is not shown before it is sure."""

from __future__ import annotations

from jupyter_sc2.pipeline.candidate import Candidate
from jupyter_sc2.pipeline.grounding import Violation
from jupyter_sc2.prompt.builder import Prompt
from jupyter_sc2.types import CompletionRequest, Token

NEVER = -9.0


def request(prefix: str, suffix: str = "") -> CompletionRequest:
    return CompletionRequest(text=prefix + suffix, offset=len(prefix))


class Words:
    """A tokenizer whose tokens are whole words, for scripts of what a model says."""

    def __init__(self) -> None:
        self._words: list[str] = []

    def id(self, word: str) -> int:
        if word not in self._words:
            self._words.append(word)
        return self._words.index(word)

    def decode(self, ids) -> bytes:
        return "".join(self._words[id] for id in ids).encode()

    def encode(self, text: str) -> list[int]:
        return [self.id(char) for char in text]


def said(
    asked: CompletionRequest, *ways: list, healing_suffix: bytes = b"", confidence: float = 0.0
):
    """Decodes each way in turn: words, or (word, nats, another, nats); returns the drawing and its prompts.

    The first of a later way is what the drawing has gone back to.
    """
    words = Words()
    candidate = Candidate(asked, Prompt((), "spm", healing_suffix), threshold=confidence)
    prompts = []
    for prompt, way in zip(candidate.prompts(words.encode, words.decode), ways, strict=False):
        prompts.append((words.decode(prompt.ids).decode(), prompt.healing_suffix))
        for step in way:
            word, nats, *other = (step, -0.1) if isinstance(step, str) else step
            others = ((words.id(other[0]), other[1]),) if other else ()
            candidate.add(word.encode(), Token(words.id(word), nats, alternatives=others))
            if candidate.complete:
                break
    return candidate, prompts


def test_instead_of_the_line_below_the_next_likeliest_is_said():
    asked = request("", "\nimport seaborn as sns")
    candidate, prompts = said(
        asked,
        ["import", (" seaborn", -0.5, " numpy", -0.9), (" as", -0.1, ",", -4.0), " sns", "\n"],
        [" as", " np", "\n"],
    )
    assert prompts == [("", b""), ("import numpy", b"")]
    assert candidate.finish(cancelled=False).text == "import numpy as np"


def test_instead_of_a_comment_code_is_said():
    candidate, prompts = said(
        request("x = 1\n"), [("#", -0.3, "y", -2.0), " a", " b"], [" = 2", "\n"]
    )
    assert prompts[1] == ("y", b"")
    assert candidate.finish(cancelled=False).text == "y = 2"


def test_what_the_user_has_begun_stays():
    candidate, prompts = said(
        request("model.s", "\nmodel.show()"),
        [("s", 0.0, "t", NEVER), ("how", -0.2, "core", -0.7), "()", "\n"],
        ["(X, y)", "\n"],
        healing_suffix=b"s",
    )
    assert prompts[1] == ("score", b"")
    assert candidate.finish(cancelled=False).text == "core(X, y)"


def test_what_is_left_of_a_begun_word_is_still_spelled():
    _, prompts = said(
        request("model.sh", "\nmodel.show()"),
        [("show", -0.2, "s", -0.7), "()", "\n"],
        [],
        healing_suffix=b"sh",
    )
    assert len(prompts) == 1  # a way that shows nothing is none
    _, prompts = said(
        request("model.sh", "\nmodel.show()"),
        [("show", -0.2, "shift", -0.7), "()", "\n"],
        [],
        healing_suffix=b"sh",
    )
    assert prompts[1] == ("shift", b"")


def test_a_model_that_is_done_is_not_asked_again():
    _, prompts = said(request("x = 1"), [("\n", -0.3, " + 2", -1.0)], ["\n"])
    assert len(prompts) == 1


def test_the_same_line_in_other_tokens_is_no_other_way():
    _, prompts = said(
        request("", "\nplt.show()"),
        [("plt", -0.2, "pl", -0.3), (".show()", -0.2, ".title('')", -3.0), "\n"],
        ["\n"],
    )
    assert prompts[1] == ("plt.title('')", b"")


def test_other_ways_come_to_an_end():
    line = [("plt.show()", -0.2, "fig.show()", -0.3), "\n"]
    again = [("\n", -0.2, "  # now", -0.3)]
    _, prompts = said(request("plt.show()\n", "\nfig.show()"), line, again, again, again, again)
    assert len(prompts) <= 4


def test_another_way_counts_by_its_own_likelihood():
    candidate, _ = said(
        request("x = 1\n"), [("#", -0.1, "y", -3.0)], [" = ", "2", "\n"], confidence=0.5
    )
    assert candidate.finish(cancelled=False).reason == "low_confidence"


def test_what_is_cut_short_ends_with_a_whole_word_and_no_open_bracket():
    candidate, _ = said(
        request("model = KM"), ["eans", "(n_clusters", "=8", (", rand", -2.5)], confidence=0.25
    )
    assert candidate.complete
    assert candidate.finish(cancelled=False).text == "eans"


def test_a_part_that_could_not_be_the_whole_is_not_shown():
    def check(text, final):
        return Violation("column", ":", 0) if text == ":'" else None

    candidate = Candidate(request("df.loc[1, '"), Prompt((), "spm"), check, threshold=0.25)
    candidate.add(b":'", Token(0, -0.1))
    assert not candidate.add(b" + x", Token(1, -0.9))
    assert candidate.text == ":'"


def test_what_may_come_to_be_the_line_below_is_not_shown_yet():
    candidate = Candidate(request("plt", "\nplt.show()"), Prompt((), "spm"))
    assert not candidate.add(b".s", Token(0, -0.1))
    assert candidate.add(b"avefig", Token(1, -0.1))


def test_instead_of_the_value_that_a_variable_has_the_next_likeliest_is_said():
    candidate, prompts = said(
        request("df = "),
        ["df", ("\n", -0.4, ".dropna()", -0.9)],
        ["\n"],
    )
    assert prompts[1] == ("df.dropna()", b"")
    assert candidate.finish(cancelled=False).text == "df.dropna()"


def test_what_may_come_to_be_the_value_that_a_variable_has_is_not_shown_yet():
    candidate = Candidate(request("df['a'] = "), Prompt((), "spm"))
    assert not candidate.add(b"df[", Token(0, -0.1))
    assert candidate.add(b"'b']", Token(1, -0.1))


def test_of_a_value_that_begins_with_the_variable_a_sure_beginning_is_shown():
    candidate, _ = said(
        request("df = "), ["df", (".dropna()", -3.0, ".head()", -3.1), "\n"], confidence=0.5
    )
    assert candidate.finish(cancelled=False).text == "df"


def test_in_the_middle_of_a_line_nothing_is_shown_before_it_is_whole():
    words = Words()
    candidate = Candidate(request("print(", ", y)"), Prompt((), "spm", b""))
    assert not any(
        candidate.add(w.encode(), Token(words.id(w), -0.1)) for w in ("df", ".head", "(")
    )
    candidate.add(b")", Token(words.id(")"), -0.1))
    assert candidate.finish(cancelled=False).text == "df.head()"


def test_before_the_bracket_that_an_editor_closed_a_text_is_shown_while_it_grows():
    candidate = Candidate(request("print(", ")"), Prompt((), "spm", b""))
    assert candidate.add(b"df", Token(0, -0.1))


def test_a_text_that_ends_at_the_limit_of_its_tokens_closes_what_it_opened():
    candidate = Candidate(request("x = "), Prompt((), "spm", b""))
    candidate.add(b"f('a", Token(0, -0.1))
    completion = candidate.finish(cancelled=False)
    assert (completion.text, completion.finish_reason) == ("f('a')", "length")

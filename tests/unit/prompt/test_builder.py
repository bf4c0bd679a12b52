from dataclasses import replace
from itertools import pairwise

import pytest

from jupyter_sc2.models.cards import EMBEDDED, ModelCard, cards
from jupyter_sc2.notebook import Cell, Notebook
from jupyter_sc2.prompt.builder import (
    PromptBuilder,
    drop_oldest,
    split_at_boundary,
)
from jupyter_sc2.prompt.cell_text import cell_text, output_text
from jupyter_sc2.types import CompletionRequest
from tests.support.fake_engine import SPECIAL_IDS, FakeEngine

CELLS = Notebook(
    (
        Cell(id="1", source="import numpy as np"),
        Cell(id="2", source="# Data\nWe load it.", cell_type="markdown"),
        Cell(id="3", source="x = np.ones(3)\n"),
        Cell(id="4", source="below = 1"),
    )
)
TRUNK = (
    "<repo_name>notebook<file_sep>notebook.py\nimport numpy as np\n\n# # Data\n# We load it.\n\n"
)


def build(
    text: str, offset: int | None = None, *, budget: int = 4000, **fields
) -> tuple[str, str, bytes]:
    engine = FakeEngine()
    builder = PromptBuilder(EMBEDDED, engine.encode, engine.special_ids)
    request = CompletionRequest(text=text, offset=len(text) if offset is None else offset, **fields)
    prompt = builder.build(request, budget=budget)
    engine.prompts.append(prompt.ids)
    return engine.asked(), prompt.mode, prompt.healing_suffix


def test_at_the_end_of_a_cell_the_prompt_reads_left_to_right():
    assert build("y = x", notebook=CELLS, cell_id="3") == (TRUNK + "y =", "left-to-right", b" x")


def test_inside_a_cell_the_suffix_comes_before_the_prefix():
    prompt, mode, healing_suffix = build("y = \nprint(y)", 4, notebook=CELLS, cell_id="3")
    block = "<file_sep><fim_prefix><fim_suffix>\nprint(y)<fim_middle>cell.py\ny = "
    assert (prompt, mode, healing_suffix) == (TRUNK + block, "spm", b"")


def test_a_model_that_heals_spells_the_word_at_the_cursor_again():
    engine = FakeEngine()
    builder = PromptBuilder(
        replace(EMBEDDED, token_healing=True), engine.encode, engine.special_ids
    )
    request = CompletionRequest(text="y = np.lin\nprint(y)", offset=10)
    prompt = builder.build(request, budget=4000)
    engine.prompts.append(prompt.ids)
    assert engine.asked().endswith("<fim_suffix>\nprint(y)<fim_middle>cell.py\ny = np.")
    assert (prompt.mode, prompt.healing_suffix) == ("spm", b"lin")


@pytest.mark.parametrize("suffix", ["", "\n\n", ")", "])\n", '")'])
def test_blanks_and_closers_behind_the_cursor_are_no_suffix(suffix):
    assert build("f(a" + suffix, 3)[1] == "left-to-right"


def test_special_tokens_in_a_cell_stay_text():
    cell = Cell(id="1", source="tag = '<fim_middle>'")
    prompt = PromptBuilder(EMBEDDED, FakeEngine().encode, SPECIAL_IDS).build(
        CompletionRequest(text="<file_sep>\nx", offset=0, notebook=Notebook((cell,)), cell_id="2"),
        budget=4000,
    )
    assert prompt.ids.count(SPECIAL_IDS["<fim_middle>"]) == 1
    assert prompt.ids.count(SPECIAL_IDS["<file_sep>"]) == 2


def test_the_notebook_context_keeps_its_ids_while_the_user_types():
    engine = FakeEngine()
    builder = PromptBuilder(EMBEDDED, engine.encode, engine.special_ids)
    prompts = [
        builder.build(
            CompletionRequest(text=text, offset=len(text), notebook=CELLS, cell_id="3"), budget=4000
        ).ids
        for text in ("y", "y =", "y = np", "y = np.\n")
    ]
    notebook_context = len(engine.encode("x" * (len(TRUNK) - len("<repo_name><file_sep>")))) + 2
    assert len({prompt[:notebook_context] for prompt in prompts}) == 1


def test_the_next_cell_appends_to_the_notebook_context():
    here, *_ = build("", notebook=CELLS, cell_id="3")
    below, *_ = build("", notebook=CELLS, cell_id="4")
    assert below == here + "x = np.ones(3)\n\n"


def test_the_prompt_stays_within_its_budget():
    notebook = Notebook(tuple(Cell(id=str(n), source=f"value_{n} = {n}") for n in range(2000)))
    engine = FakeEngine()
    builder = PromptBuilder(EMBEDDED, engine.encode, engine.special_ids)
    for text, offset in (("y = ", 4), ("a\n" * 20000, 20000), ("é" * 5000, 100)):
        request = CompletionRequest(text=text, offset=offset, notebook=notebook)
        assert 0 < len(builder.build(request, budget=300).ids) <= 300


def test_what_is_nearest_the_cursor_is_kept():
    notebook = Notebook(tuple(Cell(id=str(n), source=f"value_{n} = {n}") for n in range(2000)))
    prompt, *_ = build("y = ", notebook=notebook, budget=300)
    assert prompt.endswith("value_1999 = 1999\n\ny =")


def test_typing_a_long_cell_moves_the_front_of_the_notebook_context_seldom():
    notebook = Notebook(tuple(Cell(id=str(n), source=f"value_{n} = {n}") for n in range(2000)))
    typed = "total = value_1 + value_2\n" * 40
    fronts = [
        build(typed[:end], notebook=notebook, budget=2000)[0][:100] for end in range(0, 1000, 7)
    ]
    assert sum(one != other for one, other in pairwise(fronts)) <= 3


def test_an_older_part_is_dropped_in_steps_and_not_with_each_line():
    lines = [f"line {n:04}\n" for n in range(500)]
    starts = [drop_oldest(lines[:end], 1000)[0] for end in range(100, 500)]
    assert len(set(starts)) <= 12
    assert all(sum(map(len, drop_oldest(lines[:end], 1000))) <= 1000 for end in range(500))


@pytest.mark.parametrize(
    ("excluded_sources", "kept", "gone"),
    [("cells", "# We load it.", "numpy"), ("markdown", "numpy", "We load it")],
)
def test_a_source_that_is_switched_off_is_not_read(excluded_sources, kept, gone):
    engine = FakeEngine()
    builder = PromptBuilder(EMBEDDED, engine.encode, engine.special_ids)
    request = CompletionRequest(text="y = x", offset=5, notebook=CELLS, cell_id="3")
    engine.prompts.append(
        builder.build(request, budget=4000, excluded_sources=(excluded_sources,)).ids
    )
    assert kept in engine.asked() and gone not in engine.asked()


def test_a_raw_cell_is_no_context():
    assert cell_text(Cell(id="1", source="raw", cell_type="raw")) == ""


@pytest.mark.parametrize(
    ("prefix", "head", "tail"),
    [
        ("import numpy as ", "import numpy as", " "),
        ("df.grou", "df.", "grou"),
        ("plt.plot(", "plt.plot", "("),
        ("if x:\n    ", "if x:", "\n    "),
        ("x = [1, 2", "x = [1,", " 2"),
        ("a_very_long_name_of_a_variable", "a_very_long_name_of_a_variable", ""),
        ("", "", ""),
    ],
)
def test_a_left_to_right_prompt_is_cut_before_its_last_word(prefix, head, tail):
    assert split_at_boundary(prefix) == (head, tail)


def test_what_is_known_of_the_variables_stands_right_before_the_cell():
    engine = FakeEngine()
    builder = PromptBuilder(EMBEDDED, engine.encode, engine.special_ids)
    state = "# x: ndarray (3,) float64\n"
    for text, suffix in (("y = ", ""), ("y = ", "\nprint(y)")):
        request = CompletionRequest(text=text + suffix, offset=4, notebook=CELLS, cell_id="3")
        engine.prompts.append(builder.build(request, budget=4000, state=state).ids)
        assert engine.asked().endswith(f"{state}{text}".rstrip()) or engine.asked().endswith(
            f"{state}{text}"
        )


def test_of_cells_that_do_not_fit_the_imports_stay():
    first = Cell(id="0", source="import numpy as np\nfrom math import pi\nx = 1")
    rest = [Cell(id=str(n), source=f"value_{n} = {n} + {n}") for n in range(1, 200)]
    prompt, *_ = build("y = ", notebook=Notebook((first, *rest)), budget=300)
    assert "notebook.py\nimport numpy as np\nfrom math import pi\n\nvalue_" in prompt
    assert "x = 1" not in prompt


def test_an_import_over_several_lines_is_not_torn():
    first = Cell(id="0", source="from math import (\n    pi,\n)")
    rest = [Cell(id=str(n), source=f"value_{n} = {n} + {n}") for n in range(1, 200)]
    prompt, *_ = build("y = ", notebook=Notebook((first, *rest)), budget=300)
    assert "import" not in prompt


@pytest.mark.parametrize(
    ("first", "ending"),
    [
        ("%%bash", "sh"),
        ("%%sql sqlite://", "sql"),
        ("%%html", "html"),
        ("%%javascript", "js"),
        ("%%R -i df", "r"),
        ("%%writefile main.rs", "rs"),
        ("%%writefile notes.txt", "txt"),
    ],
)
def test_below_a_cell_magic_the_cell_is_in_its_language(first, ending):
    prompt, *_ = build(f"{first}\nx\ny", len(first) + 2)
    assert first not in prompt
    assert prompt.endswith(f"cell.{ending}\nx")


@pytest.mark.parametrize("first", ["%%time", "%%capture out", "%%timeit -n 3"])
def test_a_cell_magic_that_runs_python_leaves_it_python(first):
    prompt, *_ = build(f"{first}\nx\ny", len(first) + 2)
    assert prompt.endswith(f"cell.py\n{first}\nx")


# Outputs, and notebooks in StarCoder2's own format


RUN = Notebook(
    (
        Cell(id="1", source="df.head(2)", outputs=("   a  b\n0  1  2\n1  3  4",)),
        Cell(id="2", source="# Then", cell_type="markdown"),
        Cell(id="3", source="df.plot()", outputs=("<Axes: xlabel='a'>",)),
    )
)


def lay_out(card: ModelCard, *, excluded_sources: tuple[str, ...] = (), state: str = "") -> str:
    engine = FakeEngine()
    request = CompletionRequest(text="x = \ny", offset=4, notebook=RUN, cell_id="4")
    builder = PromptBuilder(card, engine.encode, engine.special_ids)
    prompt = builder.build(request, budget=4000, excluded_sources=excluded_sources, state=state)
    engine.prompts.append(prompt.ids)
    return engine.asked()


def test_outputs_stand_as_comments_below_their_cells_and_those_of_plots_nowhere():
    notebook_context = "df.head(2)\n\n# Output:\n#    a  b\n# 0  1  2\n# 1  3  4\n\n# # Then\n\ndf.plot()\n\n<file_sep>"
    assert notebook_context in lay_out(EMBEDDED)


def test_outputs_can_be_left_out():
    assert "# Output" not in lay_out(EMBEDDED, excluded_sources=("outputs",))


def test_a_notebook_in_starcoder2s_format_has_slots_for_texts_outputs_and_live_state():
    card = replace(cards()["starcoder2-3b"], notebook_layout="jupyter")
    assert lay_out(card, state="# df: DataFrame\n") == (
        "<fim_prefix><jupyter_start><jupyter_code>df.head(2)\n\n<jupyter_output>   a  b\n0  1  2\n1  3  4\n\n"
        "<jupyter_text># Then\n\n<jupyter_code>df.plot()\n\n<jupyter_output># df: DataFrame\n"
        "<jupyter_code>x = <fim_suffix>\ny<fim_middle>"
    )


def test_a_long_output_is_cut_at_a_line_end():
    cell = Cell(id="1", source="x", outputs=("\n".join(["0123456789"] * 100),))
    assert output_text(cell).count("\n") == 38


# The families


FAMILIES = {
    "starcoder2-3b": (
        TRUNK + "y =",
        TRUNK + "<file_sep><fim_prefix><fim_suffix>\nprint(y)<fim_middle>cell.py\ny = ",
    ),
    "starcoder2-15b": (TRUNK + "y =", TRUNK + "y ="),
    "codegemma-2b": (
        "<bos><|file_separator|>notebook.py\nCELLSy =",
        "<bos><|file_separator|>notebook.py\nCELLS<|file_separator|>cell.py\n"
        "<|fim_prefix|>y = <|fim_suffix|>\nprint(y)<|fim_middle|>",
    ),
    "qwen2.5-coder-0.5b": (
        "<|repo_name|>notebook\n<|file_sep|>notebook.py\nCELLSy =",
        "<|repo_name|>notebook\n<|file_sep|>notebook.py\nCELLS<|file_sep|>cell.py\n"
        "<|fim_prefix|>y = <|fim_suffix|>\nprint(y)<|fim_middle|>",
    ),
    "deepseek-coder-1.3b": (
        "<\uff5cbegin▁of▁sentence\uff5c>CELLSy =",
        "<\uff5cbegin▁of▁sentence\uff5c><\uff5cfim▁begin\uff5c>CELLSy = "
        "<\uff5cfim▁hole\uff5c>\nprint(y)<\uff5cfim▁end\uff5c>",
    ),
    "granite-code-3b": (
        "CELLSy =",
        "<fim_prefix>CELLSy = <fim_suffix>\nprint(y)<fim_middle>",
    ),
    "codellama-7b": (
        "<s>CELLSy =",
        "<s>▁<PRE>CELLSy = ▁<SUF>\nprint(y)▁<MID>",
    ),
}


def laid_out(card: ModelCard, text: str, offset: int, special_ids: dict[str, int]) -> str:
    first = 1000

    def encode(text: str) -> list[int]:
        return [first + byte for byte in text.encode()]

    request = CompletionRequest(text=text, offset=offset, notebook=CELLS, cell_id="3")
    ids = PromptBuilder(card, encode, special_ids).build(request, budget=4000).ids
    names = {id: name.encode() for name, id in special_ids.items()}
    return b"".join(names.get(id) or bytes([id - first]) for id in ids).decode()


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_gets_the_prompt_it_was_trained_on(name):
    card = cards()[name]
    special_ids = {token: id for id, token in enumerate(card.stop)}
    cells = TRUNK.partition("notebook.py\n")[2]
    expected = tuple(prompt.replace("CELLS", cells) for prompt in FAMILIES[name])
    end, inside = "y = ", "y = \nprint(y)"
    assert (
        laid_out(card, end, 4, special_ids),
        laid_out(card, inside, 4, special_ids) if card.order != "left-to-right" else expected[1],
    ) == expected


def test_a_model_without_its_cards_tokens_reads_the_cells_alone():
    assert laid_out(EMBEDDED, "y = \nprint(y)", 4, {"<|endoftext|>": 0}) == (
        TRUNK.partition("notebook.py\n")[2] + "y ="
    )


def test_a_card_can_have_the_notebook_context_inside_the_prefix():
    card = replace(EMBEDDED, notebook_layout="inside")
    ids = {token: id for id, token in enumerate(card.stop)}
    cells = TRUNK.partition("notebook.py\n")[2]
    assert laid_out(card, "y = \nprint(y)", 4, ids) == (
        f"<fim_prefix>{cells}y = <fim_suffix>\nprint(y)<fim_middle>"
    )


def test_a_broken_fill_in_is_not_used():
    ids = {token: id for id, token in enumerate(cards()["starcoder2-15b"].stop)}
    assert laid_out(cards()["starcoder2-15b"], "y = \nprint(y)", 4, ids) == TRUNK + "y ="


def test_a_bracket_that_an_editor_closes_leaves_the_prompt_as_it_was():
    before, *_ = build("x = 1\ny = \nz = 3", 10)
    opened, *_ = build("x = 1\ny = f()\nz = 3", 12)
    assert opened == before + "f("


# Text files, and notebooks in other languages


FILES = Notebook(
    (
        Cell(id="src/util.rs", source="pub fn area() {}", path="src/util.rs"),
        Cell(id="src/main.rs", source=""),
    )
)


def build_with(card: ModelCard, text: str, offset: int | None = None, **fields) -> str:
    engine = FakeEngine()
    builder = PromptBuilder(card, engine.encode, engine.special_ids)
    request = CompletionRequest(text=text, offset=len(text) if offset is None else offset, **fields)
    engine.prompts.append(builder.build(request, budget=4000).ids)
    return engine.asked()


def test_a_text_file_is_a_file_of_its_own_name_behind_its_neighbours():
    head = "<repo_name>files<file_sep>src/util.rs\npub fn area() {}\n\n"
    fields = {
        "path": "src/main.rs",
        "language": "rust",
        "notebook": FILES,
        "cell_id": "src/main.rs",
    }
    assert build("use ut", **fields)[0] == f"{head}<file_sep>src/main.rs\nuse"
    inside, mode, _ = build("use \nfn main() {}", 4, **fields)
    assert mode == "spm"
    block = "<file_sep><fim_prefix><fim_suffix>\nfn main() {}<fim_middle>src/main.rs\nuse "
    assert inside == head + block


def test_an_excluded_source_leaves_the_neighbours_out():
    engine = FakeEngine()
    builder = PromptBuilder(EMBEDDED, engine.encode, engine.special_ids)
    request = CompletionRequest(
        text="use ut", offset=6, path="src/main.rs", language="rust", notebook=FILES
    )
    prompt = builder.build(request, budget=4000, excluded_sources={"files"})
    engine.prompts.append(prompt.ids)
    assert "util.rs" not in engine.asked()


def test_a_model_without_file_separators_reads_the_names_of_files_in_comments():
    card = cards()["codellama-7b"]
    assert not card.notebook_is_a_file
    prompt = build_with(
        card, "use ut", path="src/main.rs", language="rust", notebook=FILES, cell_id="src/main.rs"
    )
    assert prompt == "// src/util.rs\npub fn area() {}\n\n// src/main.rs\nuse"
    cells = Notebook((Cell(id="a", source="library(dplyr)"),))
    assert build_with(card, "x <- m", language="R", notebook=cells) == (
        "# notebook.r\nlibrary(dplyr)\n\nx <-"
    )
    assert build_with(card, "x = m", notebook=cells) == "library(dplyr)\n\nx ="


@pytest.mark.parametrize(
    ("language", "extension", "ending"),
    [("R", ".r", "r"), ("julia", "jl", "jl"), ("gnuplot", "gp", "gp"), ("Unheard", "", "txt")],
)
def test_a_notebook_is_named_by_the_ending_of_its_language(language, extension, ending):
    prompt = build("x", language=language, file_extension=extension.lstrip("."))[0]
    assert f"notebook.{ending}\n" in prompt


def test_a_secret_in_a_neighbour_stays_out_of_the_prompt():
    files = Notebook(
        (Cell(id="k", source="a = 1\napi_key = 'sk-abcdefghijklmnop1234'", path="k.py"),)
    )
    assert "sk-abc" not in build("x", path="m.py", notebook=files)[0]


def test_a_cell_in_another_language_is_a_file_of_its_own_below_the_notebook():
    cells = Notebook((Cell(id="1", source="import pandas"), Cell(id="2", source="%%sql\nSELECT 1")))
    prompt, mode, _ = build("%%sql\nSELECT na", notebook=cells, cell_id="here")
    assert mode == "left-to-right"
    assert prompt == (
        "<repo_name>notebook<file_sep>notebook.py\nimport pandas\n\n%%sql\nSELECT 1\n\n"
        "<file_sep>cell.sql\nSELECT"
    )
    inside = build_with(cards()["codellama-7b"], "%%sql\nSELECT na", notebook=cells)
    assert inside == "import pandas\n\n%%sql\nSELECT 1\n\n-- cell.sql\nSELECT"

"""The embedded model: what it is trained on, how, and the few things that it has to know."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from random import Random

import nbformat
import pytest
from tokenizers import pre_tokenizers

from jupyter_sc2 import cli
from jupyter_sc2.engines import load_engine
from jupyter_sc2.evaluation.runner import open_session
from jupyter_sc2.models.cards import SHIPPED_MODEL
from jupyter_sc2.notebook import Cell
from jupyter_sc2.options import LoadOptions
from jupyter_sc2.prompt.builder import Special
from jupyter_sc2.training.document import Document
from jupyter_sc2.training.examples import CLOSERS, build_example, choose_cut
from jupyter_sc2.training.rows import IGNORED, PARTS, Sampler, prompts, rows, tree, visible
from jupyter_sc2.training.smollm import choose_tokens
from jupyter_sc2.training.state import infer_state
from jupyter_sc2.training.tokenizer import SPECIAL_TOKENS, encoder, load_tokenizer, write_tokenizer
from jupyter_sc2.training.train import Recipe, schedule, train, unpacked_model
from jupyter_sc2.types import CompletionRequest
from tests.support.tiny import make_tiny_model

CELL = """\
import numpy as np

def mean(values):
    total = sum(values)
    return total / len(values)

x = np.linspace(0, 1, 100)
print(mean(x))"""


def document(*cells: str) -> Document:
    return Document(
        "notebook", "p", tuple(Cell(id=str(n), source=source) for n, source in enumerate(cells))
    )


# Examples


@pytest.mark.parametrize("seed", range(40))
def test_the_parts_around_a_cut_are_the_cell(seed: int):
    cut = choose_cut(CELL, Random(seed))
    assert cut.prefix + cut.middle + cut.suffix == CELL


def cuts(count: int = 1000) -> list:
    rng = Random(0)
    return [choose_cut(CELL, rng) for _ in range(count)]


def test_few_middles_are_empty():
    assert 0.01 < sum(not cut.middle for cut in cuts()) / 1000 < 0.05


def test_most_middles_are_within_one_line():
    assert sum("\n" not in cut.middle for cut in cuts()) / 1000 > 0.7


def test_some_middles_end_before_the_bracket_that_an_editor_has_closed():
    assert any(cut.prefix.endswith("linspace(") and cut.suffix.startswith(")") for cut in cuts())
    assert set(CLOSERS) == set("([{\"'")


def test_cuts_fall_after_as_and_in_the_middle_of_words():
    prefixes = {cut.prefix for cut in cuts()}
    assert "import numpy as " in prefixes
    assert any(prefix.endswith("np.lin") for prefix in prefixes)


def test_many_cuts_are_before_a_column_that_the_state_tells():
    rng, cell = Random(0), "mean = df['price'].mean()\nprint(mean)"
    state = "# df: DataFrame (90, 2) float64 price, rate\n"
    ends = [choose_cut(cell, rng, state).prefix.endswith("df['") for _ in range(500)]
    assert sum(ends) > 150 > 3 * sum(choose_cut(cell, rng).prefix.endswith("df['") for _ in ends)


def test_a_guessed_table_often_has_columns_that_nobody_uses():
    above, cell = ["df = pd.read_csv(path)"], "df['fish'] + df['bird']"
    details = {
        variable.detail
        for seed in range(40)
        for variable in infer_state(above, [cell], cell, Random(seed))
    }
    assert all("fish" in detail and "bird" in detail for detail in details)
    assert 10 < sum(detail.count(",") > 2 for detail in details) < 40


def branches(count: int = 60) -> list:
    """Branches below the first text, which is the second cell of its document."""
    examples = [build_example(document("import os", CELL), Random(seed)) for seed in range(count)]
    return [
        branch
        for example in examples
        for branch in example.branches
        if branch.above == len(example.trunk) - 1
    ]


def test_a_branch_holds_a_whole_cell():
    found = [branch for branch in branches() if Special("fim_middle") in branch.whole]
    assert len(found) > 60
    for branch in found:
        at = branch.whole.index(Special("fim_suffix")) + 1
        suffix, state_and_prefix = branch.whole[at], branch.whole.index("cell.py\n") + 1
        prefix = branch.whole[state_and_prefix + 1]
        # Suffix first, the middle is a part of the prefix.
        middle = branch.whole[-2] if at > state_and_prefix else ""
        assert branch.whole[-1] == Special("file_sep")
        assert CELL.count(prefix + middle + suffix.rstrip("\n")) == 1


def test_a_branch_is_given_all_but_its_middle():
    for branch in branches():
        given, whole = (
            "".join(filter(str.__instancecheck__, x)) for x in (branch.given, branch.whole)
        )
        assert whole.startswith(given)


def test_all_three_layouts_are_drawn():
    drawn = set()
    for branch in branches():
        if Special("fim_prefix") in branch.whole:
            after_prefix = branch.whole[branch.whole.index(Special("fim_prefix")) + 1]
            drawn.add("spm" if after_prefix == Special("fim_suffix") else "psm")
        else:
            drawn.add("left-to-right")
    assert drawn == {"spm", "psm"}  # left to right is the trunk


# Tokenizer


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    merges = [("i", "n"), ("Ġ", "a"), ("in", "t")]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    write_tokenizer(folder, [*SPECIAL_TOKENS, *sorted(alphabet), "in", "Ġa", "int"], merges)
    return folder


def test_special_tokens_have_the_ids_of_starcoder2(tokenizer_folder: Path):
    tokenizer = load_tokenizer(tokenizer_folder)
    assert [tokenizer.token_to_id(name) for name in SPECIAL_TOKENS] == list(range(16))


def test_any_text_survives_the_tokenizer(tokenizer_folder: Path):
    tokenizer = load_tokenizer(tokenizer_folder)
    text = "é\t日本 = 12345\n    x"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_each_digit_is_a_token(tokenizer_folder: Path):
    assert load_tokenizer(tokenizer_folder).encode("2026").tokens == ["2", "0", "2", "6"]


def test_the_name_of_a_special_token_in_somebodys_text_stays_text(tokenizer_folder: Path):
    encode = encoder(load_tokenizer(tokenizer_folder))
    assert all(id >= 16 for id in encode(["<fim_middle>"]))
    assert encode([Special("fim_middle")]) == [2]


# Rows


@pytest.fixture
def start(tmp_path: Path) -> Path:
    pytest.importorskip("torch")
    return make_tiny_model(tmp_path / "start", hidden=32, layers=1, heads=2, intermediate=32)


@pytest.fixture
def example():
    return next(
        example
        for example in (
            build_example(document(CELL, "print(mean([1, 2]))"), Random(n)) for n in range(99)
        )
        if len(example.trunk) == 2 and {branch.above for branch in example.branches} == {0, 1}
    )


def test_a_branch_in_a_row_is_read_as_its_prompt_alone(start: Path, example):
    import torch

    model, encode = unpacked_model(start).eval(), encoder(load_tokenizer(start))
    row = [*tree(example, encode)]
    row += tree(example, encode, len(row))
    tokens = torch.tensor([row])
    mask = torch.zeros(1, 1, len(row), len(row)).masked_fill(~visible(tokens), -torch.inf)
    read = model(input_ids=tokens[..., 0], attention_mask=mask, position_ids=tokens[..., 2]).logits[
        0
    ]
    alone = model(torch.tensor([encode(example.prompt(example.branches[-1]))])).logits[0]
    last = len(encode(example.branches[-1].whole))
    assert torch.allclose(read[-last:], alone[-last:], atol=1e-4)


def test_a_row_says_which_id_comes_next_but_for_suffixes_and_ends(start: Path, example):
    encode = encoder(load_tokenizer(start))
    row = list(tree(example, encode))
    given = dict.fromkeys((token.own for token in row), False)
    for token, following in pairwise(row):
        suffix = SPECIAL_TOKENS.index("<fim_suffix>"), SPECIAL_TOKENS.index("<fim_middle>")
        if token.id in suffix:
            given[token.own] = token.id == suffix[0]
        ends = following.own != token.own
        assert token.label == (IGNORED if ends or given[token.own] else following.id)


def test_what_belongs_at_the_cursor_is_the_middle_of_a_branch(start: Path, example):
    tokenizer = load_tokenizer(start)
    encode = encoder(tokenizer)
    branch = example.branches[-1]
    row = list(tree(replace(example, branches=(branch,)), encode))
    said = [
        token.label for token in row if PARTS[token.part] == "middle" and token.label != IGNORED
    ]
    assert encode(branch.whole)[-len(said) :] == said
    kept = encode(branch.whole)[: -len(said)]
    assert kept == encode(branch.given)[: len(kept)]


def test_cells_of_one_line_fill_rows_as_well(start: Path):
    sampler = Sampler([document("print(1)")])
    encode = encoder(load_tokenizer(start))
    assert [len(row) for row in prompts(sampler, encode, Random(0), count=2, length=40)] == [40, 40]
    assert [len(row) for row in rows(sampler, encode, Random(0), count=2, length=40)] == [40, 40]


# Training


def test_the_rate_rises_holds_and_falls_to_zero():
    recipe = Recipe(warmup=10, decay=0.3)
    assert schedule(0.0, 0, recipe) == 0.1
    assert schedule(0.5, 500, recipe) == 1
    assert schedule(0.85, 900, recipe) == pytest.approx(0.5)
    assert schedule(1.0, 999, recipe) == 0


MICRO = Recipe(tokens_per_step=64, row=32, checkpoint_every=0.05, decay=0.2)
DOCUMENTS = [document(CELL, "print(mean([1, 2]))")]


def micro_train(start: Path, output: Path, minutes: float, lines: list[str]) -> dict:
    """By a clock that goes on by 5 ms whenever it is read, so that a busy machine makes as many steps."""
    clock = partial(next, count(step=0.005))
    return train(
        DOCUMENTS,
        start,
        output,
        minutes=minutes,
        recipe=MICRO,
        clock=clock,
        report=lines.append,
        threads=1,
    )


def test_training_leaves_a_model_that_has_learned(tmp_path: Path, start: Path):
    figures = micro_train(start, tmp_path / "model", 0.02, [])
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "training.json"} <= names
    assert figures["curve"][-1]["loss"] < figures["curve"][0]["loss"]


def test_a_longer_training_goes_on_from_before_the_rate_fell(tmp_path: Path, start: Path):
    first = micro_train(start, tmp_path / "model", 0.01, [])
    lines: list[str] = []
    second = micro_train(start, tmp_path / "model", first["seconds"] / 60 + 0.005, lines)
    assert lines[0].startswith("resuming from step ")
    assert 0 < int(lines[0].split()[3].rstrip(",")) < first["step"] < second["step"]


def test_a_training_that_was_stopped_while_the_rate_fell_goes_on_there(tmp_path: Path, start: Path):
    first = micro_train(start, tmp_path / "model", 0.01, [])
    lines: list[str] = []
    micro_train(start, tmp_path / "model", 0.01, lines)
    assert lines[0].startswith(f"resuming from step {first['step']},")


@pytest.fixture
def packed_start(tmp_path: Path) -> Path:
    pytest.importorskip("torch")
    from jupyter_sc2.engines.onnx.packing import pack

    make_tiny_model(tmp_path / "whole", hidden=32, layers=1, heads=2, intermediate=64)
    pack(tmp_path / "whole", tmp_path / "packed")
    return tmp_path / "packed"


def test_a_training_from_packed_weights_begins_with_what_they_stand_for(packed_start: Path):
    import torch

    whole = unpacked_model(packed_start.parent / "whole").state_dict()
    begun = unpacked_model(packed_start).state_dict()
    assert begun.keys() == whole.keys()
    for name, tensor in whole.items():
        assert torch.allclose(begun[name], tensor, atol=0.1), name


def test_what_is_trained_from_packed_weights_is_not_packed(tmp_path: Path, packed_start: Path):
    micro_train(packed_start, tmp_path / "model", 0.002, [])
    assert "packed" not in json.loads((tmp_path / "model" / "config.json").read_text())
    assert load_engine(str(tmp_path / "model")).precision != "packed"


def test_the_command_trains_on_a_folder_of_notebooks(tmp_path: Path, start: Path, capsys):
    notebooks = tmp_path / "mine"
    notebooks.mkdir()
    cells = [nbformat.v4.new_code_cell(CELL), nbformat.v4.new_code_cell("print(mean([1, 2]))")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), notebooks / "a.ipynb")
    arguments = ["train", notebooks, tmp_path / "out", "--start", start, "--minutes", "0.001"]
    assert cli.main([str(argument) for argument in [*arguments, "--pack"]]) == 0
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert (tmp_path / "out" / "packed" / "model.safetensors").exists()
    assert load_engine(str(tmp_path / "out" / "packed")).name == "onnxruntime"


def test_a_folder_without_python_is_refused_in_one_line(tmp_path: Path, start: Path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("nothing")
    arguments = ["train", tmp_path / "mine", tmp_path / "out", "--start", start]
    assert cli.main([str(argument) for argument in arguments]) == 1
    assert "holds no notebook or script" in capsys.readouterr().err


# The start


def test_a_cut_down_vocabulary_spells_words_by_the_same_merges():
    merges = [("a", "b"), ("ab", "c"), ("d", "e"), ("abc", "de")]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, "ab", "abc", "de", "abcde"]
    kept, kept_merges = choose_tokens(
        tokens, merges, ["abc abc abc de"], vocabulary=len(SPECIAL_TOKENS) + len(alphabet) + 2
    )
    assert kept[-2:] == ["ab", "abc"]
    assert kept_merges == merges[:2]


# The model that ships


@pytest.fixture(scope="module")
def complete():
    """Completion to the end of the line by the shipped model, as a kernel does it."""
    pytest.importorskip("torch")
    session = open_session(LoadOptions(model=str(SHIPPED_MODEL)), max_tokens=12)

    def complete(prefix: str, suffix: str = "") -> str:
        request = CompletionRequest(text=prefix + suffix, offset=len(prefix))
        *_, answer = session.complete(request)
        return answer.text

    yield complete
    session.close()


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("import numpy as ", "np"),
        ("import pandas as ", "pd"),
        ("import numpy as np\nimport matplotlib.pyplot as ", "plt"),
    ],
)
def test_the_shipped_model_knows_the_usual_names_of_imports(complete, prefix: str, expected: str):
    assert complete(prefix) == expected


def test_the_shipped_model_fills_in_before_a_suffix(complete):
    assert complete("import numpy as ", "\n\nx = np.arange(10)\nprint(x)") == "np"


def test_importing_the_recipe_is_light():
    heavy = "{'torch', 'numpy', 'transformers', 'tokenizers'}"
    code = f"import sys, jupyter_sc2.training.train; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

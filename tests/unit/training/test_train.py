"""Training: the same rows from any number of workers, the same step however it is computed, runs that go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from array import array
from dataclasses import replace
from pathlib import Path
from random import Random

import nbformat
import psutil
import pytest

from jupyter_sc2 import cli
from jupyter_sc2.errors import ModelLoadError, SC2Error
from jupyter_sc2.models.file_lock import locked
from jupyter_sc2.notebook import Cell
from jupyter_sc2.training.document import Document
from jupyter_sc2.training.feed import Feed, FeedError, Plan
from jupyter_sc2.training.meter import Meter, known_peak, speed_text
from jupyter_sc2.training.recipe import Recipe, schedule
from jupyter_sc2.training.rows import IGNORED, Sampler, packed_row, rows
from jupyter_sc2.training.tokenizer import encoder, load_tokenizer
from jupyter_sc2.training.train import train
from tests.support.tiny import make_tiny_model

CELL = """\
import pandas as pd

table = pd.read_csv("fish.csv")
mean = table["weight"].mean()
print(mean, table["length"].max())"""


def document(number: int, kind: str = "notebook", package: str = "p") -> Document:
    sources = (CELL, f"for n in range({number}):\n    print(n, mean * {number})")
    cells = (Cell(id=str(n), source=source) for n, source in enumerate(sources))
    return Document(kind, package, tuple(cells))  # type: ignore[arg-type]


DOCUMENTS = [document(number) for number in range(20)]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers with 64 numbers a token."""
    torch = pytest.importorskip("torch")
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = make_tiny_model(tmp_path_factory.mktemp("llama"), hidden=16, layers=1, heads=2)
    vocabulary = load_tokenizer(folder).get_vocab_size()
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


# The recipe


def test_after_a_quarter_of_the_fall_half_of_the_rate_is_left():
    recipe = Recipe(warmup=1, decay=0.4, decay_shape="1-sqrt")
    assert schedule(0.6, 99, recipe) == 1
    assert schedule(0.7, 99, recipe) == pytest.approx(0.5)
    assert schedule(1.0, 99, recipe) == 0


def test_on_cuda_a_step_is_more_than_250_thousand_tokens_of_whole_micro_batches():
    recipe = Recipe.for_device("cuda")
    assert recipe.tokens_per_step >= 250_000
    assert recipe.tokens_per_step % recipe.micro_batch == recipe.micro_batch % recipe.row == 0
    assert Recipe.for_device("cpu") == Recipe()


def test_a_smaller_gpu_reads_fewer_rows_at_once():
    read = [Recipe.for_device("cuda", memory).micro_batch for memory in (84, 40, 24, 8)]
    assert read == [2**15, 2**14, 2**13, 2**11]


# Rows


def test_kinds_of_documents_that_are_new_or_missing_are_no_trouble():
    sampler = Sampler([document(1, "recipe"), document(2, "library")])
    drawn = {sampler.draw(Random(seed)).kind for seed in range(50)}
    assert drawn == {"recipe", "library"}


def test_a_row_depends_on_seed_step_and_place(start: Path):
    sampler, encode = Sampler(DOCUMENTS), encoder(load_tokenizer(start))

    def row(seed: int, step: int, place: int) -> array:
        return packed_row(sampler, encode, seed=seed, step=step, place=place, length=256)

    assert row(1, 2, 3) == row(1, 2, 3)
    assert len({row(*key).tobytes() for key in [(1, 2, 3), (0, 2, 3), (1, 1, 3), (1, 2, 2)]}) == 4


def plan(start: Path, **changes: object) -> Plan:
    made = Plan(
        documents=DOCUMENTS,
        tokenizer=start,
        seed=0,
        rows_per_step=3,
        length=128,
        held_out=frozenset(),
    )
    return replace(made, **changes)


def steps(plan: Plan, count: int, **options: int) -> list[bytes]:
    with Feed(plan, **options) as feed:
        return [bytes(feed.step()) for _ in range(count)]


def test_two_workers_make_the_rows_that_none_make_in_the_same_order(start: Path):
    alone = steps(plan(start), 3)
    assert len(set(alone)) == 3
    assert steps(plan(start), 3, workers=2) == alone


def test_a_feed_goes_on_with_the_rows_of_a_later_step(start: Path):
    whole = steps(plan(start), 3)
    assert steps(plan(start), 1, start=2) == whole[2:]
    assert steps(plan(start), 2, start=1, workers=2) == whole[1:]


def test_workers_read_a_file_of_documents_themselves(start: Path, tmp_path: Path):
    cells = [["code", "print(1)"], ["code", CELL]]
    row = {"kind": "notebook", "package": "p", "cells": cells}
    (tmp_path / "documents.jsonl").write_text(json.dumps(row) + "\n")
    read = plan(start, documents=tmp_path / "documents.jsonl")
    assert steps(read, 1, workers=1) == steps(read, 1)


def test_what_fails_in_a_worker_is_said_where_its_rows_are_read(start: Path, tmp_path: Path):
    lost = plan(start, documents=tmp_path / "lost.jsonl")
    with pytest.raises(FeedError, match=r"rows has failed: FileNotFoundError: .*lost\.jsonl"):
        steps(lost, 1, workers=2)


PARENT = """
import sys, time
from tests.unit.training.test_train import DOCUMENTS, Feed, Path, plan
if __name__ == "__main__":
    feed = Feed(plan(Path(sys.argv[1])), workers=2)
    feed.step()
    print(*(worker._process.pid for worker in feed._workers), flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_workers_end_when_their_parent_is_killed(start: Path):
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(start)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(workers) == 2
    give_up = time.monotonic() + 20
    while any(_runs(pid) for pid in workers):
        assert time.monotonic() < give_up
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat")
        return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {
            "IPython", "ipykernel", "ipywidgets", "jupyter_core", "msgspec", "nbformat", "spdx", "traitlets"
        }:
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, Blocker())
"""
ROWS_ALONE = """
from pathlib import Path
from jupyter_sc2.training.document import Document
from jupyter_sc2.training.feed import Plan, RowMaker
from jupyter_sc2.notebook import Cell
document = Document("notebook", "p", (Cell(id="0", source="x = [1, 2]\\nprint(x)"),))
plan = Plan(documents=[document], tokenizer=Path(sys.argv[1]), seed=0, rows_per_step=1, length=8,
            held_out=frozenset())
print(len(RowMaker(plan).make(0)), {"torch", "numpy", "transformers"} & set(sys.modules))
import jupyter_sc2.engines.onnx.packing, jupyter_sc2.training.run, jupyter_sc2.training.train
"""


def test_training_needs_nothing_of_jupyter_and_a_worker_no_torch(start: Path):
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED + ROWS_ALONE, str(start)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{8 * 7 * 4} set()\n"


# One step


# Neither compiling without a compiler nor flex attention without a GPU is what torch expects.
unusual = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def run(start: Path, tmp_path: Path):
    from jupyter_sc2.training.run import Run

    return Run(Recipe(micro_batch=256), start, tmp_path)


@pytest.fixture
def batch(start: Path):
    import torch

    encode = encoder(load_tokenizer(start))
    made = rows(Sampler(DOCUMENTS), encode, Random(0), count=4, length=128)
    return torch.tensor(made, dtype=torch.int32)


def gradients(run, batch, mode=None, **options):
    """The loss, and the gradients of all weights as one vector."""
    import torch

    run.optimizer.zero_grad(set_to_none=False)
    loss = run.add_gradients(batch, mode or run.modes[-1], **options)
    return float(loss), torch.cat([p.grad.flatten() for p in run.model.parameters()])


def apart(a, b) -> float:
    return float((a - b).norm() / b.norm())


def test_the_loss_is_the_cross_entropy_of_the_models_own_logits(run, batch):
    import torch

    from jupyter_sc2.training.attention import dense_mask

    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = run.model(
            input_ids=batch[..., 0].long(),
            attention_mask=dense_mask(batch),
            position_ids=batch[..., 2].long(),
            use_cache=False,
        ).logits
    labels = batch[..., 1].long()
    each = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    weights = torch.tensor(run.recipe.weights)[batch[..., 6].long()] * (labels != IGNORED)
    expected = (each * weights.flatten()).sum() / weights.sum()
    run.optimizer.zero_grad(set_to_none=False)
    expected.backward()
    wanted = torch.cat([p.grad.flatten() for p in run.model.parameters()])
    loss, found = gradients(run, batch)
    assert loss == pytest.approx(expected.item(), abs=1e-4)
    assert apart(found, wanted) < 0.01


@pytest.mark.parametrize(("native", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_products_are_in_bf16_only_where_the_processor_has_it(
    start, tmp_path, batch, monkeypatch, native: bool, dtype: str
):
    import torch

    from jupyter_sc2.training import loss
    from jupyter_sc2.training.run import Mode, Run

    monkeypatch.setattr("jupyter_sc2.training.run.processor_has_bf16", lambda: native)
    run = Run(Recipe(micro_batch=256), start, tmp_path)
    found = set()

    def piece(hidden, *others):
        found.add(hidden.dtype)
        return loss.loss_and_gradients(hidden, *others)

    layer = run.model.get_decoder().layers[0].self_attn.q_proj
    layer.register_forward_hook(lambda module, given, made: found.add(made.dtype))
    run._piece = piece
    run.add_gradients(batch, Mode(flex=False, compiled=True))
    assert found == {getattr(torch, dtype)}


def test_the_logits_of_a_piece_are_the_most_that_exists_at_once():
    torch = pytest.importorskip("torch")
    from jupyter_sc2.training import loss

    sizes = []

    def piece(hidden, *others):
        sizes.append(len(hidden))
        return loss.loss_and_gradients(hidden, *others)

    hidden, table = torch.randn(2_500, 8), torch.randn(50, 8)
    labels, weights = torch.randint(50, (2_500,)), torch.ones(2_500)
    labels[0] = IGNORED
    found = loss.sum_of_losses(hidden, table, labels, weights, piece)
    assert sizes == [1024, 1024, 451]  # one has no label
    assert found.item() == pytest.approx(loss.losses(hidden, table, labels).sum().item(), rel=1e-3)


def test_how_many_rows_are_read_at_once_changes_no_step(run, batch):
    loss, found = gradients(run, batch)
    halved, of_halved = gradients(run, batch, split=2)
    assert halved == pytest.approx(loss, abs=1e-4)
    assert apart(of_halved, found) < 0.01


@unusual
def test_flex_attention_sees_what_the_dense_mask_shows(run, batch, monkeypatch):
    from torch.nn.attention import flex_attention

    from jupyter_sc2.training.run import Mode

    # It has a backward pass on the CPU, but refuses it as too slow.
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)
    loss, found = gradients(run, batch)
    flexed, of_flexed = gradients(run, batch, Mode(flex=True, compiled=False))
    assert flexed == pytest.approx(loss, abs=1e-3)
    assert apart(of_flexed, found) < 0.02


def test_attention_in_blocks_is_the_fused_ones_with_the_same_mask(batch):
    import torch
    from torch.nn.functional import scaled_dot_product_attention as fused

    from jupyter_sc2.training import attention

    mask = attention.dense_mask(batch)[:, :, :100, :100].float()  # no whole number of blocks
    query, key, value = (torch.randn(4, heads, 100, 16, requires_grad=True) for heads in (4, 2, 2))
    gradient = torch.randn(4, 100, 4, 16)

    def mixed_and_gradients(mixed):
        return [mixed, *torch.autograd.grad(mixed, (query, key, value), gradient)]

    expected = mixed_and_gradients(
        fused(query, key, value, attn_mask=mask, enable_gqa=True).transpose(1, 2)
    )
    found = mixed_and_gradients(attention.attend(None, query, key, value, mask)[0])
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_attention_in_blocks_reads_only_keys_that_are_seen(batch, monkeypatch):
    from jupyter_sc2.training import attention
    from jupyter_sc2.training.attention import KEYS, _seen_blocks, dense_mask

    monkeypatch.setattr(attention, "BLOCK", 16)  # of 128 tokens a row
    mask = dense_mask(batch)
    blocks, gathered = _seen_blocks(mask, groups=1)
    for row, at, part, added in blocks:
        of_block = mask[row, 0, at]
        keys = gathered[part] - row * mask.shape[-1]
        filling = (added[: len(of_block)] != 0).all(0)
        assert filling.sum() < KEYS
        assert (keys[filling] == 0).all()
        assert (of_block[:, keys[~filling]] == 0).any(0).all()


@unusual
def test_layers_that_cannot_be_compiled_are_left_as_they_are_in_one_line(run, batch):
    def backend(*_: object) -> None:
        raise RuntimeError("no compiler\nfor this")

    run.compile(backend)
    (line,) = run.settle(batch)
    assert "does not work here, attention with a dense mask, layers not compiled is used" in line
    assert "no compiler" in line and "\n" not in line
    assert run.learn(batch, 1.0) > 0


@unusual
def test_compiled_layers_are_used_where_they_agree(run, batch):
    run.compile("eager")
    (line,) = run.settle(batch)
    assert line.startswith("attention with a dense mask, layers compiled: loss ")
    assert run.modes[0].compiled


@unusual
def test_what_computes_something_else_is_not_used(run, batch):
    from jupyter_sc2.training import loss

    def wrong(*given):
        found, of_hidden, of_table = loss.loss_and_gradients(*given)
        return found, 2 * of_hidden, of_table

    run.compile("eager")
    run._piece = wrong
    (line,) = run.settle(batch)
    assert "wrong (loss " in line
    assert not run.modes[0].compiled


def test_a_loss_that_is_no_number_ends_the_training(run, batch):
    from jupyter_sc2.training.run import TrainingError

    next(run.model.parameters()).data.fill_(float("nan"))
    with pytest.raises(TrainingError, match="The loss of step 0 is nan"):
        run.learn(batch, 1.0)


def test_a_folder_in_which_another_process_trains_is_refused(start: Path, tmp_path: Path):
    from jupyter_sc2.training.run import TrainingError

    with (
        locked(tmp_path / ".lock"),
        pytest.raises(TrainingError, match="Another process is training"),
    ):
        train(DOCUMENTS, start, tmp_path, tokens=1)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_an_output_layer_that_does_more_than_a_product_is_refused(run):
    from jupyter_sc2.training.run import _table_of

    run.model.config.final_logit_softcapping = 30.0
    with pytest.raises(ModelLoadError, match="LlamaForCausalLM cannot be trained"):
        _table_of(run.model)


def test_averaged_weights_are_the_mean_of_those_of_the_first_steps(run, batch, start, tmp_path):
    import torch

    from jupyter_sc2.training.run import Run

    run = Run(Recipe(micro_batch=256, average=100), start, tmp_path)
    seen = [next(run.model.parameters()).detach().clone()]
    for _ in range(3):
        run.learn(batch, 1.0)
        seen.append(next(run.model.parameters()).detach().clone())
    with run.averaged():
        mean = next(run.model.parameters()).detach().clone()
    assert torch.allclose(mean, torch.stack(seen).mean(0), atol=1e-6)
    assert torch.equal(next(run.model.parameters()), seen[-1])


# Runs


SMALL = Recipe(tokens_per_step=256, row=128, micro_batch=128, average=3, report_every=1)


def small_train(start: Path, output: Path, lines: list[str] | None = None, **options) -> dict:
    options = {"tokens": 6 * 256, "recipe": SMALL, "device": "cpu", "threads": 1, **options}
    documents = options.pop("documents", DOCUMENTS)
    report = (lines if lines is not None else []).append
    return train(documents, start, output, report=report, **options)


@unusual
def test_compiled_layers_are_compared_before_the_first_step_only(start, tmp_path, monkeypatch):
    from jupyter_sc2.training.run import Run

    compile = Run.compile
    monkeypatch.setattr(Run, "compile", lambda run: compile(run, "eager"))
    lines: list[str] = []
    small_train(start, tmp_path, lines, compiled=True)
    assert [line for line in lines if ", layers compiled: " in line] == lines[2:3]


def test_a_run_that_was_stopped_and_went_on_is_the_run_that_was_not(start: Path, tmp_path: Path):
    import torch

    small_train(start, tmp_path / "whole")
    calls = iter(range(99))
    stopped = small_train(start, tmp_path / "parts", stop=lambda: next(calls) == 2)
    assert (stopped["step"], stopped["stopped"]) == (3, True)
    lines: list[str] = []
    ended = small_train(start, tmp_path / "parts", lines)
    assert lines[0].startswith("resuming from step 3,")
    assert (ended["step"], ended["stopped"]) == (6, False)
    whole, parts = (
        torch.load(tmp_path / name / "decay.pt", weights_only=True) for name in ("whole", "parts")
    )
    for name, weight in whole["model"].items():
        assert torch.equal(weight, parts["model"][name]), name
    assert all(map(torch.equal, whole["average"], parts["average"]))
    assert whole["state"]["loss"] == parts["state"]["loss"]


def test_workers_make_no_difference_to_a_run(start: Path, tmp_path: Path):
    alone = small_train(start, tmp_path / "alone")
    helped = small_train(start, tmp_path / "helped", workers=2)
    assert alone["loss"] == helped["loss"]


def test_processes_that_compute_together_take_the_steps_of_one(start: Path, tmp_path: Path):
    lines: list[str] = []
    alone = small_train(start, tmp_path / "alone")
    together = small_train(start, tmp_path / "together", lines, processes=2)
    assert "2 processes compute, with 1 thread each" in lines
    assert together["loss"] == pytest.approx(alone["loss"], abs=1e-4)


def replica_processes() -> list[psutil.Process]:
    """The replicas among this process's children; torch and other tests have children too."""
    children = psutil.Process().children()
    return [child for child in children if "jupyter_sc2.training.replicas" in child.cmdline()]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows deletes no file that is mapped")
def test_a_killed_training_leaves_neither_processes_nor_files(
    start: Path, tmp_path: Path, monkeypatch
):
    from jupyter_sc2.training import replicas
    from jupyter_sc2.training.run import Run

    monkeypatch.setattr(replicas, "MEMORY_FILES", tmp_path)
    run = Run(SMALL, start, tmp_path / "out")
    with replicas.Replicas(run, start, count=1, threads=1, compiled=False, report=print):
        (process,) = replica_processes()
        (replica,) = run.compute.__self__._replicas
        replica._process.stdin.close()  # as the system does when the training is killed
        psutil.wait_procs([process], timeout=60)
        assert not list(tmp_path.glob("sc2-replicas-*"))


def test_where_a_replica_finds_no_room_one_process_computes(
    start: Path, tmp_path: Path, monkeypatch
):
    from jupyter_sc2.training import replicas

    monkeypatch.setattr(replicas, "mapped", lambda *_: torch_error("No space left on device"))
    lines: list[str] = []
    assert small_train(start, tmp_path, lines, processes=2)["step"] == 6
    assert "Other processes cannot compute beside this one: No space left on device" in lines


def torch_error(message: str) -> None:
    raise RuntimeError(message)


def test_a_training_goes_on_without_a_process_that_has_ended(start: Path, tmp_path: Path):
    lines: list[str] = []

    def stop() -> bool:
        for process in replica_processes():
            process.kill()
        return False

    alone = small_train(start, tmp_path / "alone")
    left = small_train(start, tmp_path / "left", lines, processes=2, stop=stop)
    assert [line for line in lines if "ended" in line] == [
        "A process that computed gradients has ended (status -9). The training goes on without it."
    ]
    assert left["loss"] == pytest.approx(alone["loss"], abs=1e-4)


def test_whichever_of_minutes_and_tokens_is_over_first_ends_a_run(start: Path, tmp_path: Path):
    by_tokens = small_train(start, tmp_path / "tokens", minutes=99)
    assert (by_tokens["tokens"], by_tokens["step"]) == (6 * 256, 6)
    ticks = iter(range(9999))
    by_clock = small_train(
        start, tmp_path / "clock", minutes=4 / 60, tokens=10**9, clock=lambda: next(ticks)
    )
    assert by_clock["step"] == 2


def test_sigterm_ends_a_run_after_its_step_with_all_written(start: Path, tmp_path: Path):
    lines: list[str] = []

    def report(line: str) -> None:
        lines.append(line)
        if line.startswith("step 2 "):
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    figures = train(
        DOCUMENTS, start, tmp_path, tokens=6 * 256, recipe=SMALL, device="cpu", report=report
    )
    assert (figures["step"], figures["stopped"]) == (3, True)
    assert {"checkpoint.pt", "model.safetensors", "averaged"} <= {
        f.name for f in tmp_path.iterdir()
    }
    assert any("the rate has not fallen to zero" in line for line in lines)
    assert signal.getsignal(signal.SIGTERM) == before


def test_averaged_weights_are_measured_and_written_beside_the_others(start: Path, tmp_path: Path):
    from safetensors.torch import load_file

    documents = [*DOCUMENTS, document(7, package="seaborn")]
    figures = small_train(start, tmp_path, documents=documents, tokens=512)
    last = figures["curve"][-1]
    assert last["held_out"] != last["held_out_averaged"]
    names = {path.name for path in (tmp_path / "averaged").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "training.json"} <= names
    raw, mean = (
        load_file(folder / "model.safetensors") for folder in (tmp_path, tmp_path / "averaged")
    )
    assert raw.keys() == mean.keys()
    assert any((raw[name] != mean[name]).any() for name in raw)


def test_the_first_thing_said_is_the_loss_of_a_row_that_all_runs_share(start: Path, tmp_path: Path):
    lines: list[str] = []
    other: list[str] = []
    figures = small_train(start, tmp_path / "a", lines)
    small_train(start, tmp_path / "b", other, seed=1, workers=1)
    assert lines[0] == other[0] == f"cpu: loss of the fixed row {figures['fixed_row']}"


def test_the_command_takes_tokens_device_and_workers(start: Path, tmp_path: Path, capsys):
    (tmp_path / "mine").mkdir()
    cells = [nbformat.v4.new_code_cell(source) for source in (CELL, "print(mean)")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "mine" / "a.ipynb")
    arguments = ["train", tmp_path / "mine", tmp_path / "out", "--start", start]
    arguments += ["--tokens", "1000", "--device", "cpu", "--workers", "1"]
    assert cli.main([str(argument) for argument in arguments]) == 0
    figures = json.loads((tmp_path / "out" / "training.json").read_text())
    assert (figures["device"], figures["tokens"]) == ("cpu", 4096)


def test_a_device_that_is_not_there_is_said_in_a_line(start: Path, tmp_path: Path):
    with pytest.raises(SC2Error, match=r"^There is no device cuda:99 here: "):
        small_train(start, tmp_path, device="cuda:99")


# Figures


def test_figures_of_speed_are_tokens_share_of_the_peak_and_share_of_waiting():
    meter = Meter(100_000_000, peak=known_peak("NVIDIA H100 80GB HBM3"))
    meter.add(1_000_000, seconds=3.0, waited=0.02)
    meter.add(1_000_000, seconds=5.0, waited=0.02)
    figures = meter.read()
    # 250,000 tokens a second at 6 x 100 million operations are 150 TFLOP/s of 989.
    assert figures["teraflops"] == 150.0
    assert speed_text(figures) == "250,000 tokens/s  15.2% of the peak  0.5% waiting for rows"
    assert meter.read()["tokens_per_second"] == 0


@pytest.mark.parametrize("name", ["decay.pt", "checkpoint.pt"])
@pytest.mark.parametrize("how", ["cut", "empty", "garbage", "other", "list"])
def test_a_damaged_checkpoint_is_named_in_a_line(start: Path, tmp_path: Path, name: str, how: str):
    import torch

    file = tmp_path / "out" / name
    file.parent.mkdir()
    torch.save({"state": {}} if how == "other" else [1], file)
    content = file.read_bytes()
    cut = {"cut": content[: len(content) // 2], "empty": b"", "garbage": b"garbage" * 99}
    file.write_bytes(cut.get(how, content))
    with pytest.raises(SC2Error, match=f"{name} is damaged: delete it"):
        small_train(start, file.parent)


def test_a_folder_in_place_of_a_checkpoint_is_no_damage(start: Path, tmp_path: Path):
    (tmp_path / "out" / "checkpoint.pt").mkdir(parents=True)
    with pytest.raises(SC2Error, match=r"checkpoint\.pt cannot be read: Is a directory"):
        small_train(start, tmp_path / "out")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
def test_a_full_disk_ends_a_training_in_a_line_and_leaves_the_checkpoint(
    start: Path, tmp_path: Path
):
    import resource

    calls = iter(range(99))
    small_train(start, tmp_path, stop=lambda: next(calls) == 1)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(SC2Error, match=r"\.pt cannot be written: "):
            small_train(start, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert not [*tmp_path.glob("*.part")]
    assert small_train(start, tmp_path)["step"] == 6

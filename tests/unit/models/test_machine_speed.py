"""The speed of this machine: measured once, kept by what tells it from others, and never waited for in a kernel."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from jupyter_sc2.models import machine_speed
from jupyter_sc2.models.cards import cards
from jupyter_sc2.models.files import plan_for, plans_for
from jupyter_sc2.models.machine_speed import Speed, kept, key, measure, measured, measured_soon
from jupyter_sc2.models.plan import LINE_TOKENS, a_line, choose, plan, predicted_ms
from jupyter_sc2.options import LoadOptions
from jupyter_sc2.runtime.hardware import Machine, machine
from tests.support.paths import ROOT

HERE = Machine(processor="a processor", cores=2, memory=16 << 30, features=("AVX2",))
SPEED = Speed(bytes_per_second=2e10, products_per_second=4e9)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(machine_speed, "jupyter_data_dir", lambda: str(tmp_path))
    monkeypatch.setattr(machine_speed, "_started", set())
    return tmp_path / "jupyter_sc2"


@pytest.fixture
def measurements(monkeypatch):
    calls = []
    monkeypatch.setattr(machine_speed, "measure", lambda cores: calls.append(cores) or SPEED)
    return calls


def test_measuring_gives_plausible_figures_for_one_thread_and_two():
    for cores in (1, 2):
        speed = measure(cores)
        assert 5e8 < speed.bytes_per_second < 1e12 and 1e7 < speed.products_per_second < 1e12


def test_a_machine_is_measured_once_and_kept_for_other_processes(measurements):
    assert measured(HERE) == SPEED and measured(HERE) == SPEED == kept(HERE)
    assert measurements == [2]


@pytest.mark.parametrize(
    "other",
    [{"processor": "another"}, {"cores": 4}, {"memory": 32 << 30}],
    ids=["processor", "cores", "memory"],
)
def test_other_hardware_is_measured_anew_and_the_first_stays_known(measurements, other):
    measured(HERE)
    assert kept(replace(HERE, **other)) is None
    measured(replace(HERE, **other))
    assert kept(HERE) == SPEED and len(measurements) == 2


def test_free_memory_makes_no_other_machine():
    assert key(replace(HERE, free=1)) == key(replace(HERE, free=2))


@pytest.mark.parametrize(
    "content", ["", "[]", '{"%s": 3}', '{"%s": {"bytes_per_second": 0, "products_per_second": 1}}']
)
def test_a_damaged_file_is_measured_again(folder, measurements, content):
    folder.mkdir()
    machine_speed.file().write_text(content.replace("%s", key(HERE)))
    assert measured(HERE) == SPEED and measurements == [2]
    assert json.loads(machine_speed.file().read_text())[key(HERE)]


def test_where_nothing_can_be_kept_it_is_measured_all_the_same(folder, measurements):
    folder.write_text("a file in the way")
    assert measured(HERE) == SPEED


def test_a_kernel_does_not_wait_for_the_measurement_and_starts_it_once(monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    calls = []

    def slow(cores):
        calls.append(cores)
        begun.set()
        go_on.wait(10)
        return SPEED

    monkeypatch.setattr(machine_speed, "measure", slow)
    assert measured_soon(HERE) is None and measured_soon(HERE) is None
    assert begun.wait(10)
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "jupyter-sc2-speed"]
    go_on.set()
    thread.join(10)
    assert calls == [2] and measured_soon(HERE) == SPEED


WITHOUT_TORCH = """
import sys
from jupyter_sc2.models import machine_speed
machine_speed.jupyter_data_dir = lambda: sys.argv[1]
from jupyter_sc2.models import files
files.may_have_gpu = lambda: False
from jupyter_sc2.options import LoadOptions
from jupyter_sc2.runtime.hardware import machine
options = LoadOptions(model="starcoder2-3b", engine="auto", precision="auto")
_, here, rows = files.plan_for(options, tokens=100, may_wait=False)
files.plans_for(options, ["starcoder2-3b", "embedded"], tokens=100)
machine_speed.measured(here)
assert "torch" not in sys.modules
print([row.precision for row in rows if row.chosen][0])
"""


@pytest.mark.torch
def test_a_plan_in_a_kernel_chooses_the_same_without_importing_torch(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    if not machine().gpu:
        shape = cards()["starcoder2-3b"].shape
        assert done.stdout.strip() == choose(shape, machine(), 100)[0]


# What follows from it


def test_half_the_memory_speed_takes_twice_as_long_where_weights_are_read(monkeypatch):
    shape = cards()["starcoder2-3b"].shape
    slow = replace(SPEED, bytes_per_second=1e10)
    layers = predicted_ms(shape, "bf16", HERE, replace(SPEED, bytes_per_second=1e15))
    fast = predicted_ms(shape, "fp32", HERE, SPEED)
    assert predicted_ms(shape, "fp32", HERE, slow) == pytest.approx(2 * fast, rel=0.05)
    assert layers > 0


def test_slower_cores_take_longer_where_weights_are_decoded():
    shape = cards()["starcoder2-3b"].shape
    slow = replace(SPEED, products_per_second=1e9, bytes_per_second=1e12)
    quick = replace(slow, products_per_second=2e9)
    ratio = predicted_ms(shape, "int4", HERE, slow) / predicted_ms(shape, "int4", HERE, quick)
    assert ratio == pytest.approx(2)


def test_a_row_tells_the_time_of_a_token_of_a_line_and_of_loading():
    rows = plan(cards()["starcoder2-3b"].shape, HERE, tokens=100, speed=SPEED)
    for row in rows:
        assert row.line_seconds == pytest.approx(LINE_TOKENS * row.ms_per_token / 1e3, rel=0.02)
        assert row.load_seconds > 0
    times = {row.precision: row.line_seconds for row in rows}
    assert times["fp32"] > times["8bit"] > times["int4"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.034, "0.03"), (0.94, "0.9"), (9.96, "10"), (72.4, "72")]
)
def test_the_time_of_a_line_is_told_in_two_digits_at_most(seconds, words):
    (row, *_) = plan(cards()["starcoder2-3b"].shape, HERE, tokens=100)
    assert a_line(replace(row, line_seconds=seconds)) == f"about {words} s a line"


def test_the_choice_does_not_follow_from_what_was_measured_today():
    shape = cards()["starcoder2-3b"].shape
    here = replace(HERE, free=20_000_000_000)
    slow = Speed(bytes_per_second=1e8, products_per_second=1e7)
    chosen = [
        row.precision
        for speed in (None, SPEED, slow)
        for row in plan(shape, here, tokens=100, speed=speed)
        if row.chosen
    ]
    assert len(set(chosen)) == 1


def test_plans_use_what_is_kept(measurements):
    measured(machine(by_torch=False))
    (rows,) = plans_for(LoadOptions(model="embedded"), ["embedded"], tokens=100).values()
    _, _, waited = plan_for(LoadOptions(model="embedded"), tokens=100)
    assert [row.ms_per_token for row in rows] == [row.ms_per_token for row in waited]

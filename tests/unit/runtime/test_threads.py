"""How many threads help now: the rule, and what it is told of the cores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jupyter_sc2.runtime.threads import Cores, Load, most_threads, threads_that_help
from tests.unit.pipeline.test_session import request, submit, wait_until

TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
needs_proc = pytest.mark.skipif(not hasattr(os, "sysconf"), reason="there is no /proc")


def cores(usable: int = 8, physical: int = 8, **fields: float) -> Cores:
    return Cores(usable=usable, physical=physical, **fields)


def count(cores: Cores, **fields: int) -> int:
    return threads_that_help(lambda: cores, cell_runs=False, **fields)


def test_a_quiet_machine_gives_its_physical_cores():
    assert count(cores(usable=8, physical=4)) == 4


def test_no_more_than_the_cores_that_the_process_may_use():
    assert count(cores(usable=2, physical=16)) == 2


def test_cores_that_others_keep_busy_are_left_to_them():
    assert count(cores(busy=5.9)) == 2


def test_a_core_that_is_busy_for_a_moment_counts_as_free():
    assert count(cores(usable=2, physical=2, busy=0.4)) == 2


def test_where_no_core_is_free_there_is_one_thread():
    assert count(cores(busy=20.0)) == 1


def test_a_container_gets_no_thread_beyond_its_quota():
    assert count(cores(quota=2.5)) == 2


def test_what_others_in_the_container_take_is_taken_off_its_quota():
    assert count(cores(quota=4.0, busy_in_quota=2.0)) == 2


def test_half_a_core_is_one_thread():
    assert count(cores(quota=0.5)) == 1


def test_a_cell_that_runs_leaves_one_thread():
    assert threads_that_help(cores, cell_runs=True) == 1


@pytest.mark.parametrize("known", [{"cell_runs": True}, {"cell_runs": False, "setting": 3}])
def test_nobody_looks_how_busy_the_cores_are_where_that_does_not_matter(known):
    def look():
        raise AssertionError

    assert threads_that_help(look, **known)


def test_a_model_gets_no_more_threads_than_help_it():
    assert count(cores(), most=4) == 4


def test_the_users_number_always_holds():
    assert threads_that_help(lambda: cores(busy=8.0), cell_runs=True, most=1, setting=6) == 6


@pytest.mark.parametrize(("parameters", "most"), [(7e6, 1), (109e6, 4), (3e9, None)])
def test_a_small_model_gains_nothing_from_many_threads(parameters, most):
    assert most_threads(int(parameters)) == most


class Machine:
    """The files of a machine that is made up; `load` looks at them."""

    def __init__(self, folder: Path) -> None:
        self.proc, self.cgroups = folder / "proc", folder / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        self.cgroups.mkdir()
        self.now = self.own = 0.0
        self.taken(0)
        self.running(1)

    def taken(self, seconds: float) -> None:
        """So many seconds the cores have been busy, half of them with system calls."""
        ticks = int(seconds * TICKS / 2)
        line = f"cpu  {ticks} 0 {ticks} 999 999 0 0 0 0 0"
        (self.proc / "stat").write_text(f"{line}\nintr 1\n")

    def running(self, threads: int) -> None:
        (self.proc / "loadavg").write_text(f"9.00 9.00 9.00 {threads}/345 678\n")

    def write(self, name: str, text: str) -> None:
        file = self.cgroups / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def load(self) -> Load:
        return Load(self.proc, self.cgroups, lambda: self.now, lambda: self.own)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@needs_proc
def test_what_others_took_since_the_last_look_tells_how_busy_the_cores_are(machine):
    load = machine.load()
    load.cores()
    machine.now, machine.own = 1.0, 0.5
    machine.taken(2.0)
    assert load.cores().busy == pytest.approx(1.5)


def test_after_a_pause_the_threads_that_run_now_tell_it(machine):
    load = machine.load()
    load.cores()
    machine.now = 600.0
    machine.running(4)  # with the one that looks
    assert load.cores().busy == 3.0


def test_a_second_look_in_a_moment_sees_what_the_first_saw(machine):
    load = machine.load()
    machine.running(3)
    before = load.cores()
    machine.running(9)
    machine.now = 0.1
    assert load.cores() == before


def test_a_machine_that_tells_nothing_counts_as_quiet(tmp_path):
    assert Load(tmp_path, tmp_path, lambda: 0.0, lambda: 0.0).cores().busy == 0.0


def test_no_core_is_free_where_others_want_all(machine):
    load = machine.load()
    machine.running((os.cpu_count() or 1) + 1)
    assert load.crowded()


def test_what_looks_does_not_count_among_those_that_want_a_core(machine):
    load = machine.load()
    machine.running(os.cpu_count() or 1)
    assert not load.crowded()


def test_the_quota_of_a_cgroup_of_version_2_is_read(machine):
    (machine.proc / "self/cgroup").write_text("0::/user/kernel\n")
    machine.write("user/kernel/cpu.max", "150000 100000\n")
    assert machine.load().cores().quota == 1.5


def test_the_quota_may_be_that_of_a_group_above(machine):
    (machine.proc / "self/cgroup").write_text("0::/user/kernel\n")
    machine.write("user/kernel/cpu.max", "max 100000\n")
    machine.write("user/cpu.max", "400000 100000\n")
    assert machine.load().cores().quota == 4.0


def test_the_quota_of_a_cgroup_of_version_1_is_read(machine):
    (machine.proc / "self/cgroup").write_text("5:memory:/outside\n4:cpu,cpuacct:/outside\n")
    machine.write("cpu,cpuacct/cpu.cfs_quota_us", "300000\n")
    machine.write("cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    assert machine.load().cores().quota == 3.0


def test_a_cgroup_without_a_quota_has_none(machine):
    (machine.proc / "self/cgroup").write_text("1:cpu:/\n0::/\n")
    machine.write("cpu/cpu.cfs_quota_us", "-1\n")
    machine.write("cpu/cpu.cfs_period_us", "100000\n")
    assert machine.load().cores().quota is None


def test_what_others_in_the_cgroup_take_is_known(machine):
    (machine.proc / "self/cgroup").write_text("0::/\n")
    machine.write("cpu.max", "400000 100000\n")
    machine.write("cpu.stat", "usage_usec 0\nuser_usec 0\n")
    load = machine.load()
    load.cores()
    machine.now, machine.own = 1.0, 0.5
    machine.write("cpu.stat", "usage_usec 2500000\nuser_usec 0\n")
    assert load.cores().busy_in_quota == pytest.approx(2.0)


def test_while_a_cell_runs_the_engine_uses_one_thread(session, fake_engine, monkeypatch):
    monkeypatch.setattr(
        "jupyter_sc2.runtime.threads.Load.cores", lambda load: cores(usable=8, physical=8)
    )
    submit(session, request()).final  # noqa: B018
    before = fake_engine.threads
    session.set_kernel_busy(True)
    submit(session, request("y = ")).final  # noqa: B018
    assert (before, fake_engine.threads) == (8, 1)


def test_a_cell_that_begins_while_text_is_decoded_takes_the_cores(
    session, fake_engine, monkeypatch
):
    monkeypatch.setattr(
        "jupyter_sc2.runtime.threads.Load.cores", lambda load: cores(usable=8, physical=8)
    )
    fake_engine.answers = ["total"]
    fake_engine.hold_after("to")
    answers = submit(session, request())
    wait_until(lambda: fake_engine.held)
    assert fake_engine.threads == 8
    session.set_kernel_busy(True)
    fake_engine.hold_after(None)
    assert answers.final.text == "total"
    assert fake_engine.threads == 1

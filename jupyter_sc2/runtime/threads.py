"""How many threads a model computes with: as many as help now.

A forward pass is divided among threads that wait for one another after each operation. On a core that
another process keeps busy one of them comes late each time, and all wait for it. So what counts is how many cores are
free at this moment, and not how many there are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from jupyter_sc2.runtime.clock import monotonic, process_time, sleep
from jupyter_sc2.runtime.hardware import usable_cores

# Seconds over which it is measured how busy the cores are: the system counts in steps of 10 ms. After a longer time
# it is looked at how many threads run at the moment, as the mean says little about now.
MIN_INTERVAL_S, MAX_INTERVAL_S = 0.2, 2.0


@dataclass(frozen=True, kw_only=True)
class Cores:
    """The cores there are, and how many of them others keep busy (2.5: two and a half cores' time)."""

    usable: int  # that this process may run on
    physical: int  # of the machine
    quota: float | None = None  # how many cores' time a container may take; None for any
    busy: float = 0.0
    busy_in_quota: float = 0.0


# A model of fewer parameters than this is quickest on one thread: 7M took 14 ms a token on it beside another process
# on the same two cores, and 130 ms on two. One of fewer than that gains nothing from more threads than a few.
SMALL_MODEL_PARAMS, MEDIUM_MODEL_PARAMS = 50_000_000, 500_000_000
MEDIUM_MODEL_THREADS = 4


def most_threads(parameters: int) -> int | None:
    """Beyond how many threads a model of so many parameters gains nothing; None where that depends on the machine."""
    return (
        1
        if parameters < SMALL_MODEL_PARAMS
        else MEDIUM_MODEL_THREADS
        if parameters < MEDIUM_MODEL_PARAMS
        else None
    )


def threads_that_help(
    cores: Callable[[], Cores], *, cell_runs: bool, most: int | None = None, setting: int = 0
) -> int:
    """How many threads to compute with now, 1 at least.

    `setting` is the user's number and always holds; 0 for none. While a cell of this kernel runs, the cores are the
    cell's. `most` is where more threads gain the model nothing. `cores` is called only where it matters: how busy they
    are stands in files, and a thread beside a running cell waits for the GIL after each call of the system.
    """
    if setting:
        return setting
    if cell_runs:
        return 1
    now = cores()
    free = min(float(now.usable), now.physical - now.busy)
    if now.quota is not None:  # beyond it all threads are stopped for the rest of 0.1 s
        free = min(free, max(1, int(now.quota)) - now.busy_in_quota)
    count = int(free + 0.5)
    return max(1, count if most is None else min(count, most))


def cores_here() -> Cores:
    """The cores that there are, whether they are free or not."""
    return Load().standing()


class Load:
    """Measures how busy the cores are; used by one thread at a time."""

    def __init__(
        self,
        proc: Path = Path("/proc"),
        cgroups: Path = Path("/sys/fs/cgroup"),
        clock: Callable[[], float] = monotonic,
        own: Callable[[], float] = process_time,
    ) -> None:
        """`own` tells the seconds of processor time that this process has taken."""
        self._proc, self._clock, self._own = proc, clock, own
        self._group = next(_groups(proc, cgroups), None)
        self._usable, self._physical = usable_cores(), _physical()
        self._last: _Times | None = None
        self._seen = self.standing()

    def cores(self) -> Cores:
        """How busy the cores are now. May be called for each token; every 0.2 s it takes 0.1 ms, after a pause 2 ms."""
        last, at = self._last, self._clock()
        if last is not None and at - last.at < MIN_INTERVAL_S:
            return self._seen
        now = _Times(at, self._own(), self._taken(), self._group_taken())
        passed = MAX_INTERVAL_S if last is None else now.at - last.at
        busy = in_quota = 0.0
        if last is not None and passed <= MAX_INTERVAL_S:
            busy, in_quota = _others(last, now)
        elif (running := self._running()) is not None:
            busy = in_quota = running
        elif last is not None:
            busy, in_quota = _others(last, now)
        self._last = now
        self._seen = self.standing(busy, in_quota)
        return self._seen

    def standing(self, busy: float = 0.0, in_quota: float = 0.0) -> Cores:
        """The cores, of which others keep so many busy."""
        return Cores(
            usable=self._usable,
            physical=self._physical,
            quota=self._group.quota() if self._group is not None else None,
            busy=busy,
            busy_in_quota=in_quota,
        )

    def _taken(self) -> float | None:
        """Seconds that all cores of the machine have been busy."""
        try:
            words = (self._proc / "stat").read_text().split(maxsplit=9)
            user, nice, system, _idle, _waiting, *interrupts = map(int, words[1:9])
            return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, AttributeError):
            return _taken_elsewhere()

    def _group_taken(self) -> float | None:
        return self._group.taken() if self._group is not None else None

    def crowded(self) -> bool:
        """Whether no core is free at this moment, the caller's own aside: what it does, others would do without it.

        Takes some 0.03 ms.
        """
        cores = self._seen
        if cores.quota is not None and cores.busy_in_quota + 1 > cores.quota:
            return True
        others = self._running_now()
        return (cores.busy if others is None else others) + 0.5 > (os.cpu_count() or 1)

    def _running(self) -> float | None:
        """How many other threads want a core now; None where the system does not tell.

        The smaller of two numbers: the key that brought us here has made others run for a moment.
        """
        first = self._running_now()
        if first:
            sleep(0.002)
            return min(first, self._running_now() or 0.0)
        return first

    def _running_now(self) -> float | None:
        """How many threads run or wait for a core, this one excluded."""
        try:
            running, _ = (self._proc / "loadavg").read_text().split()[3].split("/")
            return float(max(0, int(running) - 1))
        except (OSError, ValueError, IndexError):
            return None


@dataclass(frozen=True)
class _Times:
    """A moment, and the processor time that was taken until then, in seconds; None where it is not known."""

    at: float
    own: float
    machine: float | None
    group: float | None


def _others(last: _Times, now: _Times) -> tuple[float, float]:
    """How many cores others kept busy between two moments: on the machine, and in this process's cgroup."""

    def mean(before: float | None, after: float | None) -> float:
        if before is None or after is None:
            return 0.0
        own = now.own - last.own
        return max(0.0, (after - before - own) / (now.at - last.at))

    return mean(last.machine, now.machine), mean(last.group, now.group)


@dataclass(frozen=True)
class _Group:
    """A cgroup with a quota: where its files are, and whether they are those of version 2."""

    folder: Path
    accounts: Path  # where its time is counted
    second: bool

    def quota(self) -> float | None:
        """How many cores' time it may take; None for any."""
        try:
            if self.second:
                words = (self.folder / "cpu.max").read_text().split()
            else:
                names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
                words = [(self.folder / name).read_text() for name in names]
            quota = int(words[0]) / int(words[1])
        except (OSError, ValueError, IndexError, ZeroDivisionError):  # "max" is no number
            return None
        return quota if quota > 0 else None

    def taken(self) -> float | None:
        """Seconds of processor time that it has taken."""
        try:
            if self.second:
                found = re.search(r"usage_usec (\d+)", (self.accounts / "cpu.stat").read_text())
                return int(found[1]) / 1e6 if found else None
            return int((self.accounts / "cpuacct.usage").read_text()) / 1e9
        except (OSError, ValueError):
            return None


def _groups(proc: Path, cgroups: Path) -> Iterator[_Group]:
    """This process's cgroups that have a quota, from its own one up."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        names = controllers.split(",")
        if controllers and "cpu" not in names:
            continue
        second = not controllers
        roots = [cgroups] if second else [cgroups / controllers, cgroups / "cpu"]
        # In a container the path may be the one outside, and what is seen under the root this group's own.
        parts = [part for part in path.split("/") if part and part != ".."]
        for root in roots:
            for length in range(len(parts), -1, -1):
                folder = root.joinpath(*parts[:length])
                accounts = folder
                if not second and not (folder / "cpuacct.usage").exists():
                    accounts = cgroups.joinpath("cpuacct", *parts[:length])
                group = _Group(folder, accounts, second)
                if group.quota() is not None:
                    yield group


def _physical() -> int:
    """The machine's cores, without the second thread that some run; where that is not known, with it."""
    try:
        import psutil

        return int(psutil.cpu_count(logical=False) or os.cpu_count() or 1)
    except Exception:  # psutil has errors of its own, and a frozen system may lack it
        return os.cpu_count() or 1


def _taken_elsewhere() -> float | None:
    """Seconds that all cores have been busy, on systems without /proc."""
    try:
        import psutil

        times = psutil.cpu_times()
        return float(sum(times) - times.idle - getattr(times, "iowait", 0.0))
    except Exception:
        return None

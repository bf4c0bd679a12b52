"""How fast this machine reads memory and calculates, from which `plan` predicts the time for a token.

Measured in about half a second, with NumPy alone, and kept in Jupyter's data folder for each machine by what tells it
from others: home folders are shared, and hardware changes. The clock is the CPU time of each thread, so that other
processes, or a cell that runs, change the figures little.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_data_dir

from jupyter_sc2.models import checksums
from jupyter_sc2.runtime import background, clock
from jupyter_sc2.runtime.hardware import Machine

FILE = "machine_speed.json"
VERSION = 1  # raised when the figures mean something else
MAX_MACHINES = 20  # in the file
# More threads than that wait for the memory, in the engines as well.
MAX_THREADS = 8
# Bytes that all threads together read, more than most caches hold; and how often.
READ_BYTES = 1 << 27
READ_ROUNDS = 4
# Numbers that are multiplied at a time, which fit in the nearest cache; and how often.
MULTIPLIED = 1 << 12
MULTIPLY_ROUNDS, MULTIPLICATIONS = 100, 40


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Bytes that the cores read in a second, together, and float32 products of one core in a second."""

    bytes_per_second: float
    products_per_second: float


def key(machine: Machine) -> str:
    """What tells this machine from others."""
    gigabytes = None if machine.memory is None else round(machine.memory / (1 << 30))
    return f"{VERSION}, {machine.processor}, {machine.cores} cores, {gigabytes} GB"


def file() -> Path:
    return Path(jupyter_data_dir()) / "jupyter_sc2" / FILE


def kept(machine: Machine) -> Speed | None:
    """What was measured on this machine before."""
    found = (checksums.read_record(file()) or {}).get(key(machine))
    try:
        speed = Speed(**found)  # type: ignore[arg-type]
        return speed if min(asdict(speed).values()) > 0 else None
    except (TypeError, ValueError):
        return None


def measured(machine: Machine) -> Speed:
    """What is kept of this machine, measured now if nothing is."""
    return kept(machine) or _keep(machine, measure(machine.cores))


_started: set[str] = set()


def measured_soon(machine: Machine) -> Speed | None:
    """What is kept of this machine; if nothing is, a thread measures it, once, for whoever asks later."""
    speed, name = kept(machine), key(machine)
    if speed is None and name not in _started:
        _started.add(name)
        background.Thread(measured, machine, name="jupyter-sc2-speed").start()
    return speed


def _keep(machine: Machine, speed: Speed) -> Speed:
    record: dict[str, Any] = checksums.read_record(file()) or {}
    record.pop(key(machine), None)
    others = list(record.items())[-(MAX_MACHINES - 1) :]
    try:
        file().parent.mkdir(parents=True, exist_ok=True)
        checksums.write_record(file(), {**dict(others), key(machine): asdict(speed)})
    except OSError:  # measured again the next time
        pass
    return speed


def measure(cores: int) -> Speed:
    """Measures with as many threads as an engine would use on this many cores."""
    threads = max(1, min(cores, MAX_THREADS))
    return Speed(bytes_per_second=_read(threads), products_per_second=_multiply())


def _read(threads: int) -> float:
    import numpy as np

    parts = [np.ones(READ_BYTES // threads // 8) for _ in range(threads)]
    best = [0.0] * threads

    def read(index: int) -> None:
        for _ in range(READ_ROUNDS):
            best[index] = max(best[index], parts[index].nbytes / _seconds(parts[index].max))

    _side_by_side(read, threads)
    return sum(best)


def _multiply() -> float:
    import numpy as np

    x, product = np.ones(MULTIPLIED, np.float32), np.ones(MULTIPLIED, np.float32)

    def multiply() -> None:
        for _ in range(MULTIPLICATIONS):
            np.multiply(x, x, out=product)

    return MULTIPLIED * MULTIPLICATIONS / min(_seconds(multiply) for _ in range(MULTIPLY_ROUNDS))


def _seconds(act: Callable[[], object]) -> float:
    """CPU time of this thread, or time where that clock is coarse, as on Windows."""
    is_coarse = clock.thread_time_resolution_s > 1e-5
    read = clock.monotonic if is_coarse else clock.thread_time
    start = read()
    act()
    return max(read() - start, 1e-9)


def _side_by_side(act: Callable[[int], None], count: int) -> None:
    started = [background.Thread(act, index, name="jupyter-sc2-speed") for index in range(count)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()

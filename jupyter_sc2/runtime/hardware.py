"""What this machine has to run a model with: processor, memory, GPU."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from jupyter_sc2.runtime.output_filter import silence

NATIVE_BF16 = frozenset({"AVX512-BF16", "AMX"})  # features with which a processor computes in bf16


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Memory is in bytes, None where the system does not tell. A GPU without memory of its own has None too."""

    processor: str = ""
    cores: int = 1
    features: tuple[str, ...] = ()  # of "AVX2", "AVX-512", "AVX512-BF16", "AMX"
    memory: int | None = None
    free: int | None = None
    gpu: str = ""
    gpu_memory: int | None = None
    gpu_free: int | None = None

    @property
    def quick_bf16(self) -> bool:
        """Whether bf16 is computed natively."""
        return bool(self.gpu) or not NATIVE_BF16.isdisjoint(self.features)

    @property
    def usable(self) -> int | None:
        """Free memory where the weights would go."""
        return self.gpu_free if self.gpu_free is not None else self.free

    def __str__(self) -> str:
        parts = [self.processor or "a processor", f"{self.cores} cores", *self.features]
        if self.free is not None and self.memory is not None:
            parts.append(f"{format_bytes(self.free)} of {format_bytes(self.memory)} free")
        if self.gpu_free is not None and self.gpu_memory is not None:
            parts.append(
                f"{self.gpu} with {format_bytes(self.gpu_free)} of {format_bytes(self.gpu_memory)} free"
            )
        else:
            parts.append(self.gpu or "no GPU that torch can use")
        return ", ".join(parts)


def machine(*, by_torch: bool = True) -> Machine:
    """Looks at this machine through torch, which is imported; without it a GPU is not seen, nor outside Linux bf16."""
    total, free = _memory()
    gpu, gpu_memory, gpu_free = "", None, None
    features = _flags()
    if by_torch:
        with silence:  # torch warns of drivers that are missing or too old
            gpu, gpu_memory, gpu_free = _gpu()
            features = _features() or features
    return Machine(
        processor=_processor(),
        cores=usable_cores(),
        features=features,
        memory=total,
        free=free,
        gpu=gpu,
        gpu_memory=gpu_memory,
        gpu_free=gpu_free,
    )


def free_memory() -> int | None:
    """Bytes of memory available without swapping; None if this machine does not report it."""
    return _memory()[1]


def address_space_left() -> int | None:
    """Bytes of address space that this process may still take (`ulimit -v`); None for any number."""
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit == resource.RLIM_INFINITY:
            return None
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        return max(0, limit - pages * resource.getpagesize())
    except (ImportError, AttributeError, OSError, ValueError):  # Windows, macOS
        return None


def give_back_memory() -> None:
    """Makes the C library return freed memory to the system, where it can."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # musl has no malloc_trim
            ctypes.CDLL(None).malloc_trim(0)


def format_bytes(size: int) -> str:
    """A size in bytes: "6.1 GB", "93 MB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _memory() -> tuple[int | None, int | None]:
    try:
        import psutil  # comes with ipykernel
    except ImportError:
        return None, None
    memory = psutil.virtual_memory()
    return int(memory.total), int(memory.available)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def usable_cores() -> int:
    """The cores that this process may use, which a container may have fewer of than the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def may_have_gpu() -> bool:
    """Whether there is the driver of a GPU that torch might use; torch alone can tell."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    if sys.platform == "win32":
        return Path(os.environ.get("SYSTEMROOT", "C:/Windows"), "System32", "nvml.dll").exists()
    return any(Path(name).exists() for name in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd"))


def processor_has_bf16() -> bool:
    """Whether this processor computes in bf16 natively; asks torch, which has to be installed."""
    return not NATIVE_BF16.isdisjoint(_features())


def _flags() -> tuple[str, ...]:
    """The same features as Linux names them."""
    flags: set[str] = set()
    with (
        contextlib.suppress(OSError),
        open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines,
    ):
        for line in lines:
            if line.startswith("flags"):
                flags.update(line.partition(":")[2].split())
                break
    names = {
        "AVX2": {"avx2", "fma"},
        "AVX-512": {"avx512f", "avx512bw", "avx512vl", "avx512dq"},
        "AVX512-BF16": {"avx512_bf16"},
        "AMX": {"amx_tile"},
    }
    return tuple(name for name, wanted in names.items() if wanted <= flags)


def _features() -> tuple[str, ...]:
    try:
        import torch
    except ImportError:
        return ()
    checks = {
        "AVX2": "_is_avx2_supported",
        "AVX-512": "_is_avx512_supported",
        "AVX512-BF16": "_is_avx512_bf16_supported",
        "AMX": "_is_amx_tile_supported",
    }
    return tuple(
        name
        for name, check in checks.items()
        if (supported := getattr(torch.cpu, check, None)) is not None and supported()
    )


def _gpu() -> tuple[str, int | None, int | None]:
    try:
        import torch
    except ImportError:
        return "", None, None
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info(0)
        return torch.cuda.get_device_name(0), total, free
    if torch.backends.mps.is_available():
        return "Apple GPU", None, None  # shares the machine's memory
    return "", None, None

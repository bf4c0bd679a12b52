"""Rehearses a training on another machine: on this one, without a GPU, and with the limits of transfers enforced.

    python -m scripts.gpu.rehearse CORPUS [--minutes 2] [--layers 2] [--calm | --stormy]

The other machine is a folder. A call copies only the small tree and the transfer there, and runs the command in a clean
environment in which packages that are absent on the other machine cannot be imported. Then it kills what the command
left running, except for sessions of their own, and copies back what the limits allow. In the calm lease all goes well.
In the stormy one pieces are damaged, a call is cut off, and first the training is killed, then all its processes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.gpu import collect, pack, tree
from scripts.gpu.limits import Limits, add_limits, mib
from scripts.gpu.pieces import read_json

ROOT = tree.ROOT
LEASE = Path("runs/lease")
RUN = "python3 -m scripts.gpu.run"
SMALL = {  # settings of the recipe for a CPU
    "row": 256,
    "tokens_per_step": 1024,
    "micro_batch": 1024,
    "average": 5,
    "report_every": 5,
}


@dataclass
class Answer:
    """What came back from a call."""

    status: int
    seconds: float
    sent: int  # bytes
    folder: Path
    output: str
    files: list[Path] = field(default_factory=list)


class Machine:
    """A folder that stands for the other machine."""

    def __init__(self, folder: Path, checkout: Path, limits: Limits, work: Path) -> None:
        self.folder, self.checkout, self.limits, self.work = folder, checkout, limits, work
        self.answers: list[Answer] = []
        absent = folder / "absent"
        absent.mkdir(parents=True)
        (absent / "sitecustomize.py").write_text(pack.BLOCK.format(absent=set(pack.ABSENT)))

    def call(self, command: str, carry: Sequence[Path] = (), *, seconds: float) -> Answer:
        self.limits.check_call(command, carry, seconds)
        carried = [p for folder in carry for p in (self.checkout / folder).rglob("*")]
        paths = [*tree.files(self.checkout), *(p for p in carried if p.is_file())]
        sent = sum(path.lstat().st_size for path in paths)
        self.limits.check_transfer(sent + self.limits.spare)
        there, out = self.folder / "tree", self.folder / "out"
        for old in (there, out):
            shutil.rmtree(old, ignore_errors=True)
            old.mkdir()
        for path in paths:
            target = there / path.relative_to(self.checkout)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target, follow_symlinks=False)
        environment = {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "HOME": str(self.folder),
            "PYTHONPATH": str(self.folder / "absent"),
            "CUDA_VISIBLE_DEVICES": "",
            "OUT": str(out),
        }
        began = time.monotonic()
        log = self.folder / "call.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", command],
                cwd=there,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = 124
        with suppress(ProcessLookupError):  # it has left nothing running
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        took = time.monotonic() - began
        back = self.folder / "back" / f"call-{len(self.answers) + 1}"
        files = self.limits.check_back(out)
        shutil.copytree(out, back)
        text = log.read_text("utf-8", errors="replace")
        answer = Answer(status, took, sent, back, text, [back / p.relative_to(out) for p in files])
        self.answers.append(answer)
        size = sum(path.stat().st_size for path in answer.files)
        print(
            f"--- call {len(self.answers)}: status {status}, {took:.1f} s, {mib(sent)} there, "
            f"{len(files)} files of {mib(size)} back",
            flush=True,
        )
        print("\n".join(f"    {line}" for line in text.splitlines()[-14:]), flush=True)
        return answer

    def processes(self) -> list[int]:
        """The training's processes: the one that learns, and the one that supervises it."""
        state = read_json(self.work / "training.json", {})
        return [state[name] for name in ("learner", "pid") if name in state]

    def kill(self, *, all_of_them: bool) -> None:
        for pid in self.processes()[: None if all_of_them else 1][::-1]:
            print(f"    killing process {pid}", flush=True)
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                print("    it has ended already", flush=True)

    def give_back(self) -> None:
        """Ends what still runs there."""
        if read_json(self.work / "training.json", {}).get("state") == "running":
            self.kill(all_of_them=True)


def wait_for(what: Any, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not what() and time.monotonic() < until:
        time.sleep(0.2)


def checkout_of(root: Path, folder: Path, *, large: bool) -> Path:
    """A copy of the working tree, so that the real one stays as it is."""
    for path in tree.files(root):
        if large or path.stat().st_size < tree.LARGE:
            target = folder / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target, follow_symlinks=False)
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    return folder


def fewer_layers(model: Path, to: Path, count: int) -> Path:
    """The model's first layers alone, packed as they are."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    to.mkdir(parents=True)
    config = json.loads((model / "config.json").read_text())
    config["num_hidden_layers"] = count
    (to / "config.json").write_text(json.dumps(config))
    for name in pack.MODEL[1:]:
        if (model / name).exists():
            shutil.copy(model / name, to / name)
    with safe_open(str(model / "model.safetensors"), framework="pt") as file:
        names = [
            name
            for name in file.keys()  # noqa: SIM118 (no mapping)
            if not name.startswith("model.layers.") or int(name.split(".")[2]) < count
        ]
        save_file({n: file.get_tensor(n) for n in names}, str(to / "model.safetensors"))
    return to


class Lease:
    """One machine for one scenario, and what was packed for it."""

    def __init__(self, name: str, base: Path, packed: Path, limits: Limits, args: Any) -> None:
        self.checkout = base / "checkout"
        self.name, self.start = name, args.start
        self.packed = packed
        self.work = base / name / "work"
        self.machine = Machine(base / name, self.checkout, limits, self.work)
        self.at = f"--work {self.work}"
        self.back = f"--back-mib {args.back_mib} --back-file-mib {args.back_file_mib} --back-files {args.back_files}"
        steps = {**SMALL, "checkpoint_every": args.checkpoint_every}
        self.set = " ".join(f"--set {key}={value}" for key, value in steps.items())

    def receive(self, n: str | int) -> str:
        return f"{RUN} receive {LEASE}/transfer-{n} {self.at}"

    def trial(self, seconds: float) -> str:
        return f"{RUN} trial --seconds {seconds} {self.set} {self.at}"

    def train(self, minutes: float, seconds: float, reserve: float, more: str = "") -> str:
        return (
            f"{RUN} train --minutes {minutes} --seconds {seconds} --reserve {reserve} --start-seconds 60 "
            f"{self.back} {self.set} {self.at} {more}"
        )

    def fetch(self, seconds: float) -> str:
        return f"{RUN} fetch --seconds {seconds} {self.back} {self.at}"

    def collect(self, *options: str) -> int:
        folders = [str(answer.folder) for answer in self.machine.answers]
        to = self.machine.folder / "model"
        places = ["--packed", str(self.packed), "--start", str(self.start), "--to", str(to)]
        return collect.main([*folders, *places, *options])


def calm(lease: Lease, minutes: float, reserve: float) -> bool:
    """A whole lease in which nothing goes wrong."""
    call, first, second = lease.machine.call, LEASE / "transfer-1", LEASE / "transfer-2"
    call(f"{lease.receive(1)} && {lease.trial(60)}", [first], seconds=120)
    half = minutes * 30 + 30 + reserve
    command = f"{lease.receive(2)} && {lease.trial(60)} && {lease.train(minutes, half, reserve)}"
    call(command, [second], seconds=half + 120)
    whole = minutes * 60 + 120 + reserve
    call(lease.train(minutes, whole, reserve), seconds=whole + 10)
    for _ in range(3):
        answer = call(lease.fetch(reserve), seconds=reserve + 10)
        if "nothing is left to be fetched" in answer.output:
            break
    return lease.collect() == 0


def brief(lease: Lease, minutes: float, reserve: float) -> bool:
    """All in one call, without a trial: the least that shows that the parts fit together."""
    whole = minutes * 60 + 60 + reserve
    receive = f"{lease.receive(1)} && {lease.receive(2)}"
    folders = [LEASE / "transfer-1", LEASE / "transfer-2"]
    command = f"{receive} && {lease.train(minutes, whole, reserve)}"
    lease.machine.call(command, folders, seconds=whole + 10)
    return lease.collect("--no-lines") == 0


def stormy(lease: Lease, minutes: float, reserve: float) -> bool:
    """Damaged pieces, a call that is cut off, a training that is killed once, then all of it."""
    call, machine = lease.machine.call, lease.machine
    first, second, again = (LEASE / f"transfer-{n}" for n in (1, 2, "again"))
    heavy = damage(lease.checkout / first, "weights")
    call(f"{lease.receive(1)} && {lease.trial(60)}", [first], seconds=120)
    text = damage(lease.checkout / second, "corpus")
    began = lease.train(minutes, reserve + 60, reserve)
    refused = call(f"{lease.receive(2)} && {began}", [second], seconds=reserve + 90)
    if heavy and refused.status == 0:
        print("a training without all weights was not refused")
        return False
    mended = [name for name in (heavy,) if name]
    pack.main(["--again", *mended, "--to", str(lease.packed)])
    shutil.rmtree(lease.checkout / again, ignore_errors=True)
    shutil.copytree(lease.packed / "transfer-again", lease.checkout / again)
    # Cut off before it would have ended by itself. Only the waiting ends, not the training.
    long = lease.train(minutes, minutes * 60 + reserve, reserve)
    cut = call(f"{lease.receive('again')} && {long}", [again], seconds=max(20.0, minutes * 15))
    print(f"    a call cut off left {[path.name for path in cut.files]}")
    if text:
        print(f"    {text} never arrived, and the training went on without it")
    output = lease.work / "output"
    wait_for(lambda: any(output.glob("*.pt")), 60)
    machine.kill(all_of_them=False)
    learner = machine.processes()[0]
    wait_for(lambda: machine.processes()[0] != learner, 30)
    call(lease.fetch(reserve), seconds=reserve + 10)
    machine.kill(all_of_them=True)
    rest = lease.train(minutes, minutes * 60 + 90 + reserve, reserve, "--more")
    call(rest, seconds=minutes * 60 + 100 + reserve)
    return lease.collect() == 0


def damage(folder: Path, kind: str) -> str | None:
    """Changes a byte of the last piece of this kind in a transfer; returns its name."""
    names = sorted(path.name for path in folder.glob(f"{kind}-*"))
    if not names:
        return None
    data = bytearray((folder / names[-1]).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / names[-1]).write_bytes(data)
    print(f"    damaged in transfer: {names[-1]}", flush=True)
    return names[-1]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--start", type=Path, default=ROOT / "jupyter_sc2/embedded/model")
    parser.add_argument("--layers", type=int, default=2, help="of the model to start from; 0: all")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--reserve", type=float, default=60.0, help="seconds for returning weights")
    parser.add_argument("--checkpoint-every", type=float, default=15.0)
    parser.add_argument("--most-mib", type=float, default=4.0, help="part of the corpus")
    parser.add_argument("--calm", action="store_true", help="only the lease without mishaps")
    parser.add_argument("--stormy", action="store_true", help="only the lease with mishaps")
    parser.add_argument("--brief", action="store_true", help="only one call")
    parser.add_argument("--keep", type=Path, help="a new folder to work in, which is not deleted")
    add_limits(parser)
    args = parser.parse_args(argv)
    limits = Limits.of(args)
    base = (args.keep or Path(tempfile.mkdtemp(prefix="rehearsal-"))).absolute()
    base.mkdir(parents=True, exist_ok=True)
    leases: list[Lease] = []
    results: dict[str, bool] = {}
    try:
        began = time.monotonic()
        checkout = checkout_of(ROOT, base / "checkout", large=args.start.is_relative_to(ROOT))
        with tree.light(checkout):
            print(f"the small tree has {mib(tree.size(checkout))}", flush=True)
            if args.layers:
                args.start = fewer_layers(args.start, base / "start", args.layers)
            packed = base / "packed"
            options = ["--most-mib", str(args.most_mib), "--preset", "6", "--measured-rows", "2"]
            options += ["--raw-piece", str(int(args.most_mib * 2**18)), "--to", str(packed)]
            options += ["--transfer-mib", str(args.transfer_mib)]
            options += ["--untried"] * args.brief  # the call will show it
            if pack.main([str(args.corpus), str(args.start), *options]):
                return 1
            print(f"packed in {time.monotonic() - began:.1f} s", flush=True)
            scenarios = {"calm": calm, "stormy": stormy, "brief": brief}
            chosen = [s for name, s in scenarios.items() if getattr(args, name)]
            chosen = chosen or [calm, stormy]
            for scenario in chosen:
                print(f"=== {scenario.__name__} lease", flush=True)
                shutil.rmtree(checkout / LEASE, ignore_errors=True)
                shutil.copytree(packed, checkout / LEASE)
                leases.append(Lease(scenario.__name__, base, packed, limits, args))
                results[scenario.__name__] = scenario(leases[-1], args.minutes, args.reserve)
    finally:
        for lease in leases:
            lease.machine.give_back()
        if not args.keep:
            shutil.rmtree(base, ignore_errors=True)
    for name, good in results.items():
        print(f"{name} lease: {'a model came back' if good else 'FAILED'}")
    return 0 if results and all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

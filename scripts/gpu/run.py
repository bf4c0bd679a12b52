"""Trains on a machine that is available for minutes: receives, tries, trains and gives back, one call at a time.

    python3 -m scripts.gpu.run receive TRANSFER…      unpacks transfers, lists missing pieces and installed packages
    python3 -m scripts.gpu.run trial                  measures the speed by kind of attention and micro-batch
    python3 -m scripts.gpu.run train --minutes 6.5    trains in a process that outlives the call, and gives back weights
    python3 -m scripts.gpu.run fetch                  gives back the newest weights, then what did not fit before

Each ends by itself within `--seconds`. What comes back is in the folder `--out`: `status.json`, `log.txt`, and as many
pieces of weights as the limits allow, first of the newest checkpoint in 4 bits and, when the training is over, also of
its bf16 weights. Status and log are there whatever fails, with the traceback. A command that is called again continues
where it was.

This file and what it imports need nothing but Python's standard library.
"""

from __future__ import annotations

import argparse
import lzma
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any

from scripts.gpu.limits import Limits, add_limits, mib
from scripts.gpu.pieces import (
    RAW_PIECE,
    Damaged,
    Piece,
    cut,
    join,
    read_json,
    replace,
    sha256,
    write_json,
)

MANIFEST = "manifest.json"
LOG = "log.txt"
STATUS = "status.json"
LOG_BACK = 400_000  # bytes that come back, from the end of the log
MARGIN = 5.0  # seconds that a call reserves for ending
PIECES_TIME = 15.0  # seconds to compress weights and write them; measured on two busy cores
ATTEMPTS = 4
LOSS_TOLERANCE = 0.03  # between devices, for what bf16 rounds differently
PACKAGES = ("torch", "triton", "transformers", "tokenizers", "safetensors", "numpy")
NEEDED = ("code", "model", "rows", "weights")  # without one of them nothing can be trained
SMALL = ("config.json", "training.json")


class TimeUp(Exception):
    """The call's time is up."""


class Problem(Exception):
    """The reason why a call cannot continue, for the log."""


class Call:
    """One call: where it works, what it may give back, and when it has to end."""

    def __init__(self, args: argparse.Namespace, limits: Limits) -> None:
        self.work: Path = args.work
        self.out: Path = args.out
        self.limits = limits
        self.ends = time.monotonic() + args.seconds
        self.work.mkdir(parents=True, exist_ok=True)
        self.out.mkdir(parents=True, exist_ok=True)
        self.log = self.work / LOG

    @property
    def left(self) -> float:
        """Seconds until the call has to be over."""
        return self.ends - time.monotonic() - MARGIN

    def say(self, text: str) -> None:
        line = f"{time.strftime('%H:%M:%S')} {text}"
        print(line, flush=True)
        with self.log.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def step(self, name: str, *numbers: float, seconds: float) -> bool:
        """Runs a step of there.py in a process of its own for so many seconds at most; returns whether it succeeded."""
        began = self.log.stat().st_size if self.log.exists() else 0
        process = start(self, "there", name, str(self.work), *map(str, numbers))
        try:
            code: int | None = process.wait(max(1.0, seconds))
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        with self.log.open("rb") as file:
            file.seek(began)
            print(file.read().decode("utf-8", "replace"), end="", flush=True)
        if code is None:
            self.say(f"{name} was stopped after {seconds:.0f} s")
        elif code:
            self.say(f"{name} failed with status {code}")
        return code == 0

    def give_log(self) -> None:
        """Copies the log's end and the status to what comes back."""
        if self.log.exists():
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - LOG_BACK))
                replace(self.out / LOG, file.read())
        write_json(self.out / STATUS, self.status())

    def status(self) -> dict[str, Any]:
        results = {p.parent.name: read_json(p) for p in self.work.glob("results/*/figures.json")}
        return {
            "time": time.time(),
            "trial": read_json(self.work / "trial.json"),
            "training": read_json(self.work / "training.json"),
            "results": results,
            "pieces": read_json(self.work / "pieces.json", {}),
            "sent": read_json(self.work / "sent.json", []),
        }


def start(call: Call, module: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Starts a module of the code that was received, in a session of its own, so that it may outlive this call."""
    code = call.work / "code"
    caches = {
        "TORCHINDUCTOR_CACHE_DIR": str(call.work / "inductor"),
        "TRITON_CACHE_DIR": str(call.work / "triton"),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONUNBUFFERED": "1",
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin keep cores from those that work
    }
    with call.log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", f"scripts.gpu.{module}", *arguments],
            cwd=code,
            env={**os.environ, **caches},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


# receive


def receive(call: Call, args: argparse.Namespace) -> int:
    received = call.work / "pieces"
    received.mkdir(exist_ok=True)
    for folder in args.transfers:
        manifest = read_json(folder / MANIFEST)
        if manifest is None:
            call.say(f"{folder} has no readable {MANIFEST}")
            continue
        write_json(call.work / MANIFEST, manifest)
        for piece in pieces_of(manifest):
            if not (folder / piece.name).exists():
                continue
            if piece.good_in(folder):
                if not piece.good_in(received):
                    shutil.copy(folder / piece.name, received / piece.name)
            elif not piece.good_in(received):
                call.say(f"damaged: {piece.name}")
    unpack(call)
    query = "--query-gpu=name,memory.total,memory.used,driver_version"
    call.say(f"GPU: {first_line('nvidia-smi', query, '--format=csv,noheader')}")
    call.say(f"Python {sys.version.split()[0]}, {', '.join(map(installed, PACKAGES))}")
    call.say(
        f"{os.cpu_count()} cores, {memory()}, {mib(shutil.disk_usage(call.work).free)} of disk"
    )
    missing = missing_pieces(call)
    call.say(f"missing: {' '.join(p.name for p in missing)}" if missing else "all pieces are here")
    return 0


def pieces_of(manifest: dict[str, Any]) -> list[Piece]:
    names = Piece.__dataclass_fields__
    return [Piece(**{k: row[k] for k in names}) for row in manifest["pieces"]]


def missing_pieces(call: Call) -> list[Piece]:
    manifest = read_json(call.work / MANIFEST)
    if manifest is None:
        raise Problem("Nothing has been received.")
    return [p for p in pieces_of(manifest) if not p.good_in(call.work / "pieces")]


def unpack(call: Call) -> None:
    manifest = read_json(call.work / MANIFEST)
    if manifest is None:
        raise Problem("Nothing has been received.")
    received, start = call.work / "pieces", call.work / "start"
    here = [piece for piece in pieces_of(manifest) if piece.good_in(received)]
    for piece in here:
        if piece.kind in ("code", "model"):
            with tarfile.open(received / piece.name) as tar:
                tar.extractall(call.work / "code" if piece.kind == "code" else start, filter="data")
        elif piece.kind == "rows":
            replace(call.work / "rows.json", lzma.decompress((received / piece.name).read_bytes()))
    texts = call.work / "corpus"
    texts.mkdir(exist_ok=True)

    def text(piece: Piece) -> None:
        path = texts / piece.name.removesuffix(".xz")
        if not path.exists():
            replace(path, lzma.decompress((received / piece.name).read_bytes()))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(text, (piece for piece in here if piece.kind == "corpus")))
    weights = [piece for piece in pieces_of(manifest) if piece.kind == "weights"]
    path, whole = start / "model.safetensors", manifest["weights"]["sha256"]
    if weights and not path.exists() and all(piece in here for piece in weights):
        join(weights, [received], path, whole)
        call.say(f"start weights: {mib(path.stat().st_size)}, intact")


def installed(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"no {name}"


def first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        return (done.stdout.strip() or done.stderr.strip() or "no output").splitlines()[0]
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"none ({error})"


def memory() -> str:
    try:
        rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return f"{int(rows['MemAvailable'].split()[0]) / 2**20:.0f} GiB of memory free"
    except (OSError, ValueError, KeyError):
        return "memory unknown"


# trial


def trial(call: Call, args: argparse.Namespace) -> int:
    if gone := {p.kind for p in missing_pieces(call)} & {"code", "model"}:
        raise Problem(f"A trial needs {', '.join(sorted(gone))}, which has not arrived.")
    store_settings(call, args)
    call.step("trial", call.left - 10, seconds=call.left)
    found = read_json(call.work / "trial.json", {})
    if best := found.get("best"):
        recipe = read_json(call.work / "recipe.json", {})
        recipe["micro_batch"] = best["micro_batch"]
        recipe["dense"] = best["attention"] == "dense"
        write_json(call.work / "recipe.json", recipe)
        busy = f", {best['utilisation']:.0%} of the peak" if best["utilisation"] else ""
        call.say(
            f"best: {best['attention']} attention, {best['micro_batch']} tokens at once: "
            f"{best['tokens_per_second']:,} tokens/s{busy}, {best['memory_gb']} GB; "
            f"{best['tokens_per_second'] * 60 / 1e6:.1f} million a minute"
        )
    else:
        call.say("the trial has measured nothing: the training will use the recipe as it is")
    return 0 if has_right_loss(call, found) else 1


def has_right_loss(call: Call, found: dict[str, Any]) -> bool:
    """Whether the start weights have the same loss as where they were packed; true if one of them is not known."""
    here, there = (found.get(name) or {} for name in ("start_loss", "expected"))
    if not here.get("held_out") or not there.get("held_out"):
        return True
    apart = abs(here["held_out"] - there["held_out"])
    call.say(f"loss of the start weights: {apart:.4f} from the expected one")
    return bool(apart <= LOSS_TOLERANCE)


def store_settings(call: Call, args: argparse.Namespace) -> None:
    """Stores the settings of the recipe that `--set NAME=VALUE` gives."""
    recipe = read_json(call.work / "recipe.json", {})
    for one in args.set:
        name, _, value = one.partition("=")
        number = float(value)
        recipe[name] = int(number) if number.is_integer() and "." not in value else number
    write_json(call.work / "recipe.json", recipe)


# train


def train(call: Call, args: argparse.Namespace) -> int:
    missing = missing_pieces(call)
    if gone := [p.name for p in missing if p.kind in NEEDED]:
        raise Problem(f"The training needs {' '.join(gone)}; send them again.")
    unpack(call)
    found = read_json(call.work / "trial.json", {})
    if not args.despite_loss and not has_right_loss(call, found):
        raise Problem("The start weights have another loss here (see --despite-loss).")
    store_settings(call, args)
    state = read_json(call.work / "training.json", {})
    if state.get("state") == "running" and is_alive(state["pid"]):
        call.say("the training is running")
    elif (
        state and not args.more and (state["state"] == "done" or time.time() > state["until"] - 45)
    ):
        call.say(f"the training is over ({state['state']}); --more continues from its checkpoint")
    else:
        begin(call, args, state, missing)
    shown = call.log.stat().st_size
    while call.left > args.reserve:
        call.give_log()
        shown = show(call.log, shown)
        state = read_json(call.work / "training.json", {})
        if state.get("state") != "running":
            break
        if not is_alive(state["pid"]):
            call.say(
                "the training's processes are gone; call `train` again to continue from its checkpoint"
            )
            break
        time.sleep(min(2.0, max(0.1, call.left - args.reserve)))
    show(call.log, shown)
    return fetch(call, args)


def begin(
    call: Call, args: argparse.Namespace, state: dict[str, Any], missing: Sequence[Piece]
) -> None:
    """Starts the training, or what is left of it."""
    if missing:
        call.say(f"starting without {' '.join(piece.name for piece in missing)}")
    texts = sorted((call.work / "corpus").glob("*.jsonl"))
    if not texts:
        raise Problem("No text has arrived.")
    with (call.work / "documents.jsonl").open("wb") as file:
        for path in texts:
            file.write(path.read_bytes())
    # Minutes count from the first step; `start_seconds` are for what comes before it.
    until = time.time() + args.minutes * 60 + args.start_seconds
    if state and not args.more:  # its processes are gone, and its end stays where it was
        until = state["until"]
    process = start(call, "run", "supervise", *common(call), str(until), str(args.minutes))
    started = {"state": "running", "pid": process.pid, "until": until}
    write_json(call.work / "training.json", started)
    call.say(f"training for {args.minutes:g} minutes, until {clock(until)} at the latest")


def common(call: Call) -> list[str]:
    return ["--work", str(call.work), "--out", str(call.work / "unused")]


def clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    try:  # a zombie, which has ended, is still listed
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True


def show(log: Path, begin: int) -> int:
    """Prints the log from byte `begin` on; returns where it ends."""
    with log.open("rb") as file:
        file.seek(begin)
        new = file.read()
    print(new.decode("utf-8", "replace"), end="", flush=True)
    return begin + len(new)


def supervise(call: Call, args: argparse.Namespace) -> int:
    """Runs the training in a process, and starts it again from its checkpoint if it fails and there is time."""
    until, minutes = float(args.numbers[0]), float(args.numbers[1])
    state = {"state": "running", "pid": os.getpid(), "until": until, "attempts": 0}
    code = 1
    while state["attempts"] < ATTEMPTS and (not state["attempts"] or time.time() < until - 20):
        state["attempts"] += 1
        write_json(call.work / "training.json", state)
        began = call.log.stat().st_size
        process = start(call, "there", "learn", str(call.work), str(until), str(minutes))
        state["learner"] = process.pid
        write_json(call.work / "training.json", state)
        try:
            # Some steps, a checkpoint and the files at the end come after `until`.
            code = process.wait(max(10.0, until + 40 - time.time()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
            call.say("the training did not end in time, and was killed")
            break
        if code == 0:
            break
        with call.log.open("rb") as file:
            file.seek(began)
            output = file.read()
        call.say(f"attempt {state['attempts']} to train ended with status {code}")
        adjust(call, output)
    write_json(call.work / "training.json", {**state, "state": "done" if code == 0 else "failed"})
    return code


def adjust(call: Call, output: bytes) -> None:
    """Changes the recipe for the next attempt, by the error in the output of the last one."""
    recipe = read_json(call.work / "recipe.json", {})
    if b"OutOfMemory" in output or b"out of memory" in output:
        recipe["micro_batch"] = max(2048, recipe.get("micro_batch", 2**15) // 2)
        call.say(f"next with micro-batches of {recipe['micro_batch']} tokens")
    elif b"a lower rate may help" in output:
        recipe["rate"] = recipe.get("rate", 1e-3) / 2
        call.say(f"next with a rate of {recipe['rate']}")
    write_json(call.work / "recipe.json", recipe)


# fetch


def fetch(call: Call, args: argparse.Namespace) -> int:
    if args.again:
        sent = [name for name in read_json(call.work / "sent.json", []) if name not in args.again]
        write_json(call.work / "sent.json", sent)
    export(call)
    queue = to_send(call)
    names = [piece.name for piece in queue]
    call.give_log()
    room = call.limits.back - sum(p.stat().st_size for p in call.out.rglob("*") if p.is_file())
    room -= LOG_BACK  # the log and the status grow until the end
    places = call.limits.back_files - sum(p.is_file() for p in call.out.rglob("*"))
    sent = read_json(call.work / "sent.json", [])
    for piece in queue:
        if places < 1 or piece.bytes > room or piece.bytes > call.limits.back_file:
            break
        part = call.out / f"{piece.name}.part"
        shutil.copy(call.work / "pieces-back" / piece.name, part)
        os.replace(part, call.out / piece.name)
        room, places = room - piece.bytes, places - 1
        sent.append(piece.name)
        names.remove(piece.name)
        write_json(call.work / "sent.json", sent)
    call.say(
        f"given back: {' '.join(p.name for p in queue if p.name not in names) or 'no weights'}"
    )
    call.say(f"to be fetched: {' '.join(names)}" if names else "nothing is left to be fetched")
    return 0


def export(call: Call) -> None:
    """Makes a model of the newest checkpoint, unless that was done completely."""
    checkpoints = [p for p in (call.work / "output").glob("*.pt")]
    newest = max((p.stat().st_mtime_ns for p in checkpoints), default=0)
    done = read_json(call.work / "exported.json", {})
    if newest and (newest != done.get("checkpoint") or not done.get("whole")):
        whole = call.step("export", seconds=call.left - PIECES_TIME)
        write_json(call.work / "exported.json", {"checkpoint": newest, "whole": whole})
    elif not newest:
        call.say("there is no checkpoint to give back")


def to_send(call: Call) -> list[Piece]:
    """The pieces that should be given back and have not been, the most important first."""
    folders = sorted((call.work / "results").glob("*"), reverse=True)
    packed = next((f for f in folders if (f / "packed/model.safetensors").exists()), None)
    training = read_json(call.work / "training.json", {})
    over = training.get("state") != "running" or not is_alive(training["pid"])
    queue = [] if packed is None else pieces_back(call, packed, "packed")
    if folders and (over or packed != folders[0]) and (folders[0] / "master").exists():
        queue += pieces_back(call, folders[0], "master")
    sent = read_json(call.work / "sent.json", [])
    return [piece for piece in queue if piece.name not in sent]


def pieces_back(call: Call, folder: Path, form: str) -> list[Piece]:
    """The pieces of a result. They are cut when this is first called, and listed in the status."""
    known = read_json(call.work / "pieces.json", {})
    name = f"{form}-{folder.name}"
    if name not in known:
        path = folder / form / "model.safetensors"
        raw = min(RAW_PIECE, call.limits.back_file * 7 // 8)
        pieces = cut(path, call.work / "pieces-back", name, form, raw=raw)
        known[name] = {
            "sha256": sha256(path),
            "bytes": path.stat().st_size,
            "files": {n: (folder / form / n).read_text("utf-8") for n in SMALL},
            "pieces": [vars(piece) for piece in pieces],
        }
        write_json(call.work / "pieces.json", known)
    return [Piece(**row) for row in known[name]["pieces"]]


COMMANDS: dict[str, Callable[[Call, argparse.Namespace], int]] = {
    "receive": receive,
    "trial": trial,
    "train": train,
    "fetch": fetch,
    "supervise": supervise,
}


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        one = commands.add_parser(name)
        one.add_argument("--work", type=Path, default=Path("/tmp/jupyter-sc2-training"))
        one.add_argument("--out", type=Path, default=os.environ.get("OUT"), help="default: $OUT")
        one.add_argument("--seconds", type=float, default=120.0, help="when the call ends")
        add_limits(one)
        if name == "receive":
            one.add_argument("transfers", type=Path, nargs="+")
        if name in ("trial", "train"):
            one.add_argument(
                "--set",
                action="append",
                default=[],
                metavar="NAME=NUMBER",
                help="a setting of the recipe",
            )
        if name == "train":
            one.add_argument("--minutes", type=float, required=True, help="from the first step on")
            one.add_argument(
                "--start-seconds", type=float, default=90.0, help="at most before the first step"
            )
            one.add_argument(
                "--reserve",
                type=float,
                default=150.0,
                help="seconds reserved for giving back weights",
            )
            one.add_argument(
                "--despite-loss",
                action="store_true",
                help="train even if the loss of the start weights differs",
            )
            one.add_argument("--more", action="store_true", help="continue a training that is over")
        if name in ("train", "fetch"):
            one.add_argument(
                "--again", nargs="+", default=[], metavar="PIECE", help="give back these again"
            )
        if name == "supervise":
            one.add_argument("numbers", nargs=2)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = options()
    args = parser.parse_args(argv)
    if args.out is None:
        parser.error("there is no output folder: set OUT or use --out")
    args.out = Path(args.out)
    call = Call(args, Limits.of(args))
    if args.command == "supervise":  # ends only with the training
        return supervise(call, args)

    def time_is_up(number: int, frame: FrameType | None) -> None:
        raise TimeUp("told to end" if number == signal.SIGTERM else "the call's time is up")

    before = {
        number: signal.signal(number, time_is_up) for number in (signal.SIGALRM, signal.SIGTERM)
    }
    signal.setitimer(signal.ITIMER_REAL, max(0.1, call.left + MARGIN / 2))
    try:
        return COMMANDS[args.command](call, args)
    except (Problem, Damaged, TimeUp) as error:
        call.say(f"{args.command}: {error}")
        return 1
    except BaseException:
        call.say(f"{args.command} failed:\n{traceback.format_exc()}")
        return 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        call.give_log()
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())

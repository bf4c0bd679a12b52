"""Training on a GPU that is available for minutes: what is sent is whole, keeps to the limits, and comes back."""

from __future__ import annotations

import json
import lzma
import os
import random
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from scripts.gpu import pack, run, tree
from scripts.gpu.limits import MIB, Limits, OverLimit
from scripts.gpu.pieces import Damaged, Piece, cut, expand, fill, join, sha256, squeeze, write_piece

# Limits


@pytest.fixture
def out(tmp_path: Path):
    """A folder with files of these names and sizes."""

    def folder(*files: tuple[str, int]) -> Path:
        for name, size in files:
            path = tmp_path / "out" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(size))
        return tmp_path / "out"

    return folder


def test_what_keeps_to_the_limits_comes_back(out):
    folder = out(("a/b/one.piece", 10), ("log.txt", 20))
    assert Limits(back=30, back_files=2, back_file=20).check_back(folder) == [
        folder / "a/b/one.piece",
        folder / "log.txt",
    ]


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ([("a", 1), ("b", 1), ("c", 1)], "3 files are in out; the limit is 2."),
        ([("a", 21 * MIB)], "a has 21.00 MiB: too much for one file."),
        ([("a", 20 * MIB), ("b", 11 * MIB)], "31.00 MiB would come back; the limit is 30.00 MiB."),
        ([("a b", 1)], "a b has characters other than letters, digits, '.', '_', '-'."),
        ([("a/b/c/d", 1)], "a/b/c/d is more than 2 folders deep."),
    ],
)
def test_what_breaks_a_limit_is_told_in_one_line(out, files, problem: str):
    limits = Limits(back=30 * MIB, back_files=2, back_file=20 * MIB)
    with pytest.raises(OverLimit) as error:
        limits.check_back(out(*files))
    assert str(error.value) == problem


def test_a_command_has_2000_characters_at_most():
    Limits().check_call("x" * 2000, [], 600)
    with pytest.raises(OverLimit, match="2001 characters; the limit is 2000"):
        Limits().check_call("x" * 2001, [], 600)


def test_a_call_takes_ten_minutes_at_most():
    with pytest.raises(OverLimit, match="takes up to 601 s; the limit is 600 s"):
        Limits().check_call("true", [], 601)


# Pieces


@pytest.mark.parametrize("size", [0, 1, 2, 1001])
def test_what_is_squeezed_comes_out_as_it_was(size: int):
    data = random.Random(size).randbytes(size)
    assert expand(squeeze(data)) == data


def test_numbers_of_16_bits_with_like_exponents_are_squeezed():
    rng = random.Random(0)
    data = b"".join(bytes([rng.randrange(256), 0x3C + rng.randrange(4)]) for _ in range(100_000))
    assert len(squeeze(data)) < 0.7 * len(data)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(random.Random(0).randbytes(2500))
    return path


def test_a_file_is_cut_into_pieces_and_joined_again(tmp_path: Path, weights: Path):
    pieces = cut(weights, tmp_path / "there", "w", "weights", raw=1000)
    assert [piece.name for piece in pieces] == ["w-00.piece", "w-01.piece", "w-02.piece"]
    join(pieces, [tmp_path / "there"], tmp_path / "joined", sha256(weights))
    assert (tmp_path / "joined").read_bytes() == weights.read_bytes()


def test_pieces_are_taken_from_the_folder_where_they_are_whole(tmp_path: Path, weights: Path):
    pieces = cut(weights, tmp_path / "good", "w", "weights", raw=1000)
    cut(weights, tmp_path / "bad", "w", "weights", raw=1000)
    (tmp_path / "bad/w-01.piece").write_bytes(b"damaged")
    join(pieces, [tmp_path / "bad", tmp_path / "good"], tmp_path / "joined", sha256(weights))
    assert (tmp_path / "joined").read_bytes() == weights.read_bytes()


def test_a_changed_byte_is_found_and_its_piece_named(tmp_path: Path, weights: Path):
    pieces = cut(weights, tmp_path / "there", "w", "weights", raw=1000)
    path = tmp_path / "there/w-01.piece"
    data = bytearray(path.read_bytes())
    data[7] ^= 1
    path.write_bytes(data)
    with pytest.raises(Damaged, match=r"^joined lacks w-01\.piece\.$"):
        join(pieces, [tmp_path / "there"], tmp_path / "joined", sha256(weights))
    assert not (tmp_path / "joined").exists()


def test_each_piece_goes_into_the_first_transfer_with_room_for_it():
    pieces = [Piece(str(size), "corpus", size, "") for size in (60, 50, 30, 20, 5)]
    assert [(n, piece.name) for n, piece in fill(pieces, [100, 70])] == [
        (0, "60"),
        (1, "50"),
        (0, "30"),
        (1, "20"),
        (0, "5"),
    ]


# The small tree


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    (root / "model").mkdir(parents=True)
    (root / ".gitignore").write_text("/runs/\n")
    (root / "model/weights").write_bytes(b"w" * 5000)
    (root / "small.py").write_text("x = 1\n")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    return root


def test_large_files_stay_readable_and_do_not_travel(checkout: Path):
    assert tree.put_aside(checkout, at_least=1000) == [checkout / "model/weights"]
    assert (checkout / "model/weights").read_bytes() == b"w" * 5000
    assert tree.size(checkout) < 200


def test_restoring_leaves_the_tree_as_it_was(checkout: Path):
    tree.put_aside(checkout, at_least=1000)
    assert tree.restore(checkout) == [checkout / "model/weights"]
    assert not (checkout / "model/weights").is_symlink()
    assert (checkout / "model/weights").read_bytes() == b"w" * 5000
    assert not (checkout / tree.ASIDE).exists()


def test_files_are_put_aside_once(checkout: Path):
    tree.put_aside(checkout, at_least=1000)
    with pytest.raises(tree.TreeError, match="restore them first"):
        tree.put_aside(checkout, at_least=1000)
    assert (checkout / "model/weights").read_bytes() == b"w" * 5000


def test_a_file_that_was_changed_in_between_is_not_written_over(checkout: Path):
    tree.put_aside(checkout, at_least=1000)
    (checkout / "model/weights").unlink()
    (checkout / "model/weights").write_bytes(b"new")
    with pytest.raises(tree.TreeError, match="model/weights was changed; its copy stays as"):
        tree.restore(checkout)
    assert (checkout / "model/weights").read_bytes() == b"new"
    assert (checkout / tree.ASIDE / "model/weights").read_bytes() == b"w" * 5000


def test_nothing_is_put_where_it_would_travel(checkout: Path):
    (checkout / ".gitignore").write_text("")
    with pytest.raises(tree.TreeError, match="git does not ignore"):
        tree.put_aside(checkout, at_least=1000)
    assert not (checkout / "model/weights").is_symlink()


# What is packed


def corpus(tmp_path: Path, sizes: dict[str, int]) -> pack.Corpus:
    """Documents of 1,000 characters by kind, and one of a held-out package."""
    path = tmp_path / "documents.jsonl"
    rows = [
        {"kind": kind, "package": f"{kind}{n % 5}", "cells": [["code", "x" * 1000]]}
        for kind, count in sizes.items()
        for n in range(count)
    ]
    rows.append({"kind": "docs", "package": "seaborn", "cells": [["code", "held out"]]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return pack.Corpus(path, frozenset({"seaborn"}))


def test_held_out_packages_travel_apart(tmp_path: Path):
    documents = corpus(tmp_path, {"notebook": 3})
    assert [package for _, package, _ in documents.held_out] == ["seaborn"]
    assert len(documents.rest) == 3


def test_a_corpus_that_fits_travels_whole(tmp_path: Path):
    documents = corpus(tmp_path, {"notebook": 10, "library": 10})
    chosen = pack.choose(documents, 1e6, {"notebook": 0.8, "library": 0.2})
    assert chosen == documents.rest


def test_what_is_drawn_seldom_for_its_size_gives_way(tmp_path: Path):
    documents = corpus(tmp_path, {"notebook": 20, "library": 100})
    chosen = pack.choose(documents, 50_000, {"notebook": 0.5, "library": 0.5})
    kinds = [kind for kind, _, _ in chosen]
    assert kinds.count("notebook") == 20
    assert 20 < kinds.count("library") < 30


def test_a_package_is_not_torn_apart_more_than_once(tmp_path: Path):
    documents = corpus(tmp_path, {"notebook": 25})
    groups = list(pack.groups(documents, documents.rest, 9_000))
    assert sum(map(len, groups)) == 25
    first = [{package for _, package, _ in group} for group in groups]
    assert all(len(packages) <= 3 for packages in first)


def test_code_is_packed_into_a_folder_that_is_named_from_where_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pack, "MODULES", ("training.rows",))  # without torch, which takes seconds
    assert pack.code(Path("lease"))


def test_pieces_that_were_lost_are_laid_out_again(tmp_path: Path):
    pieces = [
        write_piece(tmp_path / f"transfer-{n}", f"weights-{n}.piece", "weights", bytes([n]))
        for n in (1, 2)
    ]
    rows = [{**vars(piece), "transfer": n} for n, piece in enumerate(pieces, 1)]
    (tmp_path / "manifest.json").write_text(json.dumps({"pieces": rows}))
    pack.again(["weights-2.piece"], tmp_path)
    again = tmp_path / "transfer-again"
    assert sorted(os.listdir(again)) == ["manifest.json", "weights-2.piece"]
    assert pieces[1].good_in(again)


def test_weights_whose_last_piece_travels_first_are_joined_in_their_order(there, weights: Path):
    pieces = cut(weights, there.transfer, "weights", "weights", raw=1000)
    largest = max(piece.bytes for piece in pieces)
    placed = list(fill(pieces, [largest + pieces[-1].bytes, largest]))
    assert [n for n, _ in placed] == [0, 1, 0]
    rows = pack.listed(placed)
    manifest = {"weights": {"sha256": sha256(weights)}, "pieces": rows}
    (there.transfer / "manifest.json").write_text(json.dumps(manifest))
    there("receive", str(there.transfer))
    assert (there.work / "start/model.safetensors").read_bytes() == weights.read_bytes()


# There


@pytest.fixture
def there(tmp_path: Path):
    """A work folder after one transfer of a manifest's two pieces of text, and what run.py says in it."""
    transfer, work, out = tmp_path / "transfer", tmp_path / "work", tmp_path / "out"
    pieces = [
        write_piece(transfer, f"corpus-{n}.jsonl.xz", "corpus", lzma.compress(b"%d\n" % n))
        for n in range(2)
    ]
    manifest = {"weights": {"sha256": ""}, "pieces": [vars(piece) for piece in pieces]}
    (transfer / "manifest.json").write_text(json.dumps(manifest))

    def call(command: str, *arguments: str) -> tuple[int, str]:
        places = ["--work", str(work), "--out", str(out), "--seconds", "20"]
        status = run.main([command, *arguments, *places])
        return status, (out / "log.txt").read_text()

    call.transfer, call.work, call.out = transfer, work, out  # type: ignore[attr-defined]
    return call


def test_text_that_arrived_whole_is_unpacked(there):
    status, said = there("receive", str(there.transfer))
    assert status == 0
    assert "all pieces are here" in said
    assert (there.work / "corpus/corpus-1.jsonl").read_text() == "1\n"


def test_a_damaged_piece_is_named_and_the_other_unpacked(there):
    (there.transfer / "corpus-0.jsonl.xz").write_bytes(b"damaged")
    _, said = there("receive", str(there.transfer))
    assert "damaged: corpus-0.jsonl.xz" in said
    assert "missing: corpus-0.jsonl.xz" in said
    assert os.listdir(there.work / "corpus") == ["corpus-1.jsonl"]


def test_a_call_that_fails_gives_back_its_log_and_status(there):
    status, said = there("train", "--minutes", "1")
    assert status == 1
    assert "train: Nothing has been received." in said
    assert json.loads((there.out / "status.json").read_text())["sent"] == []


def test_a_fetch_before_the_first_checkpoint_says_so(there):
    there("receive", str(there.transfer))
    status, said = there("fetch")
    assert status == 0
    assert "there is no checkpoint to give back" in said


def result(work: Path, step: str, form: str, size: int) -> None:
    folder = work / "results" / step / form
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(random.Random(size).randbytes(size))
    for name in ("config.json", "training.json"):
        (folder / name).write_text("{}")


def test_the_weights_in_4_bits_come_back_before_those_in_bf16(there):
    there("receive", str(there.transfer))
    result(there.work, "000010", "packed", 3000)
    result(there.work, "000010", "master", 9000)
    there("fetch", "--back-file-mib", str(5000 / MIB), "--back-files", "4")
    assert sorted(path.name for path in there.out.glob("*.piece")) == [
        "master-000010-00.piece",
        "packed-000010-00.piece",
    ]


def test_what_did_not_fit_comes_back_with_the_next_call(there):
    there("receive", str(there.transfer))
    result(there.work, "000010", "packed", 3000)
    result(there.work, "000010", "master", 9000)
    limits = ["--back-file-mib", str(5000 / MIB), "--back-files", "4"]
    there("fetch", *limits)
    for path in there.out.glob("*"):
        path.unlink()
    _, said = there("fetch", *limits)
    assert sorted(path.name for path in there.out.glob("*.piece")) == [
        "master-000010-01.piece",
        "master-000010-02.piece",
    ]
    assert said.endswith("nothing is left to be fetched\n")


def test_while_the_training_runs_only_4_bits_come_back(there):
    there("receive", str(there.transfer))
    result(there.work, "000010", "packed", 3000)
    result(there.work, "000010", "master", 9000)
    (there.work / "training.json").write_text(f'{{"state": "running", "pid": {os.getpid()}}}')
    there("fetch")
    assert [path.name for path in there.out.glob("*.piece")] == ["packed-000010-00.piece"]


def test_without_the_newest_in_4_bits_its_bf16_weights_come_back(there):
    there("receive", str(there.transfer))
    result(there.work, "000010", "master", 3000)
    (there.work / "training.json").write_text(f'{{"state": "running", "pid": {os.getpid()}}}')
    there("fetch")
    assert [path.name for path in there.out.glob("*.piece")] == ["master-000010-00.piece"]


def test_a_training_whose_processes_are_gone_gives_back_its_bf16_weights_as_well(there):
    there("receive", str(there.transfer))
    result(there.work, "000010", "packed", 3000)
    result(there.work, "000010", "master", 3000)
    gone = subprocess.Popen(["true"])
    gone.wait()
    (there.work / "training.json").write_text(json.dumps({"state": "running", "pid": gone.pid}))
    there("fetch")
    assert len(list(there.out.glob("*.piece"))) == 2


def test_the_commands_of_the_readme_are_taken_and_end_within_a_call():
    text = (Path(run.__file__).parent / "README.md").read_text("utf-8")
    calls = [row for row in re.findall(r"`(python3 -m [^`]+)`", text) if "scripts.gpu.run" in row]
    assert len(calls) == 4
    for call in calls:
        commands = re.split(r" && |; ", call)
        taken = [run.options().parse_args(shlex.split(one)[3:]) for one in commands]
        Limits().check_call(call, [], sum(one.seconds for one in taken))


@pytest.mark.slow
@pytest.mark.torch
def test_a_rehearsed_lease_brings_a_trained_model_back(tmp_path: Path, monkeypatch, capsys):
    pytest.importorskip("torch")
    from jupyter_sc2.engines.onnx.packing import pack as pack_weights
    from scripts.gpu import rehearse
    from tests.support.tiny import make_tiny_model

    whole = make_tiny_model(tmp_path / "whole", hidden=32, layers=1, heads=2, intermediate=64)
    pack_weights(whole, tmp_path / "start")
    rows = [
        {
            "kind": "notebook",
            "package": "seaborn" if n % 5 == 0 else f"p{n % 3}",
            "cells": [["code", f"import numpy as np\nx{n} = np.arange({n})\nprint(x{n}.sum())"]],
        }
        for n in range(60)
    ]
    documents = tmp_path / "documents.jsonl"
    documents.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--start", str(tmp_path / "start"), "--layers", "0", "--minutes", "0.05"]
    places = ["--keep", str(tmp_path / "rehearsal"), "--brief", "--reserve", "60"]
    assert rehearse.main([str(documents), *options, *places]) == 0
    assert "brief lease: a model came back" in capsys.readouterr().out

"""The index: what goes into it, what stays when something goes wrong, and input that means no good."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import struct
import tarfile
import threading
import tracemalloc
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from jupyter_sc2.attribution import index as index_module
from jupyter_sc2.attribution import licences, packs, sources
from jupyter_sc2.attribution.index import Index, writing
from jupyter_sc2.attribution.lexemes import HASH
from jupyter_sc2.attribution.match import Matcher
from jupyter_sc2.attribution.sources import named
from jupyter_sc2.errors import RequestError
from tests.support.planted import original

CODES = list(original(40, seed=3))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "index"


def write(folder: Path, count: int = 3, start: int = 0, **more: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        (folder / f"m{number}.py").write_text(CODES[number])
    for name, text in more.items():
        (folder / name).write_text(text)
    return folder


def update(place: Path, *paths: Path):
    with writing(place) as writer:
        return writer.update([named(path) for path in paths])


def found(place: Path, text: str) -> list[str]:
    return [match.attribution.path for match in Matcher(Index(place)).find(text, HASH)]


def test_what_is_indexed_is_found(tmp_path, place):
    done = update(place, write(tmp_path / "code"))
    assert done.files == 3
    assert found(place, CODES[1]) == ["m1.py"]
    assert found(place, CODES[5]) == []


def test_the_second_run_reads_only_what_changed(tmp_path, place):
    folder = write(tmp_path / "code")
    update(place, folder)
    (folder / "m0.py").write_text(CODES[7])
    (folder / "m1.py").unlink()
    done = update(place, folder)
    assert (done.files, done.unchanged, done.gone) == (1, 1, 1)
    assert [found(place, CODES[n]) for n in (0, 1, 2, 7)] == [[], [], ["m2.py"], ["m0.py"]]
    assert update(place, folder).files == 0
    index = Index(place)
    index.refresh()
    (entry,) = index.contents.sources.values()
    alive = sum(int((p.starts[1:] - p.starts[:-1])[p.alive].sum()) for p in index.packs)
    assert (entry.files, entry.lexemes) == (2, alive)


def test_an_open_index_follows_what_another_process_does(tmp_path, place):
    matcher = Matcher(Index(place))
    assert matcher.find(CODES[0], HASH) == []
    update(place, write(tmp_path / "code"))
    assert matcher.find(CODES[0], HASH)
    with writing(place) as writer:
        writer.remove([str(tmp_path / "code")])
    assert matcher.find(CODES[0], HASH) == []


def test_what_was_removed_can_be_indexed_again(tmp_path, place):
    folder = write(tmp_path / "code", 4)
    update(place, folder, write(tmp_path / "other", 1, 9))
    with writing(place) as writer:
        writer.remove([str(folder)])
    assert found(place, CODES[1]) == []
    assert found(place, CODES[9]) == ["m9.py"]
    done = update(place, folder)
    assert (done.files, done.unchanged) == (4, 0)
    assert found(place, CODES[1]) == ["m1.py"]


def test_an_interrupted_run_goes_on_where_it_was(tmp_path, place, monkeypatch):
    folder = write(tmp_path / "code", 6)
    monkeypatch.setattr(index_module, "PACK_LEXEMES", 100)
    read, count = sources._read, []

    def interrupted(file):
        count.append(file)
        if len(count) == 4:
            raise KeyboardInterrupt
        return read(file)

    monkeypatch.setattr(sources, "_read", interrupted)
    monkeypatch.setattr(index_module, "code_of", lambda data, path: sources.code_of(data, path))
    with pytest.raises(KeyboardInterrupt):
        update(place, folder)
    assert found(place, CODES[1]) == ["m1.py"]
    done = update(place, folder)
    assert (done.files, done.unchanged) == (3, 3)
    assert all(found(place, CODES[n]) == [f"m{n}.py"] for n in range(6))


def test_a_full_disk_leaves_what_was_there(tmp_path, place, monkeypatch):
    import numpy as np

    update(place, write(tmp_path / "old"))
    save, count = np.save, []

    def full(file, array):
        count.append(file)
        if len(count) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(file, array)

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(RequestError, match="No space left on device"):
        update(place, write(tmp_path / "new", 3, 10))
    monkeypatch.undo()
    assert found(place, CODES[1]) == ["m1.py"]
    assert found(place, CODES[11]) == []
    update(place, tmp_path / "new")
    assert found(place, CODES[11]) == ["m11.py"]
    assert len(list(place.glob("pack-*"))) == 2


def test_what_a_crash_left_behind_does_not_count_and_is_swept(tmp_path, place):
    update(place, write(tmp_path / "code"))
    (place / "pack-crashed.part").mkdir()
    (place / "pack-unknown").mkdir()
    assert found(place, CODES[0]) == ["m0.py"]
    update(place, tmp_path / "code")
    assert len(list(place.glob("pack-*"))) == 1


def test_a_damaged_index_is_made_anew_and_says_nothing_meanwhile(tmp_path, place):
    update(place, write(tmp_path / "code"))
    for array in place.glob("pack-*/hashes.npy"):
        array.write_bytes(array.read_bytes()[:60])
    assert found(place, CODES[0]) == []
    (place / "index.json").write_bytes(b"{")
    assert found(place, CODES[0]) == []
    update(place, tmp_path / "code")
    assert found(place, CODES[0]) == ["m0.py"]


def test_an_index_of_another_version_is_not_written_over(tmp_path, place):
    update(place, write(tmp_path / "code"))
    file = place / "index.json"
    file.write_text(file.read_text().replace('"format":1', '"format":9'))
    assert found(place, CODES[0]) == []
    with pytest.raises(RequestError, match="was made by another version"):
        update(place, tmp_path / "code")
    assert len(list(place.glob("pack-*"))) == 1


def test_many_packs_become_one(tmp_path, place):
    for number in range(10):
        update(place, write(tmp_path / str(number), 1, number))
    index = Index(place)
    index.refresh()
    assert len(index.packs) <= index_module.MAX_PACKS
    assert all(found(place, CODES[n]) == [f"m{n}.py"] for n in range(10))


def test_only_one_process_writes(tmp_path, place):
    with writing(place):
        result = []

        def other():
            with pytest.raises(RequestError, match="Another process"), writing(place):
                pass
            result.append(True)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert result == [True]


def test_archives_are_read_where_they_are(tmp_path, place):
    write(tmp_path / "code")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "code/m0.py", "inside/m0.py")
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "code/m1.py", "inside/m1.py")
    row = json.dumps({"text": CODES[2]})
    (tmp_path / "c.jsonl").write_text(f"{row}\nnot JSON\n[1]\n")
    update(place, tmp_path / "a.zip", tmp_path / "b.tar.gz", tmp_path / "c.jsonl")
    matcher = Matcher(Index(place))
    (zipped,) = matcher.find(CODES[0], HASH)
    assert (zipped.attribution.path, zipped.attribution.verified) == ("inside/m0.py", True)
    (tarred,) = matcher.find(CODES[1], HASH)  # its members cannot be had one by one
    assert (tarred.attribution.path, tarred.attribution.verified) == ("inside/m1.py", False)
    (row,) = matcher.find(CODES[2], HASH)
    assert (row.attribution.path, row.attribution.verified) == ("@0.py", True)


LARGE = 64 << 20
METHODS = {"deflated": zipfile.ZIP_DEFLATED, "bzip2": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA}


def lying_zip(file: Path, method: int, said: int) -> None:
    """A member of LARGE zeros whose header says another size, between two that are as they should be."""
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("m0.py", CODES[0])
        archive.compression = method
        with archive.open("bomb.py", "w") as member:
            for _ in range(LARGE >> 20):
                member.write(bytes(1 << 20))
        archive.compression = zipfile.ZIP_DEFLATED
        archive.writestr("m1.py", CODES[1])
    data = bytearray(file.read_bytes())
    # The size stands 8 bytes before the name where the member is, and 22 before it in the list at the end.
    for at in (data.index(b"bomb.py") - 8, data.rindex(b"bomb.py") - 22):
        data[at : at + 4] = struct.pack("<I", said)
    file.write_bytes(data)


def lying_tar(file: Path, kind: bytes) -> None:
    """A header that says that a member's name, or what else is told of it, has LARGE bytes."""
    with tarfile.open(file, "w:gz") as archive:
        archive.addfile(header := tarfile.TarInfo("m0.py"), io.BytesIO())
        header = tarfile.TarInfo("x")
        header.type, header.size = kind, LARGE
        archive.fileobj.write(header.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(LARGE >> 20):
            archive.fileobj.write(b"a" * (1 << 20))


def peak(act) -> int:
    """The most memory in bytes that Python had more than before."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("method", "said"),
    [
        *(("deflated", said) for said in (1000, sources.MAX_FILE_BYTES, LARGE)),
        *(("bzip2", 1000), ("lzma", 1000)),
    ],
)
def test_a_zip_whose_header_lies_is_not_unpacked(tmp_path, place, method, said):
    update(place, write(tmp_path / "warm"))  # imports
    lying_zip(tmp_path / "a.zip", METHODS[method], said)
    assert peak(lambda: update(place, tmp_path / "a.zip")) < 8 * sources.MAX_FILE_BYTES
    index = Index(place)
    index.refresh()
    assert index.contents.sources[str(tmp_path / "a.zip")].files == 2
    assert sources.read_again("zip", str(tmp_path / "a.zip"), "bomb.py") is None
    assert sources.read_again("zip", str(tmp_path / "a.zip"), "m1.py") == CODES[1].encode()


def test_a_size_in_an_archive_may_be_below_0(tmp_path, place):
    source = named(write(tmp_path / "code", 1))
    left_out = Counter()
    object.__setattr__(
        source, "_folder_items", lambda left_out: [sources.Item("a.py", -5, 0, bytes)]
    )
    assert list(source.items(left_out)) == [] and left_out == {"too large": 1}


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_tar_whose_header_lies_is_said_in_a_line(tmp_path, place, kind):
    update(place, write(tmp_path / "warm"))
    lying_tar(tmp_path / "a.tar.gz", kind)

    def act():
        with pytest.raises(RequestError, match=r"one of its headers claims 67,108,864 bytes"):
            update(place, tmp_path / "a.tar.gz")

    assert peak(act) < 8 * sources.MAX_FILE_BYTES


def test_a_long_line_is_left_out_and_the_lines_behind_it_are_found(tmp_path, place):
    file = tmp_path / "a.jsonl"
    row = json.dumps({"text": CODES[2]}) + "\n"
    with file.open("w") as rows:
        rows.write(row)
        for _ in range(LARGE >> 20):
            rows.write("x" * (1 << 20))
        rows.write("\n" + json.dumps({"text": CODES[3]}))
    update(place, write(tmp_path / "warm", 1))

    def act():
        done = update(place, file)
        assert done.left_out["too large"] == 1

    assert peak(act) < 8 * sources.MAX_FILE_BYTES
    assert found(place, CODES[2]) == ["@0.py"]
    (match,) = Matcher(Index(place)).find(CODES[3], HASH)
    assert match.attribution.verified


@pytest.mark.parametrize("size", [-1, 0, 1])
def test_a_line_as_long_as_may_be_is_read(tmp_path, place, size):
    start, end = '{"text": "', '"}\n'
    file = tmp_path / "a.jsonl"
    file.write_text(start + "a" * (sources.MAX_FILE_BYTES + size - len(start + end)) + end)
    left_out = Counter()
    items = list(named(file).items(left_out))
    assert len(items) == (size <= 0) and left_out["too large"] == (size > 0)


@pytest.mark.parametrize("name", ["../elsewhere", "/elsewhere", "..", "a\\b"])
def test_a_pack_without_a_plain_name_is_not_read(tmp_path, place, name):
    update(place, write(tmp_path / "code"))
    (pack,) = place.glob("pack-*")
    pack.rename(tmp_path / "elsewhere")
    file = place / "index.json"
    file.write_text(file.read_text().replace(pack.name, name.replace("\\", "\\\\")))
    assert found(place, CODES[0]) == []


def test_a_pack_that_is_nested_deep_is_left_out(tmp_path, place):
    update(place, write(tmp_path / "code"))
    (pack,) = place.glob("pack-*")
    (pack / "sources.json").write_text("[" * 100_000)
    assert found(place, CODES[0]) == []


@pytest.mark.parametrize("name", ["a.zip", "b.tar.gz"])
def test_a_broken_archive_is_said_in_a_line(tmp_path, place, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04 nothing of the kind")
    with pytest.raises(RequestError, match="cannot be read as an archive"):
        update(place, tmp_path / name)


@pytest.mark.parametrize("name", ["nothing", "picture.png"])
def test_what_cannot_be_indexed_is_said_in_a_line(tmp_path, name):
    (tmp_path / "picture.png").write_bytes(b"")
    with pytest.raises(RequestError, match=r"does not exist|cannot be indexed"):
        named(tmp_path / name)


def test_hostile_files_are_left_out_and_harm_nothing(tmp_path, place):
    folder = write(tmp_path / "code", 1)
    (folder / "binary.py").write_bytes(os.urandom(20_000))
    (folder / "minified.js").write_text("var a=function(b){return b+1};" * 5_000)
    (folder / "latin.py").write_bytes(f"# caf\xe9\n{CODES[2]}".encode("latin-1"))
    (folder / "utf16.py").write_bytes(CODES[3].encode("utf-16"))
    (folder / "quotes.py").write_text("'\"" * 3_000 + "\n" + "((((" * 3_000)
    (folder / "name\udce9.py").write_text(CODES[4])
    (folder / "loop").symlink_to(folder)
    (folder / "self.py").symlink_to(folder / "self.py")
    os.mkfifo(folder / "pipe.py")
    with open(folder / "long.py", "wb") as file:
        file.truncate(100_000_000)  # a sparse line of 100 MB
    (folder / "bad.ipynb").write_text('{"cells": 3')
    (folder / "secret.py").write_text(CODES[5])
    (folder / "secret.py").chmod(0)
    done = update(place, folder)
    assert done.left_out["too large"] == 1
    assert done.left_out["binary or minified"] >= 3
    assert found(place, CODES[0]) == ["m0.py"]
    assert found(place, CODES[2]) == ["latin.py"]
    assert found(place, CODES[3]) == ["utf16.py"]
    assert found(place, CODES[4]) == ["name\udce9.py"]


def test_a_text_of_anything_can_be_looked_up(tmp_path, place):
    update(place, write(tmp_path / "code"))
    matcher = Matcher(Index(place))
    for text in ("", "\0" * 1000, "\ud800" * 500, "'" * 10_000, "(" * 10_000, "a" * 1_000_000):
        assert matcher.find(text, HASH) == []


def test_notebooks_are_indexed_by_their_code(tmp_path, place):
    cells = [{"cell_type": "code", "source": CODES[0].splitlines(keepends=True)}]
    (tmp_path / "n.ipynb").write_text(json.dumps({"cells": cells}))
    update(place, tmp_path / "n.ipynb")
    assert found(place, CODES[0]) == ["n.ipynb"]


def test_a_folder_has_the_licence_of_its_file(tmp_path):
    folder = write(tmp_path / "code", LICENSE=licences.text_of("BSD-3-Clause") or "")
    assert named(folder).licence == "BSD-3-Clause"
    assert named(folder, licence="mit").licence == "MIT"
    with pytest.raises(RequestError, match="is not an SPDX licence"):
        named(folder, licence="mine")


@pytest.mark.parametrize(
    ("expression", "licence", "classifiers", "found"),
    [
        ("mit OR apache-2.0", "", [], "MIT OR Apache-2.0"),
        ("", "Apache 2.0", [], "Apache-2.0"),
        ("", "", ["License :: OSI Approved :: MIT License"], "MIT"),
        ("", "BSD", ["License :: OSI Approved :: BSD License"], "NOASSERTION"),
        ("", licences.text_of("ISC") or "", [], "ISC"),
    ],
)
def test_a_package_s_licence_is_an_spdx_expression(expression, licence, classifiers, found):
    assert licences.of_metadata(expression, licence, classifiers) == found


@pytest.mark.parametrize(
    "id", ["MIT", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0", "MPL-2.0", "ISC"]
)
def test_a_licence_is_recognized_by_its_text(id):
    assert licences.of_text(f"Copyright 2020 Somebody\n\n{licences.text_of(id)}") == id


def test_the_packages_of_this_environment_are_sources():
    installed = {source.name: source for source in sources.installed()}
    assert installed["pytest"].licence == "MIT"
    assert installed["pytest"].version == pytest.__version__
    assert installed["Python"].licence == "PSF-2.0"
    assert any("LICENSE" in path for path, _ in sources.notice_texts(installed["pytest"]))


def test_a_pack_holds_what_was_put_into_it(tmp_path):
    import numpy as np

    draft = packs.Draft()
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**32, 1000, dtype=np.uint32)
    places = np.arange(1000, dtype=np.uint32)
    for path in ("a.py", "b.py"):
        draft.add("s", path, size=1, stamp=2, lexemes=1000, found=(hashes, places), marks=[(0, 0)])
    draft.write(tmp_path / "pack-1")
    pack = packs.Pack(tmp_path / "pack-1", dead=[0])
    assert pack.look_up(hashes[5:7], places[:2]) == [(0, 1, 5), (1, 1, 6)]
    again = packs.merged([pack])
    assert again.paths == ["b.py"]


# Damaged packs


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def swap(file: Path, start: int = 128) -> None:
    data = bytearray(file.read_bytes())
    data[start:] = bytes(255 - byte for byte in data[start:])
    file.write_bytes(data)


def replace_by_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def replace_by_pipe(file: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("there are no pipes with names")
    file.unlink()
    os.mkfifo(file)


def replace_by_device(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


def delete(file: Path) -> None:
    file.unlink()


DAMAGES = {
    "cut": lambda pack: cut(pack / "hashes.npy"),
    "empty": lambda pack: (pack / "places.npy").write_bytes(b""),
    "garbage": lambda pack: (pack / "starts.npy").write_bytes(b"PK\3\4 garbage"),
    "other numbers": lambda pack: swap(pack / "hashes.npy"),
    "other places": lambda pack: swap(pack / "places.npy"),
    "other owners": lambda pack: swap(pack / "owners.npy"),
    "deleted": lambda pack: delete(pack / "marks.npy"),
    "a folder": lambda pack: replace_by_folder(pack / "ends.npy"),
    "a pipe": lambda pack: replace_by_pipe(pack / "hashes.npy"),
    "a pipe of sources": lambda pack: replace_by_pipe(pack / "sources.json"),
    "sources": lambda pack: (pack / "sources.json").write_text("[1]"),
    "all": lambda pack: [delete(file) for file in list(pack.iterdir())],
}


@pytest.fixture
def damaged(tmp_path, place, request):
    """An index of two folders, of which one is damaged."""
    update(place, write(tmp_path / "first"))
    first = next(place.glob("pack-*"))
    update(place, write(tmp_path / "second", 3, 10))
    DAMAGES[getattr(request, "param", "cut")](first)
    return first


@pytest.mark.parametrize("damaged", DAMAGES, indirect=True)
def test_a_damaged_pack_is_left_out_and_what_is_in_others_is_found(damaged, place):
    index = Index(place, verified=True)
    assert [m.attribution.path for m in Matcher(index).find(CODES[11], HASH)] == ["m11.py"]
    assert Matcher(index).find(CODES[1], HASH) == []
    assert index.problem.startswith("1 of 2 parts of the index")
    assert found(place, CODES[11]) == ["m11.py"]  # also where nothing is verified


@pytest.mark.parametrize("damaged", DAMAGES, indirect=True)
def test_a_damaged_pack_is_named_once_renamed_made_anew_and_counted_once(tmp_path, damaged, place):
    with writing(place) as writer:
        writer.update([named(tmp_path / "second")])
    assert writer.notice == f"1 part of the index was damaged, and renamed to *.aside in {place}."
    index = Index(place, verified=True)
    assert index.refresh() and not index.problem
    assert found(place, CODES[1]) == ["m1.py"] and found(place, CODES[11]) == ["m11.py"]
    assert [source.files for source in index.contents.sources.values()] == [3, 3]
    assert index.lexemes == sum(pack.lexemes for pack in index.packs)
    assert damaged.with_name(f"{damaged.name}.aside").is_dir() and not damaged.exists()
    with writing(place) as writer:
        done = writer.update([named(tmp_path / "first"), named(tmp_path / "second")])
    assert (done.files, done.unchanged, writer.notice) == (0, 6, "")


def test_what_a_damaged_pack_held_and_is_gone_is_named_and_not_counted(tmp_path, damaged, place):
    shutil.rmtree(tmp_path / "first")
    with writing(place) as writer:
        writer.update([named(tmp_path / "second")])
    assert writer.notice.endswith("could not be read again: first.")
    assert [source.files for source in writer.contents.sources.values()] == [0, 3]


@pytest.mark.parametrize("damage", [cut, replace_by_folder, replace_by_pipe, replace_by_device])
def test_an_indexed_file_that_is_something_else_by_now_is_not_waited_for(tmp_path, place, damage):
    update(place, write(tmp_path / "code"))
    damage(tmp_path / "code" / "m1.py")
    found(place, CODES[1])  # by its fingerprints, or not at all
    assert found(place, CODES[0]) == ["m0.py"]


def test_what_an_earlier_version_counted_twice_is_counted_once(tmp_path, place):
    update(place, write(tmp_path / "code"))
    index = json.loads((place / "index.json").read_text())
    for source in index["sources"].values():
        source["files"] *= 2
        source["lexemes"] *= 2
    (place / "index.json").write_text(json.dumps(index))
    update(place, tmp_path / "code")
    now = Index(place)
    assert now.refresh()
    assert [source.files for source in now.contents.sources.values()] == [3]
    assert now.lexemes == sum(pack.lexemes for pack in now.packs)


def test_an_index_without_checksums_is_one_of_an_older_version_and_counts(tmp_path, place):
    update(place, write(tmp_path / "code"))
    delete(next(place.glob("pack-*/checksums.json")))
    with writing(place) as writer:
        assert writer.update([named(tmp_path / "code")]).unchanged == 3
    assert writer.notice == ""


@pytest.mark.parametrize("damage", [cut, replace_by_folder, replace_by_pipe, replace_by_device])
def test_a_damaged_list_of_packs_is_renamed_and_named_once(tmp_path, place, damage):
    update(place, write(tmp_path / "code"))
    file = place / "index.json"
    damage(file)
    assert found(place, CODES[0]) == []
    with writing(place) as writer:
        writer.update([named(tmp_path / "code")])
    assert "The list of what is indexed was damaged" in writer.notice
    assert os.path.lexists(file.with_name("index.json.aside"))
    assert found(place, CODES[0]) == ["m0.py"]
    with writing(place) as writer:
        assert writer.update([named(tmp_path / "code")]).unchanged == 3
    assert writer.notice == ""


def test_a_pack_that_cannot_be_opened_for_now_is_not_taken_for_a_damaged_one(
    tmp_path, place, monkeypatch
):
    update(place, write(tmp_path / "code"))

    def refuse(*_, **__):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    index = Index(place)
    with monkeypatch.context() as patched:
        patched.setattr("numpy.lib.format.open_memmap", refuse)
        with pytest.raises(RequestError, match="Too many open files"):
            update(place, tmp_path / "code")
        assert not index.refresh()
    assert index.refresh()
    assert len(list(place.glob("pack-*"))) == 1

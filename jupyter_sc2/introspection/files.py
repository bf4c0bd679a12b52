"""Which files code reads, and which there are: `pd.read_csv("sales.csv")`, `open("notes.txt")`."""

from __future__ import annotations

import ast
import os
import re
from itertools import islice

TEXT = frozenset({"csv", "tsv", "tab", "txt", "dat", "data", "gz", "bz2", "zip", "xz", "zst"})
SHEETS = frozenset({"xls", "xlsx", "xlsm", "xlsb", "ods"})
JSON = frozenset({"json", "jsonl", "ndjson", "geojson", "gz", "zip"})
PARQUET = frozenset({"parquet", "pq"})
IMAGES = frozenset({"png", "jpg", "jpeg", "gif", "bmp", "tif", "tiff", "webp"})
SAVED = frozenset({"npy", "npz", "pkl", "pickle", "joblib", "pt", "pth"})
# Functions that read a file, which is their first argument, by their last name: with what the files' names end.
READERS = {
    **dict.fromkeys(("read_csv", "scan_csv", "read_table", "read_fwf"), TEXT),
    **dict.fromkeys(("loadtxt", "genfromtxt"), TEXT),
    **dict.fromkeys(("read_excel", "ExcelFile"), SHEETS),
    **dict.fromkeys(("read_parquet", "scan_parquet"), PARQUET),
    "read_json": JSON,
    "read_feather": frozenset({"feather", "arrow", "ft"}),
    "read_pickle": frozenset({"pkl", "pickle", "gz"}),
    "read_hdf": frozenset({"h5", "hdf", "hdf5"}),
    "read_stata": frozenset({"dta"}),
    "read_xml": frozenset({"xml"}),
    "read_file": frozenset({"shp", "geojson", "json", "gpkg", "zip"}),
    "imread": IMAGES,
    "open": IMAGES,  # of PIL's Image; the builtin opens any
    "load": SAVED,
}
# Those that read all files of a folder as well.
TAKE_FOLDERS = frozenset({"read_parquet", "scan_parquet", "read_file"})
# The packages with such functions.
LIBRARIES = frozenset(
    {"pandas", "numpy", "polars", "geopandas", "matplotlib", "skimage", "imageio", "PIL", "joblib"}
)
ADDRESS = re.compile(r"\w+://")
# No plain path: a pattern, a drive, a variable of the shell.
NOT_PLAIN = re.compile(r"[*?\[\]{}$~:|<>\\\n]|\A//|\A\s*\Z")
WRITING = frozenset("wax+")
MAX_FILES = 400
MAX_FOLDERS = 20
MAX_ENTRIES = 2_000  # of a folder, that are looked at


def file_read(call: ast.Call) -> ast.expr | None:
    """The name of the file that a call reads, if it is written there; None of one that is opened for writing."""
    match call:
        case ast.Call(func=ast.Name(id="open"), args=[ast.Constant(value=str()) as name, *rest]):
            modes = [*rest[:1], *(k.value for k in call.keywords if k.arg == "mode")]
            reading = all(
                isinstance(mode, ast.Constant)
                and isinstance(mode.value, str)
                and not WRITING.intersection(mode.value)
                for mode in modes
            )
            return name if reading else None
        case ast.Call(
            func=ast.Attribute(attr=function), args=[ast.Constant(value=str()) as name, *_]
        ):
            return name if function in READERS else None
    return None


def instead_of(path: str) -> frozenset[str] | None:
    """The files that could be meant by a path, in its folder and the current one, and the folders in these.

    None where the path is that of a file, or none that can be looked up. For an address, those of the current folder.
    """
    if ADDRESS.match(path):
        path = ""
    elif NOT_PLAIN.search(path) or (os.path.exists(path) and not os.path.isdir(path)):
        return None
    folders = dict.fromkeys(("", path.rpartition("/")[0]))  # in this order, each once
    return frozenset().union(*map(_files_in, folders))


def _files_in(folder: str) -> list[str]:
    """The files in a folder and in those in it, as far as these can be read; none that is hidden."""
    found, inner = _entries(folder)
    for name in inner[:MAX_FOLDERS]:
        if len(found) < MAX_FILES:
            found += _entries(name)[0]
    return found[:MAX_FILES]


def _entries(folder: str) -> tuple[list[str], list[str]]:
    """Files and folders, by the names that code would use for them."""
    files: list[str] = []
    folders: list[str] = []
    try:
        with os.scandir(folder or ".") as entries:
            for entry in islice(entries, MAX_ENTRIES):
                if not entry.name.startswith((".", "_")):
                    kind = folders if entry.is_dir() else files
                    kind.append(f"{folder}/{entry.name}" if folder else entry.name)
    except OSError:
        pass
    return files, sorted(folders)

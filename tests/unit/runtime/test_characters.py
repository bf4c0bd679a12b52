"""Which characters nobody can see, and which names may become a file's."""

import pytest

from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.runtime.characters import escaped, first_unseen, is_plain_name, is_plain_path

UNSEEN = [
    *("\x00", "\x07", "\x08", "\x0b", "\x0c", "\r", "\x1b", "\x7f", "\x85", "\x9b"),
    *("\u202a", "\u202e", "\u2066", "\u2069", "\u200e", "\u200f", "\u061c"),
    *("\u200b", "\u200c", "\u200d", "\u2028", "\u2029", "\u2060", "\ufeff", "\u00ad", "\u180e"),
    *("\u115f", "\u3164", "\uffa0", "\ufe00", "\ufe0f", "\U000e0001", "\U000e0041", "\U000e0100"),
    "\ud800",
]


@pytest.mark.parametrize("char", UNSEEN, ids=ascii)
def test_what_nobody_sees_is_found_and_escaped(char):
    text = f"ab{char}c"
    assert first_unseen(text) == 2
    assert escaped(text) == f"ab{ascii(char)[1:-1]}c"


@pytest.mark.parametrize(
    "text",
    [
        "x = 1\n\ty",
        "naïve 東京",
        "👩‍💻 and 👨‍👩‍👧",
        "👩🏽‍🚀",
        "❤️‍🔥",
        "1️⃣ and ☎️ and ‼️",
        "می‌خواهم",
        "क्‍ष",
        "a\u00a0b",
    ],
)
def test_what_is_part_of_what_is_seen_is_left_alone(text):
    assert first_unseen(text) is None


def test_a_name_is_displayed_in_one_line():
    assert escaped("a\nb\tc\r\x1b]0;x\x07\u202e") == "a\\nb\\tc\\r\\x1b]0;x\\x07\\u202e"


def test_every_error_of_ours_is_displayed_in_one_line_without_what_nobody_sees():
    assert str(ModelLoadError("no model \x1b[31m\u202e\nx")) == r"no model \x1b[31m\u202e\nx"


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "a/b", "/a", "../a", "a\\b", "..\\a", "C:a", "C:\\a", "a:b", "a\0b", "a\nb"),
        *("con", "NUL", "aux.gguf", "COM1.safetensors", "lpt9", "com\u00b9.x", "a.", "a ", " a", "a*"),
        *('a"', "a|b", "a\u202eb", "a\u200b", "\x1b[0m", "a\udce9", "x" * 256, "é" * 128),
        *(None, 5, b"a", ["a"]),
    ],
    ids=ascii,
)  # fmt: skip
def test_what_is_no_plain_name(name):
    assert not is_plain_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "model-00001-of-00003.safetensors", "Model Q4 (2).gguf", "..a", ".hidden"),
        *("console.py", "com10", "東京.gguf", "a+b,c=d@e~f", "x" * 255),
    ],
)
def test_what_is_a_plain_name(name):
    assert is_plain_name(name)


@pytest.mark.parametrize("path", ["a/../b", "/a", "a//b", "a/", "../a", "a\\b/c", "a/nul", ""])
def test_what_leads_out_of_a_folder_or_is_a_device_is_no_plain_path(path):
    assert not is_plain_path(path)


def test_a_place_below_a_folder_is_a_plain_path():
    assert is_plain_path("Q8_0/model-Q8_0.gguf") and is_plain_path("refs/pr/1")

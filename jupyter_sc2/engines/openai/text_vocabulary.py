"""Ids for a server that reads text only: a vocabulary of pieces of text, numbered as they appear.

Everything above an engine works on ids. Where the model's own tokenizer is not at hand, a piece about as long as
a token stands for one, so that budgets and prefixes keep their meaning, and a prompt is rendered back to text for
the server. Special tokens have ids of their own: only those are rendered as special tokens.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Sequence

# Roughly how byte-pair encodings cut code: a blank goes with the word after it, digits stand alone.
TOKEN_LIKE = re.compile(r" ?[^\W\d_]{1,6}|\d|_+| ?[^\w\s]{1,2}|\s{1,8}", re.ASCII)
# Another script: about a token for each character.
NON_ASCII = re.compile(r"[^\x00-\x7f]")
# What some model may take for a special token, whatever the card names: <|…|>, <two_words>, and the usual ones.
SPECIAL_LOOKING = re.compile(
    r"<(?=[|｜][^|｜<>\s]{1,60}[|｜]>|/?[a-z]+(?:_[a-z]+)+>|/?s>|unk>|pad>|pr>)"  # noqa: RUF001
)


class TextVocabulary:
    """Text to ids and back, on any thread. It grows with the text that is seen, as far as a vocabulary would."""

    def __init__(self, special: Iterable[str]) -> None:
        self.special_ids = {text: id for id, text in enumerate(dict.fromkeys(special))}
        self._texts = list(self.special_ids)
        self._ids: dict[str, int] = {}
        self._lock = threading.Lock()

    def encode(self, text: str) -> list[int]:
        """The ids of plain text; never a special id."""
        ids: list[int] = []
        position = 0
        while position < len(text):
            match = TOKEN_LIKE.match(text, position) or NON_ASCII.match(text, position)
            end = match.end() if match else position + 1
            ids.append(self.id_of(text[position:end]))
            position = end
        return ids

    def id_of(self, text: str) -> int:
        """The id of one piece of plain text, however long."""
        id = self._ids.get(text)
        if id is not None:
            return id
        with self._lock:
            if text not in self._ids:
                self._texts.append(text)
                self._ids[text] = len(self._texts) - 1
            return self._ids[text]

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes of the pieces; special tokens give none."""
        special = len(self.special_ids)
        return "".join(self._texts[id] for id in ids if id >= special).encode()

    def render(self, ids: Sequence[int], end: str = "") -> str:
        """The prompt that the server's tokenizer reads as these ids, and plain text `end` after them."""
        special = len(self.special_ids)
        runs: list[str] = []
        plain: list[str] = []
        for id in ids:
            if id >= special:
                plain.append(self._texts[id])
                continue
            runs += [self._escape_special("".join(plain)), self._texts[id]]
            plain = []
        return "".join([*runs, self._escape_special("".join(plain) + end)])

    def _escape_special(self, text: str) -> str:
        """Plain text in which no special token can be found: "<fim_middle>" becomes "< fim_middle>".

        A blank, since a model may repeat what it reads, and an invisible break would do harm in code.
        """
        text = SPECIAL_LOOKING.sub("< ", text)
        for name in self.special_ids:
            if name in text:
                text = text.replace(name, f"{name[:1]} {name[1:]}")
        return text

"""Pieces of text and their ids, where several threads encode at once."""

import contextlib
import threading

import pytest

from jupyter_sc2.engines.openai.text_vocabulary import TextVocabulary


class Meeting(list):
    """A list whose length two threads find out at the same moment, if they may be in there together."""

    def __init__(self, items):
        super().__init__(items)
        self.barrier = threading.Barrier(2)

    def __len__(self):
        length = super().__len__()
        with contextlib.suppress(threading.BrokenBarrierError):
            self.barrier.wait(0.3)
        return length


@pytest.mark.parametrize("texts", [("x", "y"), ("x", "x"), ("one two", "three")])
def test_no_two_texts_get_one_id_where_two_threads_encode(texts):
    vocabulary = TextVocabulary(["<stop>"])
    vocabulary._texts = Meeting(vocabulary._texts)
    ids = {}

    def encode(thread: int) -> None:
        ids[thread] = vocabulary.encode(texts[thread])

    threads = [threading.Thread(target=encode, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [vocabulary.decode_bytes(ids[n]).decode() for n in range(2)] == list(texts)
    if texts[0] == texts[1]:
        assert ids[0] == ids[1]

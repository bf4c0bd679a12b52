"""What the user types and accepts corrects how sure a model is taken to be, on this machine and in small bounds.

For each model two numbers in log-odds: `shift` is added to the calibrated probability of each token, as suggestions
turn out right more or less often than they should; `margin` is added to the threshold from which text is shown, as the
user accepts suggestions or types past them. Both stay in one small JSON file in Jupyter's data folder, with nothing of
the text.
"""

from __future__ import annotations

import json
import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jupyter_sc2.engines.decoding.prefix_cache import common_length
from jupyter_sc2.models.calibration import Certainty
from jupyter_sc2.pipeline.suggestion_cache import typed_since
from jupyter_sc2.runtime.atomic_write import atomic_write
from jupyter_sc2.runtime.bounded_read import parse_json, read_limited
from jupyter_sc2.runtime.clock import monotonic
from jupyter_sc2.types import CompletionRequest

logger = logging.getLogger(__name__)

# In log-odds: how far the numbers may move, and by how much one suggestion moves them.
MAX_SHIFT, SHIFT_STEP = 1.0, 0.03
MAX_MARGIN = 0.5
# One suggestion accepted for four that are typed past leaves the threshold where it is.
ACCEPTED_STEP, TYPED_PAST_STEP = -0.04, 0.01
MAX_SURPRISE = 2.0  # of one suggestion, in tokens
# Front ends and cells whose last suggestion is remembered.
MAX_SHOWN = 32
WRITE_INTERVAL_S = 30.0
MAX_FILE_BYTES = 1 << 16


@dataclass
class Correction:
    """That of one model, and the suggestions it comes from."""

    shift: float = 0.0
    margin: float = 0.0
    suggestions: int = 0

    def __post_init__(self) -> None:
        self.shift = within(self.shift, MAX_SHIFT)
        self.margin = within(self.margin, MAX_MARGIN)


@dataclass(frozen=True)
class _Shown:
    request: CompletionRequest
    text: str
    certainties: Sequence[Certainty]


class Feedback:
    """Safe to call from any thread. Without a `file` it lasts as long as the process; not `enabled`, all is 0."""

    def __init__(
        self, file: Path | None = None, enabled: Callable[[], bool] = lambda: True
    ) -> None:
        self._file, self._enabled = file, enabled
        self._lock = threading.Lock()
        self._file_lock = threading.Lock()
        self._corrections: dict[str, Correction] | None = None
        self._shown: OrderedDict[tuple[str, str | None], _Shown] = OrderedDict()
        self._changed: set[str] = set()
        self._written = monotonic()

    def correction(self, model: str) -> Correction:
        """A copy."""
        if not self._enabled():
            return Correction()
        with self._lock:
            return Correction(**asdict(self._of(model)))

    def threshold(self, model: str, threshold: float) -> float:
        """A threshold as the user's accepts and rejects have moved it; 0 and 1 stay."""
        margin = self.correction(model).margin
        if not margin or not 0 < threshold < 1:
            return threshold
        odds = math.log(threshold / (1 - threshold)) + margin
        return 1 / (1 + math.exp(-odds))

    def show(self, request: CompletionRequest, text: str, certainties: Sequence[Certainty]) -> None:
        """Remembers what is shown for a request; `certainties` are those of the text."""
        if text and certainties and self._enabled():
            with self._lock:
                self._shown[_place(request)] = _Shown(request, text, certainties)
                self._shown.move_to_end(_place(request))
                while len(self._shown) > MAX_SHOWN:
                    self._shown.popitem(last=False)

    def typed(self, model: str, request: CompletionRequest) -> None:
        """Compares what is typed for a request with what was shown at its place before."""
        with self._lock:
            shown = self._shown.get(_place(request))
            if shown is None:
                return
            typed = typed_since(shown.request, request)
            if typed is not None and len(typed) < len(shown.text) and shown.text.startswith(typed):
                return  # the user is in the middle of it
            del self._shown[_place(request)]
            if not typed or not self._enabled():
                return
            right = common_length(typed, shown.text)
            correction = self._of(model)
            surprise = surprise_of(shown.certainties, right, wrong=right < len(shown.text))
            correction.shift = within(correction.shift + SHIFT_STEP * surprise, MAX_SHIFT)
            if right == 0:
                correction.margin = within(correction.margin + TYPED_PAST_STEP, MAX_MARGIN)
            correction.suggestions += 1
            self._changed.add(model)
        self._write_now_and_then()

    def accepted(self, model: str) -> None:
        if not self._enabled():
            return
        with self._lock:
            correction = self._of(model)
            correction.margin = within(correction.margin + ACCEPTED_STEP, MAX_MARGIN)
            self._changed.add(model)

    def reset(self) -> None:
        with self._lock:
            self._corrections, self._changed = {}, set()
            self._shown.clear()
        if self._file is not None:
            with self._file_lock:
                try:
                    self._file.unlink(missing_ok=True)
                except OSError:
                    logger.debug("Cannot remove %s", self._file, exc_info=True)

    def flush(self) -> None:
        """Writes what has changed; what cannot be written is lost with the process."""
        with self._lock:
            if self._file is None or not self._changed:
                return
            mine = {name: asdict(self._of(name)) for name in self._changed}
            self._changed, self._written = set(), monotonic()
        with self._file_lock:  # and not the other: who reports an accept does not wait for a disk
            others = {name: asdict(one) for name, one in self._read().items()}
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                atomic_write(self._file, json.dumps({**others, **mine}).encode())
            except OSError:
                logger.debug("Cannot write %s", self._file, exc_info=True)

    def _write_now_and_then(self) -> None:
        if monotonic() - self._written > WRITE_INTERVAL_S:
            self.flush()

    def _of(self, model: str) -> Correction:
        if self._corrections is None:
            self._corrections = self._read()
        return self._corrections.setdefault(model, Correction())

    def _read(self) -> dict[str, Correction]:
        """What the file holds, as far as it can be read."""
        found: dict[str, Correction] = {}
        if self._file is None:
            return found
        try:
            read: Any = parse_json(read_limited(self._file, MAX_FILE_BYTES))
        except (OSError, ValueError):
            return found
        for name, values in read.items() if isinstance(read, dict) else ():
            try:
                found[name] = Correction(
                    float(values["shift"]), float(values["margin"]), int(values["suggestions"])
                )
            except (TypeError, ValueError, KeyError, OverflowError):
                continue
        return found


def _place(request: CompletionRequest) -> tuple[str, str | None]:
    return request.front_end, request.cell_id


def surprise_of(certainties: Sequence[Certainty], right: int, *, wrong: bool) -> float:
    """How many more tokens were right than expected, up to the first that was wrong.

    Of a text the first `right` characters are, and `wrong` says whether others follow.
    """
    surprise = 0.0
    for one in certainties:
        if one.end <= right:
            surprise += 1 - one.probability
        else:
            surprise -= one.probability if wrong else 0.0
            break
    return within(surprise, MAX_SURPRISE)


def within(value: float, most: float) -> float:
    """The value, not further from 0 than this; 0 for what is no number."""
    return 0.0 if math.isnan(value) else max(-most, min(most, value))

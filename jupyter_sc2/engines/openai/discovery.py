"""What a completions server offers: which of its models is meant, its context, and whether it accepts ids."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jupyter_sc2.engines.decoding.tokenizer import Tokenizer
from jupyter_sc2.engines.openai.client import (
    Client,
    ModelNotFoundError,
    RequestRejectedError,
    UnauthorizedError,
    find_key,
    parse_address,
)
from jupyter_sc2.engines.openai.server_files import running_servers
from jupyter_sc2.engines.openai.text_vocabulary import TextVocabulary
from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.models import files as model_files
from jupyter_sc2.models import hub
from jupyter_sc2.models.cards import (
    EMBEDDED,
    EMBEDDED_FOLDER,
    ModelCard,
    cards,
    find_card,
    with_known_layout,
)
from jupyter_sc2.runtime.characters import escaped, is_plain_path
from jupyter_sc2.runtime.exit_gate import gate
from jupyter_sc2.runtime.progress import Cancelled, Progress

MODELS = "/v1/models"
COMPLETIONS = "/v1/completions"
# Servers whose own words beyond the common ones are used here, by what they say of their models.
KINDS = {"vllm": "vllm", "llamacpp": "llamacpp"}
# Ordinary code, which every cut of the same vocabulary encodes alike.
SAMPLE_CODE = "import numpy as np\nfor i in range(n):\n    print(i)\n"
# A piece of text counts as a token, and dense text has more tokens than pieces.
TOKENS_PER_TEXT_ID = 1.5
# Characters of a model's name; longer ones are none.
MAX_MODEL_NAME_CHARS = 300
# Of the answer to a test request: seconds after its first event, and how many events are read.
MAX_PROBE_S = 5.0
MAX_PROBE_EVENTS = 8
# How many models are named where the one that is set is not among them.
MAX_MODELS_LISTED = 20
# Those come first whose names are alike, by difflib's measure from 0 to 1.
MIN_LIKENESS = 0.5


@dataclass(frozen=True)
class Deployment:
    """A model on a server: its name there, the kind of server ("vllm", "llamacpp" or ""), its vocabulary, its card."""

    model: str
    kind: str
    vocabulary: Tokenizer | TextVocabulary
    card: ModelCard


def open_client(server: str, *, offline: bool) -> tuple[Client, str | None]:
    """A client for the setting `server`, and the model behind it where this user's own `serve` told that.

    "auto" is the newest such server. Raises ModelLoadError.
    """
    running = running_servers()
    if server == "auto":
        if not running:
            raise ModelLoadError(
                "No server of yours runs on this machine: start one with `jupyter sc2 serve`, or name another's "
                "address in server."
            )
        return Client(parse_address(running[0].url), running[0].token), running[0].model
    address = parse_address(server)
    if offline and not address.loopback:
        raise ModelLoadError(f"offline is set, and {address.host} is not this machine.")
    for known in running:
        if parse_address(known.url).root == address.root:
            return Client(address, known.token), known.model
    return Client(address, find_key(address)), None


def find_deployment(client: Client, model: str, *, offline: bool, progress: Progress) -> Deployment:
    """Asks the server for its models, picks the one that `model` means, and tries it with one token.

    Raises ModelLoadError where it has no such model; GenerationError where it does not answer as it should.
    """

    def cancelled() -> bool:
        progress("loading", None)  # raises where something else is to be loaded
        return False

    entries = _list_models(client, cancelled)
    entry = choose_entry(model, entries, client.address.host)
    kind = KINDS.get(str(entry.get("owned_by")), "")
    card = _card_of(model, entry)
    probe = _Probe(client, entry["id"], kind, cancelled)
    told = str(entry.get("root") or "-") if client.address.loopback else "-"
    folder = _tokenizer_folder(model, card, Path(told), offline, progress)
    card = _within(card, _context(client, entry, kind, cancelled), folder)
    if folder is not None:
        with gate:
            tokenizer = Tokenizer(folder / "tokenizer.json")
        if probe.takes_ids(tokenizer):
            return Deployment(
                entry["id"], kind, tokenizer, with_known_layout(card, tokenizer.special_ids)
            )
    names = [name for role, name in card.special.items() if role != "bos"]  # servers put it there
    special = [name for name in dict.fromkeys((*names, *card.stop)) if probe.knows(name)]
    probe.complete(SAMPLE_CODE)
    card = replace(card, context=max(1, int(card.context / TOKENS_PER_TEXT_ID)))
    return Deployment(entry["id"], kind, TextVocabulary(special), card)


def _list_models(client: Client, cancelled: Cancelled) -> list[dict[str, Any]]:
    try:
        listing = client.get(MODELS, cancelled)
    except ModelNotFoundError as error:
        raise ModelLoadError(f"{error} Is {client.address.root} a completions server?") from error
    data = listing.get("data") if isinstance(listing, dict) else None
    entries = [
        entry
        for entry in (data if isinstance(data, list) else ())
        if isinstance(entry, dict)
        and isinstance(entry.get("id"), str)
        and 0 < len(entry["id"]) <= MAX_MODEL_NAME_CHARS
    ]
    if not entries:
        raise ModelLoadError(f"{client.address.host} lists no models at {MODELS}.")
    return entries


def choose_entry(model: str, entries: Sequence[dict[str, Any]], host: str) -> dict[str, Any]:
    """The entry of the server's list that `model` means. Raises ModelLoadError, naming what there is.

    The embedded model and folders are not known to others by their names: for them the server's only model counts.
    """
    wanted = {_plain(model)}
    with contextlib.suppress(ModelLoadError):
        card = find_card(model)
        wanted |= {_plain(name) for name in (card.name, card.hub_id) if name}
    for entry in entries:
        names = (entry["id"], escaped(entry["id"]), str(entry.get("root") or ""))
        if wanted.intersection(map(_plain, names)):
            return entry
    # llama-server calls a model by its file, with the precision at the end.
    longer = [e for e in entries if any(_plain(e["id"]).startswith(f"{w}-q") for w in wanted)]
    if len(longer) == 1:
        return longer[0]
    own = model == EMBEDDED.name or Path(model).expanduser().is_dir()
    if own and len(entries) == 1:
        return entries[0]
    ids = [entry["id"] for entry in entries]
    plain = {_plain(id): id for id in ids}
    close = difflib.get_close_matches(
        _plain(model), plain, n=MAX_MODELS_LISTED, cutoff=MIN_LIKENESS
    )
    near = dict.fromkeys([*(plain[name] for name in close), *ids])
    listed = ", ".join(list(near)[:MAX_MODELS_LISTED])
    more = (
        f" and {len(entries) - MAX_MODELS_LISTED} more" if len(entries) > MAX_MODELS_LISTED else ""
    )
    raise ModelLoadError(f"{host} has no model {model}: set model to one of {listed}{more}.")


def _plain(name: str) -> str:
    """A model's name without what servers differ in: owner, capitals, file ending, and ":" for "-"."""
    last = name.rstrip("/").rpartition("/")[2].lower().removesuffix(".gguf")
    return re.sub(r"[:._]", "-", last.removesuffix(":latest"))


def _card_of(model: str, entry: dict[str, Any]) -> ModelCard:
    """The card of what the user named; where that was nothing or a folder, of what the server says."""
    known = cards()
    names = [str(entry["id"]), str(entry.get("root") or "")]
    if model != EMBEDDED.name:
        names.insert(0, model)
    for name in names:
        for card in known.values():
            if name and _plain(name) in (_plain(card.name), _plain(card.hub_id or card.name)):
                return card
    for name in names:
        if name.count("/") == 1 and is_plain_path(name) and not name.startswith((".", "~")):
            return replace(find_card(name), note="")
    return replace(find_card(f"./{escaped(Path(names[0]).name)}"), note="")


def _context(client: Client, entry: dict[str, Any], kind: str, cancelled: Cancelled) -> int | None:
    """How many tokens a prompt and its completion may have; None if the server does not report it."""
    told = entry.get("max_model_len")
    if kind == "llamacpp":
        with contextlib.suppress(RequestRejectedError, UnauthorizedError, TypeError, KeyError):
            told = client.get("/props", cancelled)["default_generation_settings"]["n_ctx"]
    known = isinstance(told, int) and not isinstance(told, bool) and told > 0
    return told if known else None


def _within(card: ModelCard, context: int | None, folder: Path | None) -> ModelCard:
    config: dict[str, Any] = {}
    if folder is not None:
        with contextlib.suppress(ModelLoadError):
            config = model_files.read_config(folder)
    reach = min(
        model_files.largest(config.get("max_position_embeddings")) or card.context,
        context or card.context,
    )
    window = model_files.largest(config.get("sliding_window")) or (reach if config else card.window)
    return replace(card, context=reach, window=min(window, reach))


def _tokenizer_folder(
    model: str, card: ModelCard, told: Path, offline: bool, progress: Progress
) -> Path | None:
    """A folder with the model's tokenizer.json; None if there is none to be had.

    A server on this machine may have `told` the folder of its model. The hub is asked only for models that the user or
    this package has named: what a server calls its models is nobody else's business.
    """
    folders = [Path(model).expanduser(), told]
    if card.name == EMBEDDED.name:
        folders = [EMBEDDED_FOLDER]
    elif card.hub_id and (cached := hub.cached_folder(card.hub_id, card.revision)):
        folders.append(cached)
    for folder in folders:
        if (folder / "tokenizer.json").is_file():
            return folder
    if card.hub_id and (card.hub_id == model or card.name in cards()):
        with contextlib.suppress(ModelLoadError):
            return hub.fetch(
                card.hub_id, card.revision, _only_tokenizer, offline=offline, progress=progress
            )
    return None


def _only_tokenizer(names: Sequence[str]) -> list[str]:
    return [name for name in names if name in ("tokenizer.json", model_files.CONFIG)]


@dataclass(frozen=True)
class _Probe:
    """Small test requests to a model on a server."""

    client: Client
    model: str
    kind: str
    cancelled: Cancelled

    def takes_ids(self, tokenizer: Tokenizer) -> bool:
        """Whether a prompt may be ids, and these are the server's own."""
        special = next(iter(tokenizer.special_ids.items()), ("", 0))
        with gate:
            ids = [*([special[1]] if special[0] else []), *tokenizer.encode(SAMPLE_CODE)]
        if self.tokenize(special[0] + SAMPLE_CODE) not in (None, ids):
            return False
        try:
            usage = self.complete(ids)
        except ModelNotFoundError:
            raise
        except RequestRejectedError:
            return False
        read = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        return read in (None, len(ids))

    def knows(self, name: str) -> bool:
        """Whether this is one token for the server; if it does not report that, the card decides."""
        ids = self.tokenize(name)
        return ids is None or len(ids) == 1

    def tokenize(self, text: str) -> list[int] | None:
        """The server's ids of a text in which special tokens count; None if it does not report them."""
        body: dict[str, Any] = {"content": text, "add_special": False, "parse_special": True}
        if self.kind == "vllm":
            body = {"model": self.model, "prompt": text, "add_special_tokens": False}
        elif self.kind != "llamacpp":
            return None
        # A proxy may let through what begins with /v1 and nothing else.
        with contextlib.suppress(RequestRejectedError, UnauthorizedError):
            answer = self.client.post("/tokenize", body, self.cancelled)
            tokens = answer.get("tokens") if isinstance(answer, dict) else None
            return tokens if isinstance(tokens, list) else None
        return None

    def complete(self, prompt: str | list[int]) -> Any:
        """What the server reports of the tokens that it has read to decode one; None where it does not.

        A stream, for there are servers that decode on and on.
        """
        payload: dict[str, Any] = {
            **{"model": self.model, "prompt": prompt, "max_tokens": 1, "temperature": 0},
            **{"stream": True, "stream_options": {"include_usage": True}},
        }
        with contextlib.closing(
            self.client.stream(COMPLETIONS, payload, self.cancelled, seconds=MAX_PROBE_S)
        ) as events:
            usages = [event.get("usage") for event in itertools.islice(events, MAX_PROBE_EVENTS)]
        return next((usage for usage in usages if usage is not None), None)

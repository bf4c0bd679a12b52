"""Decides whether something is a secret, by its name or by its value. Every description of a live object passes here.

A name is judged by its whole words, however they are joined: `api_key`, `apiKey`, `APIKEY` and "API key" are secret,
`monkey`, `tokenizer` and `author_names` are not. A value is judged by the known token formats of many services, by
credentials in addresses and assignments, by card numbers, and by how random it looks. When in doubt it is a secret:
leaving it out of the prompt costs a suggestion at most.

Nothing here takes more than linear time, and at most `MAX_TEXT_CHARS` characters of a text are examined.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise

MAX_TEXT_CHARS = 2_000  # a longer text counts as a secret
MAX_NAME_CHARS = 200

# Names


def _set_of(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Within a word or at its end: no other word contains these letters.
CERTAIN = re.compile(
    r"passw|passphrase|passcode|passkey|credential|kennwort|wachtwoord|contrase[nñ]a|motdepasse"
    r"|secret(?!ar|e|i|o|ly)|oauth(?!or)|sessionid|sessid|pincode"
    r"|(?:api|access|secret|private|priv|ssh|gpg|pgp|rsa|aes|aws|signing|encryption|master|auth|account|storage"
    r"|licen[cs]e|consumer|subscription)keys?\Z"
    r"|(?:db|user|root|admin|my|ftp|smtp|mail|login|pg|sudo)(?:pass|pw|pin)\Z|(?:pwd|jwt|ssn|csrf|xsrf)s?\Z"
)
# Whole words, and pairs of adjacent words, in the singular.
WORDS = _set_of(
    "pw cvv cvc otp totp mfa dsn psk pem cred bearer authn authz iban mnemonic senha geheim"
)
PAIRS = _set_of(
    "password passphrase passcode apikey accesskey secretkey privatekey sshkey signingkey encryptionkey masterkey "
    "accountkey storagekey licensekey licencekey consumerkey sessionid sessid cardnumber cardno creditcard ccnumber "
    "ccnum ccno socialsecurity securitycode accesscode verificationcode recoverycode recoveryphrase backupcode "
    "seedphrase accountnumber accountno connectionstring connectionstr connstring connstr passportnumber passportno"
)
# Words that have other meanings, too. They are secrets unless another word of the name is ordinary.
AMBIGUOUS = re.compile(
    r"(?:\A(?:key|pin|authori[sz]ation|authentication)|token|cookie|auth|conn)s?\Z"
)
ORDINARY = _set_of(
    # how many, how large, how often, when
    "n num count cnt max min maximum minimum total sum mean avg average median len length size limit budget rate ratio "
    "per freq frequency prob probability score time timeout expiry expiration ttl lifetime date day "
    "is has needs requires required enabled failed "
    # words that go with a key of a table, and with other keys
    "primary foreign sort sorting group grouping join merge partition composite surrogate column col row field "
    "func function fn error event press pressed stroke hot arrow metric result figure finding point fact takeaway "
    "indicator insight performance major minor musical piano "
    # words that go with a token of a text
    "word piece pad padding eos bos unk mask sep cls special stop input output prompt completion generated unique "
    "distinct vocab vocabulary embedding embed index idx ids type name lemma stem pos "
    # words that go with cookies that are baked, and with pins of a chip
    "sold eaten baked price sale recipe dough chocolate oatmeal flavour flavor consent banner gpio led layout bowling"
)
# A name that ends in `pass` is secret, unless one of these comes before. `pass_rate` is not secret.
PASSES = _set_of(
    "low high band all forward backward first second third last one two single multi nth n num by test final is did "
    "can boarding season rail bus ski day guest mountain"
)

LETTERS = re.compile(r"[^\W\d_]+")
CAMEL = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[^A-Z]+|[A-Z]+")


@lru_cache(maxsize=4096)
def named(name: str) -> bool:
    """Whether a name indicates that its value is a secret."""
    runs = LETTERS.findall(name[:MAX_NAME_CHARS])
    words = [word.lower() for run in runs for word in CAMEL.findall(run)]
    singular = [_singular(word) for word in words]
    if any(map(CERTAIN.search, words)) or not WORDS.isdisjoint(singular):
        return True
    pairs = list(pairwise(words))
    if any(_singular(first + second) in PAIRS for first, second in pairs):
        return True
    if words[-1:] == ["pass"] and PASSES.isdisjoint(words[-2:-1]):
        return True
    return any(map(AMBIGUOUS.search, words)) and ORDINARY.isdisjoint([*words, *singular])


def mentioned(text: str) -> bool:
    """Whether a text contains a word that names a secret."""
    return len(text) > MAX_TEXT_CHARS or any(map(named, re.findall(r"[^\W\d][\w-]*", text)))


def _singular(word: str) -> str:
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


# Values

KNOWN = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"AKIA[A-Z0-9]{4}|A(?:SIA|ROA|IDA|GPA|NPA|IPA)[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{4}|github_pat_\w{4}"
    r"|gl(?:pat|dt|rt|ptt|cbt|soat|ft)-[\w-]{4}|xox[a-z]-[\w-]{4}|xapp-[\w-]{4}|[srp]k_(?:live|test|prod)_\w{4}"
    r"|sk-(?:(?:proj|ant|or|svcacct|admin|lf)-[\w-]{4}|(?=[A-Za-z]{0,40}\d)[\w-]{6}|[A-Za-z]{12}|[\w-]{20})"
    r"|AIza[\w-]{6}|ya29\.[\w-]{6}|do[opr]_v1_\w{4}|shp(?:at|ca|pa|ss)_\w{4}|hvs\.\w{4}|whsec_\w{4}|dckr_pat_\w{4}"
    r"|glsa_\w{4}|figd_\w{4}|lin_api_\w{4}|ATATT\w{8}|AGE-SECRET-KEY-|eyJ[\w-]{5}|\d{8,10}:[\w-]{35}"
    # Ordinary names may begin like these: the rest must not look like a word.
    r"|(?<![\w-])(?:hf_|npm_|pypi-|SG\.|gsk_|r8_|nvapi-|pplx-|xai-|tvly-|secret_)"
    r"(?:(?=\w{0,60}(?:\d|[a-z][A-Z]))[\w-]{8}|[A-Za-z]{20})"
    r"|B(?:earer|EARER)\s{1,4}[\w.~+/=-]{6}|bearer\s{1,4}(?=[\w.~+/=-]{0,60}\d)"
    r"|Basic\s{1,4}[A-Za-z0-9+/]{0,200}(?:=|\d|[a-z][A-Z]))"
    r"|-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY|PuTTY-User-Key-File"
    r"|hooks\.slack\.com/(?:services|workflows)/|discord(?:app)?\.com/api/webhooks/"
    # A social security number; a UUID, which some services take for a key
    r"|(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\d-])"
    r"|(?<![\w-])[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}(?![\w-])"
)
# name:password@host, with or without a scheme; scheme://token@host. `git@` is not a token, a port is not a password.
ADDRESS = re.compile(
    r"://(?!git@)(?:[^\s/?#@]{1,256}@|[^\s/?#@:]{0,128}:(?!\d{1,5}(?:[/?#]|\Z))[^\s@]{0,256}@)"
    r"|(?<![\w.@/-])(?!mailto:)[\w.-]{1,64}:(?=[^\s@/:]{0,64}[\d!#$%^&*])[^\s@/:]{1,64}@\w"
)
SIGNED = re.compile(r"[?&;](?:sig|signature|sharedaccesssignature|x-amz-\w{1,30})=[^\s&#]", re.I)
# Assignments to names: in queries, connection strings, headers, JSON, code; options of a command.
ASSIGNED = re.compile(
    r"(?<![\w.-])([^\W\d][\w.-]{0,63})[\"'\]]{0,2}\s{0,3}(?:=(?!=)|:(?!//))\s{0,3}[\"']{0,3}[^\s\"'=&;,)]"
)
OPTION = re.compile(r"(?<![\w-])--?([^\W\d][\w-]{0,63})[ =]\S")
DIGITS = re.compile(r"(?<![\d.])(?:\d[ -]?){12,18}\d(?!\d)")
CARDS = re.compile(r"4|5[1-5]|2[2-7]|3[04-9]|6")

RUN = re.compile(r"[A-Za-z0-9+/_-]{16,}")
PIECE = re.compile(r"[A-Za-z0-9]+")
# Parts that resemble words: lower-case letters after a capital, capitals, digits.
PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
STRONG = re.compile(r"(?<![^\s'\":=])[\w!@#$%^&*?~-]{10,64}(?![^\s'\",;])")
SIGN = re.compile(r"[!@#$%^&*?~]")


def in_text(text: str) -> bool:
    """Whether a text is a secret, or contains one."""
    if len(text) > MAX_TEXT_CHARS:
        return True
    return (
        KNOWN.search(text) is not None
        or ADDRESS.search(text) is not None
        or SIGNED.search(text) is not None
        or any(named(found[1]) for found in ASSIGNED.finditer(text))
        or any(named(found[1]) for found in OPTION.finditer(text))
        or any(_is_card(found[0]) for found in DIGITS.finditer(text))
        or any(_is_random(found[0]) for found in RUN.finditer(text))
        or any(_is_password(found[0]) for found in STRONG.finditer(text))
    )


def in_value(value: object) -> bool:
    """Whether a string or number is a secret. Any other type counts as one."""
    if type(value) is str:
        return in_text(value)
    if type(value) is int:
        return value.bit_length() > 64 or in_text(str(value))
    # By identity: a user's metaclass may define the comparison.
    return not (value is None or type(value) is bool or type(value) is float)


def tells(name: object) -> bool:
    """Whether the name of a field, a column or a key may be shown: it neither names a secret nor is one."""
    if not issubclass(type(name), str):
        return True
    text = str.__str__(name)  # whatever a user's class defines
    return not (named(text) or in_text(text))


def told(names: Iterable[str]) -> list[str]:
    """Those of the names that may be shown."""
    return [name for name in names if tells(name)]


def type_without_values(text: str) -> str:
    """A library's name of a type, without categories, fill values and field names: "Enum", "Sparse[object]"."""
    if text.startswith("Sparse["):
        return f"{text.partition(',')[0].rstrip(']')}]"
    if len(text) > 60 or "'" in text or '"' in text or in_text(text) or mentioned(text):
        return re.split(r"[(\[<]", text, maxsplit=1)[0][:60]
    return text


def _is_card(text: str) -> bool:
    """Whether digits start like card numbers and have their check digit (ISO/IEC 7812, Luhn)."""
    digits = [int(char) for char in text if char.isdigit()]
    doubled = (2 * digit - 9 * (digit > 4) for digit in digits[-2::-2])
    luhn = (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0
    return luhn and CARDS.match(text) is not None and len(set(digits)) > 1


def _is_random(run: str) -> bool:
    """Whether letters and digits change too often for words: random text over 62 characters has parts of about 2.2.

    Words, camel case, dates and paths have parts of 4 and more; digits alone and letters of one case are a single part.
    """
    pieces = PIECE.findall(run)
    for piece in pieces:
        kinds = _kinds(piece)
        length, mean = (16, 3.4) if "digit" in kinds else (20, 2.9)
        if len(kinds) > 1 and len(piece) >= length and _mean(piece) <= mean:
            return True
    # Base64, which contains other characters; unlike in a path, some long run of letters looks random as well.
    return (
        len(run) >= 24
        and len(_kinds(run)) == 3
        and _mean(run) <= 3.4
        and any(len(piece) >= 10 and _mean(piece) <= 2.7 for piece in pieces)
    )


def _is_password(run: str) -> bool:
    """Whether it has everything that a strong password needs, in parts that are not words."""
    has_sign = SIGN.search(run) is not None
    parts = len(PART.findall(run)) + len(SIGN.findall(run))
    return has_sign and len(_kinds(run)) == 3 and len(run) <= 2.4 * parts


def _kinds(text: str) -> set[str]:
    kinds = {"digit": str.isdigit, "small": str.islower, "capital": str.isupper}
    return {kind for kind, test in kinds.items() if any(map(test, text))}


def _mean(text: str) -> float:
    """The mean length of the parts."""
    parts = PART.findall(text)
    return sum(map(len, parts)) / max(1, len(parts))

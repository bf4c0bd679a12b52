"""One protocol, written down three times: for readers, for the kernel and for the page.

Each is read here into the same form: the names of the fields, each with its types and whether it may be left out.
"""

import ast
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from msgspec import inspect

from jupyter_sc2 import notebook
from jupyter_sc2.kernel.comm import channel, protocol
from jupyter_sc2.pipeline import candidate, request_queue
from tests.support.paths import ROOT

DOCUMENT = (ROOT / "docs" / "protocol.md").read_text("utf-8")
PAGE = ROOT / "labextension" / "src"
TYPESCRIPT = (PAGE / "kernel" / "protocol.ts").read_text("utf-8")

UP, DOWN = "up", "down"
HEADINGS = {UP: "From the front end to the kernel", DOWN: "From the kernel to the front end"}
# What the kernel can do without and the page always sends.
ALWAYS_SENT = {
    (UP, "hello"): {"protocol", "client"},
    (UP, "complete"): {"trigger"},
    (UP, "accepted"): {"index", "text"},
    (UP, "cell"): {"source", "cell_type", "execution_count"},
}
# What the kernel always sends and the page can do without.
DISPENSABLE = {
    (DOWN, "hello"): {"engine", "precision", "models", "allowed", "settings", "languages"},
    (DOWN, "status"): {"precision"},
    (DOWN, "update"): {"source"},
    (DOWN, "attribution"): {"verified"},
}


@dataclass(frozen=True)
class Field:
    """`types` are JSON's, literal values in quotes, and the names of objects that have fields of their own."""

    types: frozenset[str]
    optional: bool
    default: object = None


# The code


def schema(types) -> dict:
    """Messages by their type, and the objects within them by their name, each as fields by name."""
    found = {}

    def names(type) -> set[str]:
        match type:
            case inspect.UnionType():
                return set().union(*map(names, type.types))
            case inspect.LiteralType():
                return {json.dumps(value) for value in type.values}
            case inspect.ListType(item_type=inspect.AnyType()):
                return {"array"}
            case inspect.ListType():
                return {f"array of {name}" for name in names(type.item_type)}
            case inspect.TupleType():
                return {f"array of {name}" for item in type.item_types for name in names(item)}
            case inspect.StructType():
                name = type.tag or type.cls.__name__.removesuffix("State").lower()
                found[name] = {field.encode_name: read(field) for field in type.fields}
                return {name}
            case _:
                return {JSON[type.__class__]}

    def read(field) -> Field:
        default = None
        if field.default_factory is not inspect.NODEFAULT:
            default = field.default_factory()
        elif field.default is not inspect.NODEFAULT:
            default = field.default
        return Field(frozenset(names(field.type)), not field.required, default)

    for type in get_args(types):
        names(inspect.type_info(type))
    return found


JSON = {
    inspect.StrType: "string",
    inspect.IntType: "integer",
    inspect.FloatType: "number",
    inspect.BoolType: "boolean",
    inspect.NoneType: "null",
    inspect.DictType: "object",
}
CODE = {UP: schema(protocol.UpMessage), DOWN: schema(protocol.DownMessage)}
MESSAGES = [(way, name) for way, messages in CODE.items() for name in messages]


# The document


def sections(level: int, text: str) -> dict[str, str]:
    """What stands below each heading of this level, by the heading."""
    _, *parts = re.split(rf"^{'#' * level} (.+)$", text, flags=re.MULTILINE)
    return {name.strip("`"): body for name, body in zip(parts[::2], parts[1::2], strict=True)}


def table(text: str) -> list[dict[str, str]]:
    """The rows of the first table, each as cells by the column's heading."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(head, row, strict=True)) for row in rows]


def values(heading: str) -> set[str]:
    """The first column of a table of values."""
    return {next(iter(row.values())).strip("`") for row in table(VALUES[heading])}


def documented(text: str) -> dict[str, Field]:
    """The fields of a table: | field | type | default | or | field | type | sent |."""
    fields = {}
    for row in table(text):
        default = None
        if "default" in row:
            optional = row["default"] != "required"
            default = json.loads(row["default"].strip("`")) if optional else None
        else:
            optional = row["sent"] != "always"
        fields[row["field"].strip("`")] = Field(written(row["type"]), optional, default)
    return fields


def written(type: str) -> frozenset[str]:
    """The types of a cell such as: `"a"`, `"b"` or null. A link to a table of values stands for these."""
    types = set()
    for one in re.split(r", | or ", type):
        array, name = re.fullmatch(r"(array of )?(.+)", one).groups("")
        link = re.fullmatch(r"\[(.+)\]\(#(.+)\)", name)
        heading = link and link[2].capitalize().replace("-", " ")
        if heading in VALUES:
            types |= {json.dumps(value) for value in values(heading)}
        else:
            types.add(array + (link[1] if link else name.strip("`")))
    return frozenset(types)


PARTS = sections(2, DOCUMENT)
VALUES = sections(3, PARTS["Values"])
DOCUMENTED = {way: sections(3, PARTS[heading]) for way, heading in HEADINGS.items()}


# The page


def without_comments(text: str) -> str:
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)


SOURCE = without_comments(TYPESCRIPT)
ALIASES = dict(re.findall(r"^export type (\w+) =(.+?);", SOURCE, re.MULTILINE | re.DOTALL))
INTERFACES = {
    name: re.findall(r"^  (\w+)(\??): (.+?);$", body, re.MULTILINE)
    for name, body in re.findall(r"^export interface (\w+) \{(.*?)^\}", SOURCE, re.M | re.DOTALL)
}


def typed(type: str) -> set[str]:
    """The types of an expression such as: 'a' | 'b' | null."""
    types = set()
    for one in (part.strip() for part in re.sub("Record<.+>", "object", type).split("|")):
        if one in ALIASES:
            types |= typed(ALIASES[one])
        elif one in INTERFACES:
            types.add(one.removeprefix("I").lower())
        elif one.endswith("[]"):
            types |= {f"array of {name}" for name in typed(one[:-2])}
        elif one.startswith("["):
            types |= {f"array of {name}" for item in one[1:-1].split(",") for name in typed(item)}
        elif one:
            types.add(one.replace("'", '"'))
    return types


def on_the_page(union: str) -> dict[str, dict[str, Field]]:
    """The messages of one way by their type, and the objects that they hold by their name."""
    found, todo = {}, re.findall(r"\w+", ALIASES[union])
    while todo:
        interface = todo.pop()
        fields = {
            name: Field(frozenset(typed(type)), bool(optional))
            for name, optional, type in INTERFACES[interface]
        }
        tag = fields.pop("type", None)
        name = json.loads(*tag.types) if tag else interface.removeprefix("I").lower()
        found[name] = fields
        written = " ".join(type for _, _, type in INTERFACES[interface])
        todo += [other for other in re.findall(r"\w+", written) if other in INTERFACES]
    return found


ON_THE_PAGE = {UP: on_the_page("UpMessage"), DOWN: on_the_page("DownMessage")}


def as_typescript(way: str, types: frozenset[str]) -> set[str]:
    """What TypeScript can tell apart: it knows one kind of number. Up, null is the same as nothing."""
    types = {type.replace("integer", "number") for type in types}
    return types - {"null"} if way == UP else types


# The tests


@pytest.mark.parametrize("way", CODE)
def test_the_document_has_the_messages_of_the_code(way):
    assert DOCUMENTED[way].keys() == CODE[way].keys()


@pytest.mark.parametrize("way", CODE)
def test_the_page_has_the_messages_of_the_code(way):
    assert ON_THE_PAGE[way].keys() == CODE[way].keys()


@pytest.mark.parametrize(("way", "name"), MESSAGES)
def test_a_message_has_the_fields_in_the_document_that_it_has_in_the_code(way, name):
    assert documented(DOCUMENTED[way][name]) == CODE[way][name]


@pytest.mark.parametrize(("way", "name"), MESSAGES)
def test_a_message_has_the_fields_on_the_page_that_it_has_in_the_code(way, name):
    assert ON_THE_PAGE[way][name].keys() == CODE[way][name].keys()


@pytest.mark.parametrize(("way", "name"), MESSAGES)
def test_a_field_has_the_types_on_the_page_that_it_has_in_the_code(way, name):
    code = {field: as_typescript(way, of.types) for field, of in CODE[way][name].items()}
    page = {field: as_typescript(way, of.types) for field, of in ON_THE_PAGE[way][name].items()}
    for field, types in page.items():
        if code[field] == {"array"}:  # of anything
            page[field] = {type.split(" of ")[0] for type in types}
    assert page == code


@pytest.mark.parametrize(("way", "name"), MESSAGES)
def test_a_field_is_optional_on_the_page_if_it_is_in_the_code(way, name):
    code = {field for field, of in CODE[way][name].items() if of.optional}
    page = {field for field, of in ON_THE_PAGE[way][name].items() if of.optional}
    always, dispensable = ALWAYS_SENT.get((way, name), set()), DISPENSABLE.get((way, name), set())
    assert always <= code and not dispensable & code
    assert page == code - always | dispensable


def test_what_the_page_insists_on_is_always_sent_with_that_type():
    insists = re.search(r"const REQUIRED\b.*?= \{\n(.*?)^\};", SOURCE, re.MULTILINE | re.DOTALL)[1]
    for name, fields in re.findall(r"(\w+): \{(.*?)\}", insists):
        for field, type in re.findall(r"(\w+): '(\w+)'", fields):
            sent = ON_THE_PAGE[DOWN][name][field]
            assert not sent.optional
            assert {"string" if '"' in one else one for one in sent.types} == {type}


def test_the_three_agree_on_the_version_and_the_target():
    assert DOCUMENT.startswith(f"# The wire protocol, version {protocol.PROTOCOL}\n")
    assert f"PROTOCOL = {protocol.PROTOCOL};" in SOURCE
    assert f"target name `{channel.TARGET}`" in DOCUMENT
    assert f"TARGET = '{channel.TARGET}';" in SOURCE


def test_the_documented_channels_are_those_of_the_code():
    rows = table(PARTS["Opening the comm"])
    assert [row["channel"].strip("`") for row in rows] == list(get_args(protocol.Channel))


def test_the_reasons_of_the_protocol_are_those_that_are_given():
    package = ROOT / "jupyter_sc2"
    givers = [*(package / "pipeline").glob("*.py"), package / "extension.py"]
    given = (reasons_in(path) for path in givers)
    assert set(get_args(protocol.Reason)) == set().union(*given)


def reasons_in(path: Path) -> set[str]:
    """The texts that a module says for a `reason`, or returns where it is asked for one."""
    given = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        match node:
            case ast.keyword(arg="reason", value=value):
                given.append(value)
            case ast.Assign(targets=targets, value=value):
                names = (one for target in targets for one in ast.walk(target))
                if any(isinstance(one, ast.Name) and one.id == "reason" for one in names):
                    given.append(value)
            case ast.FunctionDef(name="hopeless" | "refusal"):
                given += [one.value for one in ast.walk(node) if isinstance(one, ast.Return)]
    texts = [one for value in given if value for one in ast.walk(value)]
    words = {one.value for one in texts if isinstance(one, ast.Constant)}
    return words - {None, "stop"}  # a finish_reason that is set on the same line


def test_the_page_says_each_reason_in_words():
    words = without_comments((PAGE / "ui" / "status-text.ts").read_text("utf-8"))
    said = re.search(r"const REASONS\b.*?= \{\n(.*?)^\};", words, re.MULTILINE | re.DOTALL)[1]
    # What was cancelled is not waited for any more.
    assert {*re.findall(r"^  (\w+):", said, re.M), "cancelled"} == set(get_args(protocol.Reason))


def test_the_documented_limits_are_those_of_the_code():
    assert [int(row["value"]) for row in table(PARTS["Values"].split("### Limits")[1])] == [
        channel.MAX_FRONT_ENDS,
        request_queue.MAX_WAITING,
        request_queue.MAX_WAITING_IN_ALL,
        round(request_queue.MAX_WAIT_S),
        protocol.MAX_QUOTE_CHARS,
        protocol.MAX_MESSAGE_CHARS,
        notebook.MAX_OUTPUT_CHARS,
        round(channel.PROGRESS_INTERVAL_S * 1000),
        round(candidate.UPDATE_INTERVAL_S * 1000),
    ]


def test_the_documented_conversation_is_in_this_protocol():
    said = re.search(r"```text\n(.*?)```", DOCUMENT, re.DOTALL)[1]
    lines = re.sub(r"^#.*\n", "", said, flags=re.MULTILINE)
    _, *parts = re.split(r"^(up|down) ", lines, flags=re.MULTILINE)
    asked = set()
    for way, text in zip(parts[::2], parts[1::2], strict=True):
        message = json.loads(text)
        if way == UP:
            assert CODE[UP][message["type"]].keys() | {"type"} >= message.keys()
            asked.add(type(protocol.parse(message)))
        else:
            assert msgspec.to_builtins(msgspec.convert(message, protocol.DownMessage)) == message
    assert asked == set(get_args(protocol.UpMessage))


def test_a_value_of_a_class_of_its_own_is_sent_as_json_has_it():
    class Share(float):
        """As numpy's float64 is one."""

    sent = protocol.settings({"temperature": Share(0.5)})
    assert json.dumps(sent) == '{"type": "settings", "settings": {"temperature": 0.5}}'
    assert type(sent["settings"]["temperature"]) is float

"""What is told to a model of names and values, and what is not."""

import dataclasses
import re
import sys
from collections import namedtuple

import pytest

from jupyter_sc2.introspection import secrets
from jupyter_sc2.introspection.rendering import describe
from jupyter_sc2.introspection.variables import describe_name
from jupyter_sc2.kernel.namespace import last_error
from jupyter_sc2.notebook import Cell
from jupyter_sc2.prompt.cell_text import output_text

# With `context_values`: the name and the value of a variable that the model reads.
TOLD = [
    # Names that have only letters in common with a secret's
    *[
        (name, "Ada")
        for name in ("tokenizer", "tokenizers", "tokenized", "detokenize", "tokenization")
    ],
    *[
        (name, "Ada")
        for name in ("monkey", "monkeys", "donkey", "turkey", "hockeyTeams", "whiskey")
    ],
    *[(name, "Ada") for name in ("author", "author_names", "authorNames", "AUTHORS", "coauthors")],
    *[
        (name, "Ada")
        for name in ("keyboard", "keyword", "keywords", "keynote", "keypoints", "hotkey")
    ],
    *[
        (name, "Ada")
        for name in ("passenger", "passengers", "compass", "bypass", "passed", "passport")
    ],
    *[(name, "Ada") for name in ("compass_width", "bypass_weights", "low_pass", "second_pass")],
    *[
        (name, "Ada")
        for name in ("secretary", "secretaries", "secretion", "authority", "authentic")
    ],
    *[(name, "Ada") for name in ("pinned", "spin", "pineapple", "opinion", "cookiecutter")],
    *[(name, "Ada") for name in ("connect", "connection", "second", "session", "lesson", "mask")],
    # Words with several meanings, in an ordinary one
    ("cookies_sold", 12),
    ("cookie_recipe", "oats"),
    ("max_tokens", 64),
    ("n_tokens", 512),
    ("numTokens", 512),
    ("token_count", 3),
    ("tokens_per_second", 7.5),
    ("pad_token", "<pad>"),
    ("primary_key", "id"),
    ("sort_key", "age"),
    ("key_columns", ["id", "day"]),
    ("pass_rate", 0.9),
    ("led_pin", 13),
    # Values that are long or full of signs, but ordinary
    *[
        ("x", value)
        for value in (
            "/home/bob/data/v2.csv",
            "C:\\data\\2021\\a.csv",
            "2021-03-04T12:33:12Z",
            "20210304T123312Z",
            "2021-03-04_12-33-12_run",
            "ACGTACGTTAGCATCGATCG",
            "Handschuhschneeballwerf",
            "camelCaseOfManyWords",
            "sk-learn",
            "hf_tokenizer",
            "http://h:8080/a?b=1",
            "http://h:80/@user",
            "git@github.com:a/b.git",
            "ssh://git@github.com/x",
            "+49 30 1234567",
            "3.14159265358979",
            "978-3-16-148410-0",
            "ENSG00000139618",
            "CC(=O)OC1=CC=CC=C1C(=O)O",
            "%Y-%m-%d %H:%M:%S",
            "b.smith@example.org",
            "mailto:bob99@h.org",
            "10.0.0.1:8080",
            "x=1&y=2",
            "r^2 = 0.98, p < 0.05",
            "bearer of news",
            "Basic training",
            "the key to success",
            "#ff8800",
            "resnet50-imagenet-v2",
            "s3://bucket/2021/a.csv",
            "1234567890123",
            "a7f3c2d",
        )
    ],
]
# The same of what the model must not read.
NOT_TOLD = [
    *[
        (name, "hunter6")
        for name in (
            *(
                "pwd",
                "pw",
                "PW",
                "db_pwd",
                "userPwd",
                "pwd2",
                "password",
                "passwords",
                "PGPASSWORD",
            ),
            *("pass_word", "passwd", "passphrase", "db_pass", "smtpPass", "dbpass", "passcode"),
            *("pin", "PIN", "card_pin", "pin_code", "my_pin", "ssn", "user_ssn", "cvv", "otp"),
            *("cookie", "cookies", "session_cookie", "conn", "db_conn", "conn_str", "dsn"),
            *("api_key", "apiKey", "APIKEY", "api_keys", "key", "stripe_key", "openai_key_2"),
            *("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "private_key", "ssh_key", "signingKey"),
            *("auth", "auth_header", "authToken", "oauth", "OAuth2Token", "authorization"),
            *("token", "tokens", "token_github", "csrftoken", "XSRF_TOKEN", "jwt", "bearer"),
            *(
                "secret",
                "client_secret",
                "mySecret",
                "credentials",
                "creds",
                "session_id",
                "JSESSIONID",
            ),
            *("card_number", "creditCard", "social_security_number", "connection_string"),
        )
    ],
    ("pin", 1234),
    ("ssn", 123456789),
    *[
        ("x", value)
        for value in (
            "pg://b:s3cr@h",
            "redis://:pw@h:6379/0",
            "bob:s3cr@h.org",
            "https://tok123@h.org/x",
            "https://b:p/ss@h.org/x",
            "https://h/x?token=abc",
            "https://h/?a=1&api_key=9",
            "https://h/?sig=abc%3D",
            "AKIAIOSFODNN7EXAMPLE",
            "ghp_abcd1234",
            "gho_abcd1234",
            "github_pat_11ABCD",
            "glpat-abcd1234",
            "xoxb-1234-abcd",
            "sk-abc123",
            "sk-proj-abcd",
            "sk_live_abcd1234",
            "hf_AbCdEfGhIjKl",
            "AIzaSyD-abcd",
            "eyJhbGciOiJI",
            "-----BEGIN PRIVATE KEY",
            "Bearer abc123",
            "Basic dXNlcjpwYXNz",
            "AccountKey=abc==",
            "npm_a1b2c3d4e5",
            "pypi-AgEIcHlwaS5",
            "SG.abc123DEF456",
            "dop_v1_abcd1234",
            "4111 1111 1111 1111",
            "4111-1111-1111-1111",
            "5500000000000004",
            "378282246310005",
            "123-45-6789",
            "Uid=b;Pwd=s3cr",
            "password: hunter2",
            '{"token": "abc"}',
            "db --password hunter2",
            "x7f9k2m4q8w1z5c3",
            "JBSWY3DPEHPK3PXP",
            "aGvQxWmTzLpKrYbNdFhC",
            "Tr0ub4dor&3",
        )
    ],
]


def told(name: str, value: object, *, values: bool = True) -> str:
    variable = describe_name({name: value}, name, values=values)
    return describe([variable]) if variable else ""


def shown(value: object) -> str:
    return ", ".join(map(repr, value)) if isinstance(value, list) else repr(value)


def test_the_table_has_sixty_rows_of_each_kind():
    assert len(set(map(str, TOLD))) >= 60 and len(set(map(str, NOT_TOLD))) >= 60


@pytest.mark.parametrize(("name", "value"), TOLD)
def test_what_is_ordinary_is_told(name, value):
    assert shown(value) in told(name, value)


@pytest.mark.parametrize(("name", "value"), NOT_TOLD)
def test_a_secret_is_not_told(name, value):
    assert shown(value) not in told(name, value)


# Wherever it stands

SECRETS = [value for name, value in NOT_TOLD if name == "x"]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_no_key_no_default_and_no_part_of_a_message(secret):
    def connect(user="Bob", where=secret):
        """Connects."""

    told_of = [
        told("options", {secret: 1, "age": 2}),
        told("connect", connect),
        told("error", ValueError(f"no answer from {secret}")),
        told("items", ["Ada", secret]),
        told("Pair", dataclasses.make_dataclass("Pair", [("left", str, secret)])),
    ]
    assert not [line for line in told_of if secret in line]
    assert "'age'" in told_of[0] and "user='Bob'" in told_of[1]


@dataclasses.dataclass
class Config:
    host: str = "localhost"
    password: str = "hunter2"
    retries: int = 3


def connect(user="bob", pw="hunter6", url="pg://b:s3cr@h", retries=3, *, mode="fast"):
    pass


def test_without_values_no_string_that_is_a_default_is_told():
    assert told("connect", connect, values=False) == (
        "# connect(user=…, pw=…, url=…, retries=3, *, mode=…): function\n"
    )


def test_with_values_the_defaults_are_told_that_are_no_secrets():
    assert told("connect", connect) == (
        "# connect(user='bob', pw=…, url=…, retries=3, *, mode='fast'): function\n"
    )


def test_the_signature_that_a_dataclass_has_for_a_docstring_is_not_told():
    assert "hunter2" in Config.__doc__
    assert told("Config", Config, values=False) == (
        "# Config: class (host=…, password=…, retries=3), fields host, retries\n"
    )
    assert told("Config", Config) == (
        "# Config: class (host='localhost', password=…, retries=3), fields host, retries\n"
    )


def test_a_docstring_with_a_secret_is_not_told():
    def login():
        """Logs in with password=hunter2."""

    assert told("login", login) == "# login(): function\n"


def test_a_number_too_large_to_be_written_is_no_default_that_is_told():
    def f(a=10**5000, b=2):
        pass

    assert told("f", f) == "# f(a=…, b=2): function\n"


def test_fields_that_are_called_like_secrets_are_not_told():
    Login = namedtuple("Login", "user pwd api_key")
    assert told("login", Login("bob", "hunter2", "x")) == "# login: Login fields user\n"
    assert told("config", Config()) == "# config: Config fields host, retries\n"


def test_fields_of_pydantic_and_attrs_are_as_those_of_dataclasses():
    pydantic = pytest.importorskip("pydantic")

    class Login(pydantic.BaseModel):
        user: str = "bob"
        pwd: str = "hunter2"

    assert told("Login", Login).endswith("fields user\n")
    assert told("login", Login()) == "# login: Login fields user\n"


def test_a_class_of_attrs_tells_no_default_that_is_a_secret():
    attrs = pytest.importorskip("attrs")
    Login = attrs.make_class(
        "Login", {"user": attrs.field(default="bob"), "pwd": attrs.field(default="hunter2")}
    )
    assert "hunter2" not in told("Login", Login) and "user='bob'" in told("Login", Login)


def test_a_key_that_is_a_card_number_is_not_told():
    assert told("owners", {4111111111111111: "Ada", 7: "Bob"}, values=False).startswith(
        "# owners: dict 7"
    )


def test_beside_a_value_that_names_a_secret_nothing_is_told():
    assert told("row", ["password", "hunter2"]) == "# row: list of 2 str\n"


def test_a_name_that_is_a_secret_itself_is_not_told():
    assert told("ghp_abcd1234", 3) == told("AKIAIOSFODNN7EXAMPLE", [1]) == ""


# Tables


def test_columns_that_are_called_like_secrets_are_not_told():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"tokenizer": ["bpe"], "pwd": ["hunter2"], "AKIAIOSFODNN7EXAMPLE": ["x"]})
    assert re.fullmatch(
        r"# frame: DataFrame \(1, 3\) \w+ tokenizer e.g. tokenizer='bpe'\n", told("frame", frame)
    )


def test_a_row_that_names_a_secret_is_not_told():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"setting": ["password"], "value": ["hunter2"]})
    assert "hunter2" not in told("frame", frame)


def test_the_name_of_a_series_may_be_a_secret():
    pd = pytest.importorskip("pandas")
    assert "ghp_" not in told("s", pd.Series([1], name="ghp_abcd1234"))
    assert "'age'" in told("s", pd.Series([1], name="age"))


def test_fill_values_are_not_told():
    pd = pytest.importorskip("pandas")
    array = pd.arrays.SparseArray(["hunter2", "a"], fill_value="hunter2", dtype="Sparse[object]")
    assert told("s", pd.Series(array)) == "# s: Series (2,) Sparse[object]\n"
    assert (
        told("t", pd.DataFrame({"a": array}), values=False)
        == "# t: DataFrame (2, 1) Sparse[object] a\n"
    )


def test_categories_are_not_told():
    pd = pytest.importorskip("pandas")
    assert told("s", pd.Series(["Ada"], dtype="category")) == "# s: Series (1,) category\n"


def test_categories_of_polars_are_not_told():
    pl = pytest.importorskip("polars")
    names = pl.Enum(["Ada", "Bob) [x"])
    schema = {"name": names, "names": pl.List(names), "pwd": pl.String, "age": pl.Int64}
    frame = pl.DataFrame(
        {"name": ["Ada"], "names": [["Ada"]], "pwd": ["x"], "age": [1]}, schema=schema
    )
    assert told("t", frame) == "# t: DataFrame (1, 4) Enum name; List names; Int64 age\n"


def test_the_fields_of_a_column_that_are_called_like_secrets_are_not_told():
    pa = pytest.importorskip("pyarrow")
    column = pa.array([{"pwd": "x"}])
    assert told("t", pa.table({"login": column})) == "# t: Table (1, 1) struct login\n"
    assert "list<" in told("t", pa.table({"ages": pa.array([[1]])}))


def test_fields_of_an_array_that_are_called_like_secrets_are_not_told():
    np = pytest.importorskip("numpy")
    assert (
        told("a", np.zeros(2, [("age", "i4"), ("pin", "i4")])) == "# a: ndarray (2,) fields age\n"
    )


def test_arrays_of_a_dataset_that_are_called_like_secrets_are_not_told():
    xr = pytest.importorskip("xarray")
    data = xr.Dataset(
        {"t": ("ghp_abcd1234", [1.0]), "pwd": ("x", [1.0])}, coords={"pin": ("x", [3])}
    )
    assert told("d", data) == "# d: Dataset t(1) float64; coordinates\n"


# Errors and outputs


class Failed:
    last_execution_succeeded = False


@pytest.fixture
def failing(monkeypatch):
    def fail(error: BaseException, *, values: bool) -> str:
        monkeypatch.setattr(sys, "last_value", error, raising=False)
        monkeypatch.setattr(sys, "last_traceback", None, raising=False)
        found = last_error(Failed(), values=values)
        return describe([found]) if found else ""

    return fail


def test_the_message_of_an_error_is_a_value(failing):
    error = ValueError("no patient called Ada")
    assert failing(error, values=False) == "# last error: ValueError\n"
    assert failing(error, values=True) == "# last error: ValueError no patient called Ada\n"


@pytest.mark.parametrize("message", [*SECRETS, "bad token abc", "wrong pwd for bob"])
def test_an_error_whose_message_may_tell_a_secret_is_not_told(failing, message):
    assert failing(RuntimeError(message), values=True) == ""


def test_a_secret_that_a_long_message_would_be_cut_in_is_not_told_in_part(failing):
    assert failing(OSError("x" * 60 + " postgresql://bob:s3cr@h"), values=True) == ""


def test_lines_of_outputs_with_a_secret_in_them_are_not_read():
    cell = Cell(id="1", source="x", outputs=("age 3\npg://bob:s3cr@h\nfare 2",))
    assert output_text(cell, comment=False) == "age 3\n…\nfare 2\n\n"


# What it costs


def test_a_text_of_more_than_two_thousand_characters_counts_as_a_secret():
    assert not secrets.in_text("word " * 400) and secrets.in_text("word " * 401)


class Str(str):
    def __getattribute__(self, name):
        raise AssertionError(f"ran {name}")

    __eq__ = __hash__ = __len__ = __str__ = __repr__ = __getattribute__


def test_a_string_of_a_class_of_the_users_is_judged_without_its_code():
    assert secrets.in_value(Str("a"))
    assert secrets.tells(Str("a")) and not secrets.tells(Str("pwd"))
    assert told("x", Str("Ada")) == "# x: Str\n"

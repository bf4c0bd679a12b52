"""The command line reads the settings of a kernel: c.SC2.… in the config files of the IPython profile."""

import json
from argparse import Namespace

import pytest

from jupyter_sc2 import cli
from jupyter_sc2.cli import complete, plan, serve
from jupyter_sc2.cli import options as cli_options
from jupyter_sc2.options import CompletionOptions, LoadOptions
from jupyter_sc2.types import SamplingParams


@pytest.fixture(autouse=True)
def profile(tmp_path, monkeypatch):
    """The folder of the default profile."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setattr("IPython.core.application.ENV_CONFIG_DIRS", [str(tmp_path / "env")])
    monkeypatch.setattr("IPython.core.application.SYSTEM_CONFIG_DIRS", [str(tmp_path / "system")])
    folder = tmp_path / "ipython" / "profile_default"
    for one in (folder, tmp_path / "env", tmp_path / "system"):
        one.mkdir(parents=True)
    return folder


def write(file, **settings):
    if file.suffix == ".json":
        file.write_text(json.dumps({"SC2": settings}))
    else:
        file.write_text("".join(f"c.SC2.{name} = {value!r}\n" for name, value in settings.items()))


@pytest.fixture
def arguments(monkeypatch):
    """The arguments that a command would run with."""

    def arguments(*argv) -> Namespace:
        seen = []
        for module, name in ((complete, "_complete"), (plan, "_plan"), (serve, "_serve")):
            monkeypatch.setattr(module, name, lambda args: seen.append(args))
        assert cli.main([str(one) for one in argv]) == 0
        return seen[0]

    return arguments


def test_without_config_files_the_defaults_are_the_commands_own(arguments):
    args = arguments("complete", "a.py")
    assert cli_options.load_options(args) == LoadOptions()
    assert complete._completion_options(args, SamplingParams()) == CompletionOptions()
    args = arguments("plan")
    assert (args.model, args.engine, args.precision) == ("starcoder2-3b", "auto", "auto")
    assert plan._prompt_tokens(args.configured) == 2048
    assert arguments("serve").model == "embedded"


@pytest.mark.parametrize("name", ["ipython_config", "ipython_kernel_config"])
@pytest.mark.parametrize("ending", [".py", ".json"])
def test_the_models_options_default_to_the_config_of_the_profile(arguments, profile, name, ending):
    settings = {
        "model": "starcoder2-7b",
        "engine": "llamacpp",
        "precision": "Q4_K_M",
        "server": "http://localhost:8000",
        "threads": 3,
        "offline": True,
    }
    write(profile / f"{name}{ending}", **settings)
    assert cli_options.load_options(arguments("complete", "a.py")) == LoadOptions(**settings)


def test_what_is_given_counts_more_than_the_config(arguments, profile):
    write(profile / "ipython_config.py", model="starcoder2-7b", offline=True, threads=3)
    args = arguments(*("complete", "a.py", "--model", "embedded", "--no-offline", "--threads", 0))
    assert (args.model, args.offline, args.threads) == ("embedded", False, 0)


def test_the_profile_counts_more_than_the_environment_and_that_more_than_the_system(
    arguments, profile, tmp_path
):
    write(tmp_path / "system" / "ipython_config.py", threads=1, model="starcoder2-3b", seed=1)
    write(tmp_path / "env" / "ipython_config.py", threads=2, model="starcoder2-7b")
    write(profile / "ipython_config.py", threads=3)
    args = arguments("complete", "a.py")
    assert (args.threads, args.model, args.seed) == (3, "starcoder2-7b", 1)


def test_saved_settings_count_more_than_the_config_file_beside_them(arguments, profile):
    write(profile / "ipython_config.py", model="starcoder2-3b")
    write(profile / "ipython_config.json", model="starcoder2-7b")
    assert arguments("plan").model == "starcoder2-7b"


def test_a_config_for_kernels_counts_more_than_that_of_ipython(arguments, profile, tmp_path):
    write(profile / "ipython_config.json", model="starcoder2-3b")
    write(tmp_path / "system" / "ipython_kernel_config.py", model="starcoder2-7b")
    assert arguments("plan").model == "starcoder2-7b"


def test_a_completion_has_all_the_settings_of_a_kernel(arguments, profile):
    write(
        profile / "ipython_config.py",
        max_tokens=7,
        temperature=0.5,
        top_k=5,
        top_p=0.9,
        context_tokens=512,
        context_markdown=False,
        grounding=False,
        attribution="off",
    )
    args = arguments("complete", "a.py")
    sampling = SamplingParams(max_tokens=args.max_tokens, temperature=args.temperature)
    options = complete._completion_options(args, sampling)
    assert options.sampling == SamplingParams(max_tokens=7, temperature=0.5, top_k=5, top_p=0.9)
    assert (options.context_tokens, options.grounding, options.attribution) == (512, False, "off")
    assert options.excluded_sources == {"outputs", "markdown"}


def test_plan_is_of_the_configured_model_for_the_prompts_of_a_kernel(arguments, profile):
    write(profile / "ipython_config.py", model="starcoder2-7b", context_tokens=4096)
    args = arguments("plan")
    assert (args.model, plan._prompt_tokens(args.configured)) == ("starcoder2-7b", 4096 + 64)


def test_serve_takes_no_precision_that_it_does_not_offer(arguments, profile):
    write(profile / "ipython_config.py", precision="4bit")
    assert arguments("serve").precision == "auto"
    write(profile / "ipython_config.py", precision="Q8_0")
    assert arguments("serve").precision == "Q8_0"


def test_no_config_ignores_the_profile(arguments, profile):
    (profile / "ipython_config.py").write_text("c.SC2.model = 'starcoder2-7b'\n1 / 0\n")
    assert arguments("plan", "--no-config").model == "starcoder2-3b"


@pytest.mark.parametrize("name", ["mine.py", "mine.json"])
def test_a_config_file_that_is_named_counts_instead_of_the_profile(
    arguments, profile, tmp_path, name
):
    write(profile / "ipython_config.py", model="starcoder2-7b", threads=3)
    write(tmp_path / name, model="codegemma-2b")
    args = arguments("complete", "a.py", "--config", tmp_path / name)
    assert (args.model, args.threads) == ("codegemma-2b", 0)


def test_a_name_of_a_servers_model_is_accepted_in_any_order(arguments, profile):
    write(profile / "ipython_config.py", model="my-own-coder", server="http://localhost:8000")
    assert arguments("complete", "a.py").model == "my-own-coder"


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("ipython_config.py", "c.SC2.temperature = 5", "temperature cannot be 5: it must lie"),
        ("ipython_config.py", "c.SC2.colour = 'red'", "There is no setting named 'colour'."),
        ("ipython_config.py", "c.SC2.model = 'starcoder2-3x'", "Did you mean starcoder2-3b?"),
        ("ipython_config.py", "1 / 0", "fails (ZeroDivisionError: division by zero)"),
        ("ipython_config.py", "def", "fails (SyntaxError: "),
        ("ipython_config.py", "raise SystemExit", "fails (SystemExit)"),
        ("ipython_config.py", "open('/no/file')", "fails (FileNotFoundError: "),
        ("ipython_config.json", "{", "fails (JSONDecodeError: "),
        ("ipython_config.json", '{"SC2": 3}', "sets SC2 to 3, which is not a table"),
    ],
)
def test_a_config_that_cannot_be_used_is_one_line(profile, capsys, name, text, line):
    (profile / name).write_text(text)
    assert cli.main(["plan"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("jupyter sc2: ") and line in err and str(profile / name) in err


def test_a_config_file_that_is_not_there_is_one_line(tmp_path, capsys):
    assert cli.main(["plan", "--config", str(tmp_path / "none.py")]) == 1
    assert capsys.readouterr().err == (
        f"jupyter sc2: There is no config file {tmp_path / 'none.py'}.\n"
    )


def test_what_a_config_file_prints_does_not_reach_stdout(arguments, profile, capsys):
    (profile / "ipython_config.py").write_text("print('hello')")
    arguments("complete", "a.py", "--json")
    assert capsys.readouterr() == ("", "hello\n")


def test_nothing_is_completed_where_the_config_forbids_it(profile, tmp_path, capsys):
    write(profile / "ipython_config.py", allowed=False)
    file = tmp_path / "a.py"
    file.write_text("x = ")
    assert cli.main(["complete", str(file)]) == 1
    assert "forbids completion (SC2.allowed)" in capsys.readouterr().err


def test_a_command_without_settings_reads_no_config(profile, capsys):
    (profile / "ipython_config.py").write_text("1 / 0")
    assert cli.main(["models"]) == 0

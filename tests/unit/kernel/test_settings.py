import json

import pytest

from jupyter_sc2.errors import SettingsError
from jupyter_sc2.pipeline.candidate import sampling_for_candidate
from jupyter_sc2.settings import SC2
from jupyter_sc2.types import SamplingParams
from tests.support.paths import ROOT


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", "5", "temperature cannot be '5': it must lie between 0.0 and 2.0."),
        ("precision", "3bit", "it must be one of auto, fp32, bf16,"),
        ("max_tokens", "many", "max_tokens cannot be 'many': it must lie between 1 and 1024."),
        (
            "colour",
            "red",
            "There is no setting named 'colour'. Settings are: mode, after_enter, model",
        ),
    ],
)
def test_a_bad_value_is_refused_in_one_line(name, value, message):
    with pytest.raises(SettingsError) as error:
        SC2().set(name, value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_refused_value_leaves_the_old_one():
    settings = SC2(temperature=0.5)
    with pytest.raises(SettingsError):
        settings.set("temperature", "5")
    assert settings.temperature == 0.5


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [("seed", "None", None), ("prose", "true", True), ("top_k", "7", 7)],
)
def test_text_is_read_as_the_type_of_the_setting(name, text, value):
    settings = SC2(seed=3)
    settings.set(name, text)
    assert getattr(settings, name) == value


def test_the_options_handed_down_hold_what_was_set():
    settings = SC2(max_tokens=7, temperature=0.3, context_tokens=512)
    options = settings.completion_options()
    assert (options.sampling.max_tokens, options.sampling.temperature, options.context_tokens) == (
        7,
        0.3,
        512,
    )


def test_every_setting_has_a_help_text():
    assert all(trait.help for trait in SC2.settings().values())


@pytest.mark.parametrize("name", ["temperature", "top_p"])
def test_not_a_number_is_refused(name):
    with pytest.raises(SettingsError, match=f"{name} cannot be"):
        SC2().set(name, float("nan"))


def test_a_misspelt_model_is_refused_where_it_is_set():
    with pytest.raises(SettingsError, match=r"Did you mean starcoder2-3b\?"):
        SC2().set("model", "starcoder2-3x")


def test_the_readme_lists_every_setting_with_its_default_and_help():
    readme = (ROOT / "README.md").read_text("utf-8")
    for name, trait in SC2.settings().items():
        assert f"| `{name}` | `{trait.default_value!r}` | {trait.help} |" in readme


def test_any_name_of_a_model_will_do_where_a_server_is_asked():
    settings = SC2(server="http://127.0.0.1:8000")
    settings.set("model", "my-own-coder")
    assert settings.model == "my-own-coder"


@pytest.mark.parametrize(("ours", "theirs"), [("mode", "mode"), ("after_enter", "afterEnter")])
def test_jupyterlabs_settings_offer_the_same_choices(ours, theirs):
    root = ROOT
    schema = json.loads((root / "labextension/schema/plugin.json").read_text("utf-8"))
    offered, trait = schema["properties"][theirs], SC2.settings()[ours]
    assert {choice["const"] for choice in offered["oneOf"]} == set(trait.values)
    assert offered["default"] == trait.default_value


@pytest.mark.parametrize("seed", [2**64, 2**63, -1])
def test_a_seed_that_no_engine_can_draw_with_is_refused(seed):
    with pytest.raises(SettingsError, match="seed"):
        SC2().set("seed", seed)
    with pytest.raises(SettingsError, match="seed must lie between 0 and"):
        SamplingParams(seed=seed)


def test_the_candidates_of_the_largest_seed_can_be_drawn():
    largest = SC2(seed=2**63 - 1).completion_options().sampling
    assert [sampling_for_candidate(largest, attempt).seed for attempt in range(3)] == [
        2**63 - 1,
        0,
        1,
    ]

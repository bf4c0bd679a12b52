"""Whoever sets a setting, there is one value for it."""

import pytest

from jupyter_sc2.errors import SettingsError
from jupyter_sc2.kernel.settings_sync import SettingsSync
from jupyter_sc2.settings import SC2


@pytest.fixture
def settings():
    return SC2(max_tokens=20)  # as a config file has it


@pytest.fixture
def shared(settings):
    return SettingsSync(settings)


def test_a_front_ends_values_are_set_and_what_it_does_not_name_stays(shared, settings):
    shared.apply_lab_settings({"top_k": 5})
    assert (settings.top_k, settings.max_tokens) == (5, 20)


def test_what_was_set_before_the_front_end_came_stays(shared, settings):
    settings.max_tokens = 30
    shared.apply_lab_settings({"max_tokens": 40, "top_k": 5})
    assert (settings.max_tokens, settings.top_k) == (30, 5)


def test_what_was_set_since_stays_when_the_front_end_says_the_same_again(shared, settings):
    shared.apply_lab_settings({"max_tokens": 40})
    settings.max_tokens = 30
    shared.apply_lab_settings({"max_tokens": 40})
    assert settings.max_tokens == 30


def test_what_is_changed_in_the_front_end_counts_again(shared, settings):
    settings.max_tokens = 30
    shared.apply_lab_settings({"max_tokens": 40})
    shared.apply_lab_settings({"max_tokens": 50})
    assert settings.max_tokens == 50


def test_what_is_new_in_the_front_end_counts(shared, settings):
    settings.max_tokens = 30
    shared.apply_lab_settings({})
    shared.apply_lab_settings({"max_tokens": 50})
    assert settings.max_tokens == 50


def test_what_the_front_end_takes_back_is_as_the_config_file_has_it(shared, settings):
    shared.apply_lab_settings({"max_tokens": 40, "mode": "off"})
    shared.apply_lab_settings({})
    assert (settings.max_tokens, settings.mode) == (20, "automatic")


def test_one_value_that_is_refused_keeps_no_other_away(shared, settings):
    with pytest.raises(SettingsError) as error:
        shared.apply_lab_settings({"top_k": -1, "mode": "off"})
    assert "JupyterLab's settings: top_k cannot be -1" in str(error.value)
    assert "\n" not in str(error.value)
    assert (settings.top_k, settings.mode) == (0, "off")
    shared.apply_lab_settings({"mode": "off"})  # taking it out is no mistake


def test_a_servers_model_may_have_any_name_whatever_else_is_refused(shared, settings):
    with pytest.raises(SettingsError, match="top_k"):
        shared.apply_lab_settings(
            {"model": "my-own-coder", "server": "http://127.0.0.1:8000", "top_k": -1}
        )
    assert settings.model == "my-own-coder"


def test_all_are_set_or_none_where_one_kernel_is_meant(shared, settings):
    with pytest.raises(SettingsError):
        shared.configure({"top_k": 5, "max_tokens": 0})
    assert (settings.top_k, settings.max_tokens) == (0, 20)


def test_forgetting_what_was_saved_changes_nothing_here(shared, settings):
    shared.apply_lab_settings({"max_tokens": 40})
    shared.forget()
    shared.apply_lab_settings({})
    assert settings.max_tokens == 40


def test_a_closed_one_notes_nothing(shared, settings):
    shared.close()
    settings.max_tokens = 30
    shared.apply_lab_settings({"max_tokens": 40})
    assert settings.max_tokens == 40

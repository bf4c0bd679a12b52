import pytest

from jupyter_sc2.errors import RequestError, SettingsError
from jupyter_sc2.types import CompletionRequest, SamplingParams


def test_the_offset_counts_code_points():
    request = CompletionRequest(text="x = '🎉'; y", offset=8)
    assert (request.prefix, request.suffix) == ("x = '🎉';", " y")


def test_an_offset_outside_the_text_is_refused():
    with pytest.raises(
        RequestError, match="The cursor \\(offset 4\\) lies outside the text, which has 3"
    ):
        CompletionRequest(text="abc", offset=4)


def test_lone_surrogates_are_replaced_one_for_one():
    assert CompletionRequest(text="a\ud83db", offset=2).prefix == "a\ufffd"


@pytest.mark.parametrize(
    "field",
    [{"max_tokens": 0}, {"temperature": -1.0}, {"temperature": 5.0}, {"top_k": -1}, {"top_p": 0.0}],
)
def test_sampling_params_out_of_range_are_refused(field):
    with pytest.raises(SettingsError, match=f"{next(iter(field))} must"):
        SamplingParams(**field)

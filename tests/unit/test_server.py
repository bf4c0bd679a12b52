"""The server tells the page a command that installs jupyter-sc2 from where its own copy came from."""

import json
from types import SimpleNamespace

import pytest

from jupyter_sc2.server import OPTION, _load_jupyter_server_extension, install_command

FROM_INDEX = "%pip install jupyter-sc2"


def test_a_copy_from_an_index_is_installed_from_the_index():
    assert install_command(None) == FROM_INDEX


@pytest.mark.parametrize("info", [{"dir_info": {}}, {"dir_info": {"editable": True}}])
def test_a_copy_from_a_folder_is_installed_from_the_folder(tmp_path, info):
    url = json.dumps({"url": tmp_path.as_uri(), **info})
    assert install_command(url) == f"%pip install {tmp_path}"


def test_a_copy_from_a_wheel_is_installed_from_the_wheel(tmp_path):
    wheel = tmp_path / "jupyter_sc2-0.1.0-py3-none-any.whl"
    wheel.touch()
    url = json.dumps({"url": wheel.as_uri(), "archive_info": {}})
    assert install_command(url) == f"%pip install {wheel}"


def test_a_path_with_blanks_is_quoted(tmp_path):
    folder = tmp_path / "my clones (old)"
    folder.mkdir()
    url = json.dumps({"url": folder.as_uri(), "dir_info": {}})
    assert install_command(url) == f'%pip install "{folder}"'


def test_a_wheel_on_the_web_and_a_repository_are_named_by_their_address():
    web = {"url": "https://example.org/jupyter_sc2-0.1.0-py3-none-any.whl", "archive_info": {}}
    assert install_command(json.dumps(web)) == f"%pip install {web['url']}"
    vcs = {"url": "https://example.org/sc2.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}
    command = install_command(json.dumps(vcs))
    assert command == "%pip install git+https://example.org/sc2.git@abc"


@pytest.mark.parametrize(
    "direct_url",
    [
        '{"url": "file:///gone/jupyter_sc2.whl", "archive_info": {}}',
        '{"url": "https://example.org/$HOME/{x}.whl"}',
        '{"url": 3}',
        '{"vcs_info": {"vcs": "git"}}',
        "[]",
        "no JSON",
    ],
)
def test_what_cannot_be_installed_again_is_taken_from_the_index(direct_url):
    assert install_command(direct_url).startswith("%pip install ")
    if "3" not in direct_url:
        assert install_command(direct_url) == FROM_INDEX


def test_the_page_gets_the_command_with_its_configuration():
    app = SimpleNamespace(settings={"page_config_data": {"other": "1"}})
    _load_jupyter_server_extension(SimpleNamespace(web_app=app))
    assert app.settings["page_config_data"]["other"] == "1"
    assert app.settings["page_config_data"][OPTION].startswith("%pip install ")

from pathlib import Path

import pytest

from scripts.release_check import main

CHANGELOG = """\
# Changelog

## Unreleased

## [0.2.0] - 2026-01-31

### Added
- Something.

```
## no heading
```

## 0.1.0

The first.

## 0.0.9 (unreleased)

- Nobody has it.

## 0.0.8
"""


@pytest.fixture
def release(tmp_path: Path, capsys):
    """The exit status and what was printed, for a version in package.json and the command's arguments."""

    def run(version: str, *argv: str, changelog: str | None = CHANGELOG) -> tuple[int, str]:
        (tmp_path / "labextension").mkdir()
        (tmp_path / "labextension/package.json").write_text(f'{{"version": "{version}"}}')
        if changelog is not None:
            (tmp_path / "CHANGELOG.md").write_text(changelog)
        status = main([*argv], tmp_path)
        printed = capsys.readouterr()
        return status, printed.err if status else printed.out

    return run


def test_a_tag_that_is_the_version_and_has_a_section_can_be_released(release):
    line = "v0.2.0 can be released: CHANGELOG.md has its section.\n"
    assert release("0.2.0", "v0.2.0") == (0, line)


def test_without_a_tag_the_version_is_looked_up(release):
    line = "v0.1.0 can be released: CHANGELOG.md has its section.\n"
    assert release("0.1.0") == (0, line)


def test_the_notes_are_the_section_without_its_heading(release):
    notes = "### Added\n- Something.\n\n```\n## no heading\n```\n"
    assert release("0.2.0", "--notes", "v0.2.0") == (0, notes)


def test_the_notes_of_a_version_end_where_the_one_before_begins(release):
    assert release("0.1.0", "--notes") == (0, "The first.\n")


@pytest.mark.parametrize(
    ("version", "tag", "problem"),
    [
        ("0.2.0", "v0.2.1", "The tag is v0.2.1, but labextension/package.json has the version"),
        ("0.2.0", "0.2.0", "The tag is 0.2.0, but labextension/package.json has the version"),
        ("0.2", "v0.2", "CHANGELOG.md has no section `## 0.2`."),
        ("0.2.0-rc.1", "v0.2.0-rc.1", "CHANGELOG.md has no section `## 0.2.0-rc.1`."),
        ("0.0.9", "v0.0.9", "CHANGELOG.md still calls 0.0.9 unreleased."),
        ("0.0.8", "v0.0.8", "The section of 0.0.8 in CHANGELOG.md is empty."),
    ],
)
def test_what_keeps_a_tag_from_being_released_is_one_line(release, version, tag, problem):
    status, line = release(version, tag)
    assert status == 1
    assert line.startswith(problem)
    assert line.count("\n") == 1


def test_a_section_of_a_pre_release_is_not_that_of_the_release(release):
    changelog = "## 0.2.0-rc.1\n\n- Nearly.\n"
    assert release("0.2.0", changelog=changelog)[0] == 1


def test_without_a_changelog_nothing_is_released(release):
    assert release("0.2.0", changelog=None) == (1, "There is no CHANGELOG.md.\n")

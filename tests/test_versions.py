import re
from pathlib import Path

import pytest

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.service.versions import TESTED, Package, installed_packages, require_versions

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("installed", "too_old", "untested"),
    [
        (None, True, False),
        ("6.9.9", True, False),
        ("5.99", True, False),
        ("6.31.0", False, False),
        ("6.33.7+cu130", False, False),
        ("6.33rc1", False, False),
        ("6.34.0", False, True),
        ("7", False, True),
        ("10.1", False, True),
    ],
)
def test_versions_are_compared_as_numbers(installed, too_old, untested):
    package = Package("gradio", installed, "6.31", "6.33")
    assert (package.too_old, package.untested) == (too_old, untested)


def test_what_is_installed_here_was_tested(caplog):
    require_versions()
    assert caplog.text == ""
    assert all(package.installed for package in installed_packages())


@pytest.mark.parametrize(("oldest", "newest", "fails"), [("99.0", "99.0", True), ("0.1", "0.2", False)])
def test_too_old_is_an_error_and_too_new_a_line_in_the_log(caplog, oldest, newest, fails):
    tested = {"gradio": (oldest, newest)}
    if fails:
        with pytest.raises(SettingsError, match=r"gradio \d.* is too old: 99.0 is needed"):
            require_versions(tested)
    else:
        require_versions(tested)
        assert "is newer than what was tested (0.2)" in caplog.text


def test_a_library_that_is_not_there():
    with pytest.raises(SettingsError, match=r"no-such-library is not installed.*scripts/setup"):
        require_versions({"no-such-library": ("1", "2")})


def test_the_newest_is_what_requirements_name():
    pins = dict(re.findall(r"^([\w.-]+)==([\d.]+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    assert {name: ".".join(pins[name].split(".")[:2]) for name in TESTED} == {
        name: newest for name, (_, newest) in TESTED.items()
    }

import argparse

import pytest

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.service.access import Access, access_from
from diffusers_helper.service.accounts import PasswordHash
from diffusers_helper.service.config import names_of
from diffusers_helper.service.options import add_settings, config_of


def parse(*argv):
    add_settings(parser := argparse.ArgumentParser(), names_of("access"))
    return config_of(parser.parse_args(argv))


@pytest.fixture
def users(tmp_path):
    file = tmp_path / "users"
    file.write_text(f"ann:{PasswordHash.of('correct horse', ln=4, p=1)}\n")
    return str(file)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1"])
def test_on_this_computer_nothing_is_needed(address):
    assert access_from(parse(), address) == Access()


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.1.7", "203.0.113.7", "fe80::1%eth0"])
def test_a_network_needs_users_or_a_word(address, users):
    with pytest.raises(SettingsError, match=r"--auth FILE.*--allow-anonymous"):
        access_from(parse(), address)
    assert access_from(parse("--allow-anonymous"), address).accounts is None
    assert access_from(parse("--auth", users), address).accounts.check("ann", "correct horse")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--host-name", "Video.Example.org"], Access(host_names=("video.example.org",))),
        (["--max-upload", "7"], Access(max_upload=7_000_000)),
        (["--root-path", "/framepack/"], Access(root_path="/framepack")),
        (
            ["--root-path", "https://example.org/fp"],
            Access(root_path="https://example.org/fp", host_names=("example.org",)),
        ),
        (["--forwarded-allow-ips", "10.1.2.3/8, ::1"], Access(trusted_proxies=("10.0.0.0/8", "::1/128"))),
        (["--forwarded-allow-ips", ""], Access(trusted_proxies=())),
    ],
)
def test_options(argv, expected):
    assert access_from(parse(*argv), "127.0.0.1") == expected


@pytest.mark.parametrize("argv", [["--root-path", "framepack"], ["--forwarded-allow-ips", "proxy.example.org"]])
def test_options_that_mean_nothing(argv):
    with pytest.raises(SettingsError, match=argv[0]):
        access_from(parse(*argv), "127.0.0.1")


def test_a_public_link_needs_users_or_a_word_too(users):
    with pytest.raises(SettingsError, match=r"--share.*--auth FILE.*--allow-anonymous"):
        access_from(parse("--share"), "127.0.0.1")
    assert access_from(parse("--share", "--allow-anonymous"), "127.0.0.1").accounts is None
    assert access_from(parse("--share", "--auth", users), "127.0.0.1").accounts.check("ann", "correct horse")


def test_sessions_last_half_a_day_or_as_long_as_one_says():
    assert access_from(parse(), "127.0.0.1").session_hours == 12
    assert access_from(parse("--session-hours", "0.5"), "127.0.0.1").session_hours == 0.5


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "inf", "9000", "x"])
def test_a_session_lasts_some_time(hours):
    with pytest.raises(SystemExit):
        parse("--session-hours", hours)


@pytest.mark.parametrize("size", ["0", "-1", "x"])
def test_an_upload_has_to_be_possible(size):
    with pytest.raises(SystemExit):
        parse("--max-upload", size)

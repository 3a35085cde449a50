import io
import time

import pytest

from diffusers_helper.commands.cli import main
from diffusers_helper.core.errors import SettingsError
from diffusers_helper.service import accounts
from diffusers_helper.service.accounts import Accounts, PasswordHash

QUICK = {"ln": 4, "p": 1}


@pytest.fixture
def known(tmp_path):
    file = tmp_path / "users"
    file.write_text(f"# who may\n\nann:{PasswordHash.of('correct horse', **QUICK)}\n")
    return Accounts.read(file)


@pytest.mark.parametrize(
    ("name", "password", "expected"),
    [
        ("ann", "correct horse", True),
        ("ann", "correct horse ", False),
        ("ann", "", False),
        ("ann", "\ud800\0", False),
        ("bob", "correct horse", False),
        ("", "", False),
        ("Ann", "correct horse", False),
    ],
)
def test_only_the_right_password_of_a_known_name_counts(known, name, password, expected):
    assert known.check(name, password) is expected


def test_the_hash_is_scrypts_of_rfc_7914():
    salt, digest = (
        b"NaCl",
        bytes.fromhex("fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b3731622eaf30d92e22a388"),
    )
    assert PasswordHash(salt, PasswordHash(salt, b"", 10, 8, 16)._digest_of("password"), 10).digest[:40] == digest


def test_a_hash_survives_its_text_and_never_repeats():
    hashed = PasswordHash.of("pass", **QUICK)
    assert PasswordHash.parse(str(hashed)) == hashed
    assert PasswordHash.of("pass", **QUICK) != hashed
    assert "pass" not in str(hashed)


def test_an_unknown_name_costs_as_much_as_a_wrong_password():
    known = Accounts({"ann": PasswordHash.of("correct horse", ln=13, p=3)})

    def seconds(name):
        started = time.process_time()
        known.check(name, "wrong")
        return time.process_time() - started

    unknown, wrong = (min(seconds(name) for _ in range(5)) for name in ("bob", "ann"))
    assert unknown == pytest.approx(wrong, rel=0.5)


@pytest.mark.parametrize(
    "line",
    [
        "ann:secret",
        "ann",
        "Ann:{good}",
        "../ann:{good}",
        f"{'a' * 33}:{{good}}",
        "ann:$scrypt$ln=40,r=8,p=1$AAAA$AAAA",
        "ann:$scrypt$ln=20,r=16,p=1$AAAA$AAAA",
        "ann:$scrypt$ln=4,r=0,p=1$AAAA$AAAA",
        "ann:$scrypt$ln=4,r=8,p=1$AAAAA$AAAA",
        "# nobody",
    ],
)
def test_a_bad_file_names_the_line_and_the_command(tmp_path, line):
    file = tmp_path / "users"
    file.write_text(line.format(good=PasswordHash.of("correct horse", **QUICK)) + "\n")
    with pytest.raises(SettingsError, match=r"\./framepack password NAME") as refused:
        Accounts.read(file)
    assert "secret" not in str(refused.value)
    with pytest.raises(SettingsError, match="cannot be read"):
        Accounts.read(tmp_path / "missing")


def test_the_command_makes_a_line_that_signs_in(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("correct horse\n"))
    assert main(["password", "bob"]) == 0
    file = tmp_path / "users"
    file.write_text(capsys.readouterr().out)
    assert Accounts.read(file).check("bob", "correct horse")


@pytest.mark.parametrize(
    ("name", "typed"), [("Bob", ["long enough"] * 2), ("bob", ["short"] * 2), ("bob", ["one word", "another"])]
)
def test_the_command_refuses_what_would_not_do(name, typed, monkeypatch, capsys):
    answers = iter(typed)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr(accounts.getpass, "getpass", lambda _: next(answers))
    assert main(["password", name]) == 2
    assert capsys.readouterr().out == ""

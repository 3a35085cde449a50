"""Names and passwords of the page's users: a file of `NAME:HASH` lines, and the command that makes one.

Only scrypt hashes are stored (RFC 7914), in the PHC string format: `$scrypt$ln=15,r=8,p=3$SALT$HASH`. An unknown name
costs as much time as a wrong password.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import getpass
import hashlib
import hmac
import re
import secrets
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import Message
from diffusers_helper.service.options import add_settings

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
"""A user's name is part of a folder's name, on file systems that do not tell A from a, too."""
SHORTEST_PASSWORD = 8
_PHC = re.compile(r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)")
_LARGEST = 2**28
"""The most memory that a line of the file may ask for, in bytes."""


@dataclass(frozen=True)
class PasswordHash:
    """One scrypt hash; the defaults cost 32 MB and about 0.2 s. `ln` is the base-2 logarithm of scrypt's N."""

    salt: bytes
    digest: bytes
    ln: int = 15
    r: int = 8
    p: int = 3

    @classmethod
    def of(cls, password: str, ln: int = 15, p: int = 3) -> PasswordHash:
        """Hash `password` with a new salt."""
        salt = secrets.token_bytes(16)
        return cls(salt, cls(salt, b"", ln, p=p)._digest_of(password), ln, p=p)

    @classmethod
    def parse(cls, text: str) -> PasswordHash:
        """Read a PHC string; raises ValueError."""
        match = _PHC.fullmatch(text)
        if match is None:
            raise ValueError("this is no scrypt hash")
        ln, r, p = (int(number) for number in match.groups()[:3])
        if not (1 <= ln <= 24 and r and p and 128 * r * (2**ln + p) <= _LARGEST):
            raise ValueError("these scrypt parameters are out of range")
        try:
            salt, digest = (base64.b64decode(part + "=" * (-len(part) % 4)) for part in match.groups()[3:])
        except binascii.Error as error:
            raise ValueError("this is no base64") from error
        return cls(salt, digest, ln, r, p)

    def matches(self, password: str) -> bool:
        """Tell in constant time whether this is the hash of `password`."""
        return hmac.compare_digest(self._digest_of(password), self.digest)

    def _digest_of(self, password: str) -> bytes:
        return hashlib.scrypt(
            password.encode(errors="surrogatepass"),
            salt=self.salt,
            n=2**self.ln,
            r=self.r,
            p=self.p,
            maxmem=2 * _LARGEST,
        )

    def __str__(self) -> str:
        salt, digest = (base64.b64encode(part).decode().rstrip("=") for part in (self.salt, self.digest))
        return f"$scrypt$ln={self.ln},r={self.r},p={self.p}${salt}${digest}"


class Accounts:
    """Who may sign in.

    Args:
        hashes: of each name's password; at least one.
    """

    def __init__(self, hashes: dict[str, PasswordHash]) -> None:
        self._hashes = hashes
        self._nobody = PasswordHash(secrets.token_bytes(16), b"", max(known.ln for known in hashes.values()))
        self._one_at_a_time = threading.Lock()

    @classmethod
    def read(cls, path: Path) -> Accounts:
        """Read the file; empty lines and those that begin with # are left out. Raises SettingsError."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(Message("The file of --auth cannot be read: {reason}.", reason=str(error))) from None
        hashes = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.startswith("#"):
                continue
            name, _, text = line.strip().partition(":")
            try:
                hashes[require_name(name)] = PasswordHash.parse(text)
            except ValueError as error:
                raise SettingsError(
                    Message(
                        "{path}, line {number}: {reason}. A line is made with: ./framepack password NAME",
                        path=path,
                        number=number,
                        reason=str(error),
                    )
                ) from None
        if not hashes:
            raise SettingsError(Message("{path} has no user. Add one: ./framepack password NAME >> {path}", path=path))
        return cls(hashes)

    def knows(self, name: str) -> bool:
        """Tell whether there is a user called `name`."""
        return name in self._hashes

    def check(self, name: str, password: str) -> bool:
        """Tell whether `password` is that of `name`. One at a time: guessing must not use up the computer."""
        with self._one_at_a_time:
            known = self._hashes.get(name)
            matches = (known or self._nobody).matches(password)
        return known is not None and matches


def require_name(name: str) -> str:
    """Return `name`; raises SettingsError if a user cannot be called that."""
    if not NAME.fullmatch(name):
        raise SettingsError(Message("a user's name is 1 to 32 of a-z, 0-9, - and _, and begins with a letter or digit"))
    return name


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command `password NAME`."""
    text = "make a line for the file of --auth"
    parser = commands.add_parser("password", help=text, description=text)
    parser.add_argument("name", metavar="NAME")
    add_settings(parser, ["language"])
    parser.set_defaults(command=password, offline=True)


def password(parsed: argparse.Namespace) -> int:
    """Ask for a password and write the line for the file of `--auth` to stdout; from a pipe, read one line."""
    name = require_name(parsed.name)
    if sys.stdin.isatty():
        word = getpass.getpass(f"Password for {name}: ")
        if word != getpass.getpass("Once more: "):
            raise SettingsError(Message("These were two different passwords."))
    else:
        word = sys.stdin.readline().rstrip("\n")
    if len(word) < SHORTEST_PASSWORD:
        raise SettingsError(Message("A password has at least {least} characters.", least=SHORTEST_PASSWORD))
    sys.stdout.write(f"{name}:{PasswordHash.of(word)}\n")
    return 0

"""Who may reach the page, and from where: the options, what they mean, and which of them do not go together."""

from __future__ import annotations

import argparse
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import Message
from diffusers_helper.service.accounts import Accounts

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Access:
    """How the page may be reached.

    Attributes:
        accounts: who may sign in; None if nobody has to.
        host_names: the names, beside addresses and "localhost", by which browsers may call this server.
        max_upload: bytes of one request that uploads files.
        root_path: the path or URL under which a proxy shows the page; empty for none.
        trusted_proxies: addresses or networks whose X-Forwarded headers count.
        session_hours: how long users stay signed in.
    """

    accounts: Accounts | None = None
    host_names: tuple[str, ...] = ()
    max_upload: int = 100 * MEGABYTE
    root_path: str = ""
    trusted_proxies: tuple[str, ...] = ("127.0.0.1/32", "::1/128")
    session_hours: float = 12


def add_access_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group("access")
    group.add_argument("--auth", metavar="FILE", type=Path, help="users must sign in: a file of NAME:HASH lines")
    group.add_argument("--allow-anonymous", action="store_true", help="whoever reaches the server may use it")
    group.add_argument(
        "--session-hours", metavar="N", type=_hours, default=12, help="how long users stay signed in, hours (12)"
    )
    group.add_argument("--share", action="store_true", help="make a public link through Gradio's servers")
    group.add_argument(
        "--host-name",
        metavar="NAME",
        action="append",
        default=[],
        help="a name by which browsers reach this server, for example behind a proxy; may be given more than once",
    )
    group.add_argument("--max-upload", metavar="MB", type=_megabytes, default=100, help="largest upload, MB (100)")
    group.add_argument("--root-path", metavar="PATH", default="", help="where a proxy shows the page: /framepack")
    group.add_argument(
        "--forwarded-allow-ips",
        metavar="LIST",
        default="127.0.0.1,::1",
        help="addresses of proxies whose X-Forwarded headers are believed (127.0.0.1,::1)",
    )


def access_from(parsed: argparse.Namespace, address: str) -> Access:
    """Return what the options mean for a server that listens on ``address``.

    Raises SettingsError where everybody on a network could use the page and nobody said that they may.
    """
    accounts = Accounts.read(parsed.auth) if parsed.auth else None
    loopback = ipaddress.ip_address(address.partition("%")[0]).is_loopback
    said = accounts or parsed.allow_anonymous
    if parsed.share and not said:
        raise SettingsError(
            Message(
                "Everybody who has the link of --share could use this page. Say who may: --auth FILE with lines made "
                "by ./framepack password NAME, or --allow-anonymous for all."
            )
        )
    if not (loopback or said):
        raise SettingsError(
            Message(
                "Everybody who reaches {address} could use this page. Say who may: --auth FILE with lines made by "
                "./framepack password NAME, or --allow-anonymous for all.",
                address=address,
            )
        )
    if parsed.root_path and not parsed.root_path.startswith(("/", "http://", "https://")):
        raise SettingsError(
            Message("--root-path {path} is neither a path such as /framepack nor a URL.", path=parsed.root_path)
        )
    url = urlsplit(parsed.root_path)
    return Access(
        accounts=accounts,
        host_names=tuple({name.lower() for name in (*parsed.host_name, url.hostname) if name}),
        max_upload=parsed.max_upload * MEGABYTE,
        root_path=parsed.root_path.rstrip("/"),
        trusted_proxies=tuple(_networks(parsed.forwarded_allow_ips.split(","))),
        session_hours=parsed.session_hours,
    )


def _networks(texts: Iterable[str]) -> Iterable[str]:
    for text in filter(None, map(str.strip, texts)):
        try:
            yield str(ipaddress.ip_network(text, strict=False))
        except ValueError:
            raise SettingsError(
                Message("--forwarded-allow-ips: {text} is no address and no network such as 10.0.0.0/8.", text=text)
            ) from None


def _megabytes(text: str) -> int:
    size = int(text)
    if size < 1:
        raise argparse.ArgumentTypeError("an upload of at least 1 MB has to be possible")
    return size


def _hours(text: str) -> float:
    hours = float(text)
    if not 0 < hours <= 8760:
        raise argparse.ArgumentTypeError("a session lasts more than 0 hours and at most a year (8760)")
    return hours

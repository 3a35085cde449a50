"""Who may reach the page, and from where: what the settings mean, and which of them do not go together."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import Message
from diffusers_helper.service.accounts import Accounts
from diffusers_helper.service.config import RuntimeConfig

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
        share: there is a public link, whose host name nobody knows beforehand.
    """

    accounts: Accounts | None = None
    host_names: tuple[str, ...] = ()
    max_upload: int = 100 * MEGABYTE
    root_path: str = ""
    trusted_proxies: tuple[str, ...] = ("127.0.0.1/32", "::1/128")
    session_hours: float = 12
    share: bool = False


def access_from(config: RuntimeConfig, address: str) -> Access:
    """Return what the settings mean for a server that listens on `address`.

    Raises SettingsError where everybody on a network could use the page and nobody said that they may.
    """
    accounts = Accounts.read(config.auth) if config.auth else None
    loopback = ipaddress.ip_address(address.partition("%")[0]).is_loopback
    said = accounts or config.allow_anonymous
    if config.share and not said:
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
    if config.root_path and not config.root_path.startswith(("/", "http://", "https://")):
        raise SettingsError(
            Message("--root-path {path} is neither a path such as /framepack nor a URL.", path=config.root_path)
        )
    url = urlsplit(config.root_path)
    return Access(
        accounts=accounts,
        host_names=tuple({name.lower() for name in (*config.host_name, url.hostname) if name}),
        max_upload=config.max_upload * MEGABYTE,
        root_path=config.root_path.rstrip("/"),
        trusted_proxies=tuple(_networks(config.forwarded_allow_ips.split(","))),
        session_hours=config.session_hours,
        share=config.share,
    )


def _networks(texts: Iterable[str]) -> Iterable[str]:
    for text in filter(None, map(str.strip, texts)):
        try:
            yield str(ipaddress.ip_network(text, strict=False))
        except ValueError:
            raise SettingsError(
                Message("--forwarded-allow-ips: {text} is no address and no network such as 10.0.0.0/8.", text=text)
            ) from None

"""Proxies of the environment, made usable for the HTTP libraries: some fail when they are imported with others."""

from __future__ import annotations

from collections.abc import Mapping

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import Message

VARIABLES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""This computer, which no proxy leads to."""


def settle_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what to change in `environment`.

    `socks://`, which desktops write, means SOCKS 5; where there is a proxy, this computer is reached without it.
    """
    changes = {
        name: "socks5" + value[len("socks") :]
        for name, value in proxies_in(environment).items()
        if value.lower().startswith("socks://")
    }
    if proxies_in(environment):
        for name in ("NO_PROXY", "no_proxy"):
            listed = [entry.strip() for entry in _of(environment, "NO_PROXY").split(",") if entry.strip()]
            changes[name] = ",".join([*listed, *(host for host in LOOPBACK if host not in listed)])
    return changes


def proxies_in(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the proxies that `environment` names, by the variables' names as they are written there."""
    names = [written for name in VARIABLES[:-1] for written in (name, name.lower())]
    return {name: environment[name] for name in names if environment.get(name)}


def without_password(url: str) -> str:
    """Return the address of a proxy without the name and password in it."""
    scheme, found, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if found else url.rpartition("@")[2]


def proxy_fault() -> str | None:
    """Return why the HTTP library cannot use the proxies of the environment; None if it can."""
    import httpx

    try:
        httpx.Client().close()
    except (ValueError, TypeError, ImportError, httpx.InvalidURL) as error:
        return str(error).strip().split("\n")[0]
    return None


def require_proxies() -> None:
    """Raise SettingsError if the proxies of the environment cannot be used: importing the page's library would fail."""
    if reason := proxy_fault():
        raise SettingsError(
            Message(
                "The proxy of this computer's environment cannot be used: {reason} Correct or unset {variables}.",
                reason=reason,
                variables=", ".join(VARIABLES),
            )
        )


def _of(environment: Mapping[str, str], name: str) -> str:
    """Return a variable; the spelling in lower case counts first, as it does for the libraries."""
    return environment.get(name.lower()) or environment.get(name) or ""

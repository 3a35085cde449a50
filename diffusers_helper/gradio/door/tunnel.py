"""The public link of `--share`: Gradio's tunnel, to the same server that serves everybody else."""

from __future__ import annotations

import logging
import secrets
import threading
from urllib.parse import SplitResult, urlsplit

from gradio import networking

logger = logging.getLogger(__name__)


def link_in_background(address: str) -> None:
    """Make a public link to the server at `address`, a URL of this computer, and log it or why there is none.

    The tunnel is a process that Gradio ends with this one.
    """
    threading.Thread(target=_link, args=[urlsplit(address)], name="share", daemon=True).start()


def _link(address: SplitResult) -> None:
    try:
        token = secrets.token_urlsafe(32)
        url = networking.setup_tunnel(address.hostname or "", address.port or 0, token, None, None)
    except Exception as error:  # noqa: BLE001 - Gradio raises whatever the download, the tunnel or the network met
        logger.error("There is no public link (--share): %s", str(error) or type(error).__name__)
        return
    logger.info("The public link is %s", urlsplit(url)._replace(scheme="https").geturl())

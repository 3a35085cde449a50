"""The programs of an installation by pip: `framepack`, and `framepack-page` for the page in the foreground."""

from __future__ import annotations

import sys

from diffusers_helper.service.packages import naming_setup


def framepack() -> int:
    """Run the command line; return the exit code."""
    with naming_setup():
        from diffusers_helper.commands.cli import main
    return main()


def page() -> int:
    """Serve the page of the original variant, or with `--f1` first that of F1; return the exit code."""
    with naming_setup():
        from diffusers_helper.app.launch import main
        from diffusers_helper.core.variants import F1, ORIGINAL
    f1 = sys.argv[1:2] == ["--f1"]
    return main(F1 if f1 else ORIGINAL, sys.argv[1 + f1 :])

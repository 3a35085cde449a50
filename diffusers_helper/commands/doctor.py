"""`./framepack doctor`: what is in the way of a video on this computer, and what to do about it.

Takes the options of a start and judges what that start would meet. Exit code 0 where nothing is a problem, else 1.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from diffusers_helper.commands.checks import CHECKS, Finding, Level, attention
from diffusers_helper.commands.system_info import Facts, gather
from diffusers_helper.core.variants import VARIANTS
from diffusers_helper.service import options


def examine(facts: Facts) -> list[Finding]:
    """Every finding: the checks in their order, then the attention backends."""
    return [check(facts) for check in CHECKS] + [attention(facts, attempt) for attempt in facts.attention]


def add_parser(commands: Any) -> None:
    """Add `doctor` to the command line's subparsers."""
    text = "what is in the way on this computer, and what to do about it"
    parser = commands.add_parser("doctor", help=text, description=f"{text.capitalize()}.")
    parser.set_defaults(command=run)
    parser.add_argument("--variant", choices=VARIANTS, default="original")
    options.add_settings(parser, ("server", "port"))
    options.add_options(parser)


def run(parsed: argparse.Namespace) -> int:
    """Write one line per finding; return the exit code."""
    return report(examine(gather(parsed.config, parsed.variant)))


def report(findings: list[Finding]) -> int:
    """Write `findings` and a last line that counts the problems; return 0 if there are none, else 1."""
    for finding in findings:
        sys.stdout.write(f"{finding.level:<8} {finding.subject}: {finding.sentence}\n")
    problems = sum(finding.level is Level.PROBLEM for finding in findings)
    if not problems:
        sys.stdout.write("Nothing is in the way.\n")
        return options.DONE
    sys.stdout.write(f"{problems} problem{'s' if problems > 1 else ''}: see docs/troubleshooting.md.\n")
    return options.FAILED

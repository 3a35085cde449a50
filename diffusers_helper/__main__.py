"""`./framepack` and `python -m diffusers_helper`: the command line."""

import sys

from diffusers_helper.service.packages import naming_setup

with naming_setup():
    from diffusers_helper.commands.cli import main

sys.exit(main())

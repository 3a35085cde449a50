"""``python -m diffusers_helper``: the command line."""

import sys

from diffusers_helper.cli import main

sys.exit(main())

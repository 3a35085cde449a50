"""The page of FramePack, the original variant. `--help` lists the options."""

import sys

from diffusers_helper.service.packages import naming_setup

if __name__ == "__main__":
    with naming_setup():
        from diffusers_helper.app.launch import main
        from diffusers_helper.core.variants import ORIGINAL
    sys.exit(main(ORIGINAL))

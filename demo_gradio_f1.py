"""The page of FramePack F1. ``--help`` lists the options."""

import sys

from diffusers_helper.service.packages import naming_setup

if __name__ == "__main__":
    with naming_setup():
        from diffusers_helper.framepack.variants import F1
        from diffusers_helper.service.launch import main
    sys.exit(main(F1))

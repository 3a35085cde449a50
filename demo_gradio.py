"""The page of FramePack, the original variant. ``--help`` lists the options."""

import sys

from diffusers_helper.framepack.variants import ORIGINAL
from diffusers_helper.service.launch import main

if __name__ == "__main__":
    sys.exit(main(ORIGINAL))

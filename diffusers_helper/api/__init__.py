"""FramePack in somebody's own program: `from diffusers_helper import FramePack`.

::

    framepack = FramePack.load("tiny", variant="f1")
    framepack("photo.jpg", "pan left", seconds=2.4).save("out.mp4")

    for event in framepack.stream("photo.jpg", "pan left"):
        ...  # framepack.events; leaving the loop stops the work

Importing this costs nothing; torch and the models come with `load` and the first video.
"""

from diffusers_helper.api.framepack import FramePack
from diffusers_helper.api.video import Video

__all__ = ["FramePack", "Video"]

"""Given videos and what was made for them, as one file: the given frames as they are encoded, where that can be.

There are three ways, and the first that can be is taken:

1. All parts are files of our own encoder with the same settings: their bytes are joined.
2. The first given video is H.264 as browsers play it: its packets are kept, and what was made is encoded to its size
   and rate, with parameter sets of other numbers (see `avc`).
3. All is encoded to the first given video's size as it is shown; its frames keep their times.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path

import av

from diffusers_helper.core.files import atomic_write
from diffusers_helper.core.plan import FPS
from diffusers_helper.media.growing import Cut, join_mp4
from diffusers_helper.media.mp4 import NotAsWrittenError, read_frames, sample_entry
from diffusers_helper.media.reading import Check
from diffusers_helper.media.reencoding import encoded
from diffusers_helper.media.remuxing import NotKeptError, kept
from diffusers_helper.media.tags import NO_TAGS, Tags
from diffusers_helper.media.timeline import Encoding, GivenPart, Part

__all__ = ["GivenPart", "Part", "join_videos"]


def join_videos(
    parts: Sequence[Part], path: Path, crf: int, *, check: Check = lambda: None, tags: Tags = NO_TAGS
) -> tuple[str, ...]:
    """Write given videos and what was made for them, in the order of time, to the MP4 `path`.

    Of several given videos the first one decides size and rate. A loop is a video and what leads back to its beginning.

    Args:
        parts: at least one of them given.
        path: of the file.
        crf: compression of what is encoded.
        check: called between packets; what it raises stops the writing and leaves no file.
        tags: what the file says of itself; the picture only in the first way.

    Returns sentences on what could not stay as it is. Raises ClipError for a given video that cannot be read any more,
    OutputError where the file cannot be written.
    """
    encoding = Encoding(crf, check, tags)
    with atomic_write(path) as part:
        if _joined_as_written(parts, part, encoding):
            return ()
        with suppress(NotKeptError, av.ArgumentError, av.InvalidDataError):
            return kept(parts, part, encoding)
        return encoded(parts, part, encoding)


def _joined_as_written(parts: Sequence[Part], path: Path, encoding: Encoding) -> bool:
    """Join files of our own encoder; False where one is not, or not with the same settings."""
    if any(isinstance(part, GivenPart) and not part.is_whole for part in parts):
        return False
    files = [part.clip.path if isinstance(part, GivenPart) else part for part in parts]
    rate = Fraction(FPS)
    try:
        with ExitStack() as opened:
            found = [read_frames(opened.enter_context(open(file, "rb")), rate) for file in files]
            if len({sample_entry(each) for each in found}) > 1:
                return False
            cuts = [Cut(file, 0, len(each.sizes)) for file, each in zip(files, found, strict=True)]
    except (OSError, NotAsWrittenError):
        return False
    join_mp4(cuts, path, rate, encoding.check, encoding.tags)
    return True

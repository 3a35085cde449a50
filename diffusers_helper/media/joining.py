"""Given videos and what was made for them, as one file: the given frames as they are encoded, where that can be.

There are three ways, and the first that can be is taken:

1. All parts are files of our own encoder with the same settings: their bytes are joined.
2. The first given video is H.264 as browsers play it: its packets are kept, and what was made is encoded to its size
   and rate, with parameter sets of other numbers (see `avc`).

   Of both, where a part is left out, the frames between the cut and the next key frame are encoded again.
3. All is encoded to the first given video's size as it is shown; its frames keep their times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from fractions import Fraction
from io import BytesIO
from itertools import islice
from pathlib import Path

import av
from av.video.reformatter import VideoReformatter

from diffusers_helper.core.files import atomic_write
from diffusers_helper.core.plan import FPS
from diffusers_helper.media.clip import ROUNDED, Clip
from diffusers_helper.media.clip_pixels import upright_rgb
from diffusers_helper.media.growing import Cut, join_mp4
from diffusers_helper.media.mp4 import Frames, NotAsWrittenError, read_frames, sample_entry
from diffusers_helper.media.reading import Check, open_frames
from diffusers_helper.media.reencoding import encoded
from diffusers_helper.media.remuxing import NotKeptError, kept
from diffusers_helper.media.tags import NO_TAGS, Tags
from diffusers_helper.media.timeline import Encoding, GivenPart, MadePart, Part
from diffusers_helper.media.video import encode_mp4

__all__ = ["GivenPart", "MadePart", "Part", "join_videos"]


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
    rate = Fraction(FPS)
    files = [part.clip.path if isinstance(part, GivenPart) else part.path for part in parts]
    try:
        with ExitStack() as opened:
            found = [read_frames(opened.enter_context(open(file, "rb")), rate) for file in files]
            if len({sample_entry(each) for each in found}) > 1:
                return False
            cuts = [cut for part, frames in zip(parts, found, strict=True) for cut in _cuts(part, frames, encoding)]
            again = [read_frames(cut.file, rate) for cut in cuts if not isinstance(cut.file, Path)]
            if len({sample_entry(each) for each in (found[0], *again)}) > 1:
                return False
    except (OSError, NotAsWrittenError):
        return False
    join_mp4(cuts, path, rate, encoding.check, encoding.tags)
    return True


def _cuts(part: Part, frames: Frames, encoding: Encoding) -> Iterator[Cut]:
    """Yield a file's frames, or those of a part of it: what lies between a cut and a key frame is encoded again."""
    count = len(frames.sizes)
    if isinstance(part, MadePart):
        yield Cut(part.path, 0, count)
        return
    start = 0 if part.start is None else round(part.start * FPS)
    stop = count if part.stop is None else min(count, round(part.stop * FPS))
    keys = [*sorted(frames.shown[frames.keys].tolist()), count]
    first = min(key for key in keys if key >= start)
    last = max(max(key for key in keys if key <= stop), first)
    if first >= stop:
        first = last = stop
    for begin, end, stays in ((start, first, False), (first, last, True), (last, stop, False)):
        if begin < end:
            yield Cut(part.clip.path, begin, end) if stays else _encoded(part.clip, begin, end, encoding)


def _encoded(clip: Clip, begin: int, end: int, encoding: Encoding) -> Cut:
    """Encode frames `begin` to `end` of a file of our own again."""
    file = BytesIO()
    start = clip.begin + Fraction(begin, FPS) - ROUNDED
    with open_frames(clip.path, encoding.check, start) as frames:
        scaler = VideoReformatter()
        pictures = (upright_rgb(frame, clip.display, scaler) for time, frame in frames if time >= start)
        encode_mp4(islice(pictures, end - begin), file, Fraction(FPS), encoding.crf, check=encoding.check)
    return Cut(file, 0, end - begin)

"""A given video of a job on the disk: the file itself under a second name, or a copy where it can have none.

Hours of video take no room and no time that way. A file that its user writes over in place is noticed by its size and
time: frames of two videos would be mixed.
"""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from diffusers_helper.core.errors import ClipError
from diffusers_helper.core.files import require_free_space
from diffusers_helper.core.messages import Message
from diffusers_helper.jobs.record import UnusableJobError, VideoRecord
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.partials import video_file

if TYPE_CHECKING:
    from diffusers_helper.media.clip import Clip


def keep_video(clip: Clip, file: Path) -> VideoRecord:
    """Keep a given video as `file`. Raises ClipError where it is gone, OutputError and OSError."""
    source = os.path.realpath(clip.path)
    try:
        if os.path.realpath(file) != source:
            _link(source, file)
    except FileNotFoundError as error:
        raise ClipError(Message('There is no file "{name}": choose the video again.', name=clip.name)) from error
    found = os.stat(file)
    return VideoRecord(clip.name, found.st_size, found.st_mtime_ns)


def read_video(file: Path, record: VideoRecord) -> Clip:
    """Return what `keep_video` kept; raises UnusableJobError for anything else."""
    from diffusers_helper.media.clip import open_clip  # and torch, which a start does not wait for

    check_video(file, record)
    try:
        return open_clip(file, name=record.name)
    except ClipError as error:
        raise UnusableJobError(file, error) from error


def with_kept_videos(inputs: JobInputs, folder: Path) -> JobInputs:
    """Return the same with the given videos as they are kept in a job's folder, whatever becomes of the user's own."""
    videos = {use: replace(clip, path=folder / video_file(use)) for use, clip in inputs.videos.items()}
    return replace(inputs, videos=videos)


def check_video(file: Path, record: VideoRecord) -> None:
    """Raise UnusableJobError for what is not there, or was changed since; nothing is decoded."""
    try:
        found = os.lstat(file)
        if (found.st_size, found.st_mtime_ns) != (record.size, record.changed):
            raise OSError(errno.EINVAL, Message("the given video was changed meanwhile"), str(file))
    except OSError as error:
        raise UnusableJobError(file, error) from error


def _link(source: str, file: Path) -> None:
    file.unlink(missing_ok=True)
    try:
        os.link(source, file)
    except FileNotFoundError:
        raise
    except OSError:  # another disk, a file system without links, or somebody else's file
        require_free_space(file.parent, os.stat(source).st_size)
        shutil.copyfile(source, file)

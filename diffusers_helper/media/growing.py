"""A video that grows by sections at a cost that does not: old frames are copied as encoded, never decoded or held."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import torch
from torch import Tensor

from diffusers_helper.core.errors import OutputError
from diffusers_helper.core.files import atomic_write, output_error
from diffusers_helper.core.messages import Message
from diffusers_helper.media.frames import require_finite, rgb_frames, soft_append_bcthw
from diffusers_helper.media.mp4 import Frames, NotAsWrittenError, read_frames, write_joined
from diffusers_helper.media.partials import partial_file, partial_files
from diffusers_helper.media.tags import NO_TAGS, Tags
from diffusers_helper.media.video import Check, encode_mp4, exact_rate

logger = logging.getLogger(__name__)


class GrowingVideo:
    """A video that is playable after every section, and longer each time.

    Only the frames that the next section may cross-fade with (the edge) are held, as float32. All others are settled:
    they are in the newest file, encoded once, and the next file copies them from there. The pictures are those of
    `soft_append_bcthw` over all sections; every section begins with a key frame.

    Attributes:
        frames: pixel frames so far.
        sections: sections so far.
        partial: the newest playable file, None before the first and after `finish`.
    """

    def __init__(
        self,
        path_stem: Path,
        grows_at_front: bool,
        crf: int,
        fps: float = 30,
        tags: Tags = NO_TAGS,
    ) -> None:
        """`path_stem` without ending: files are `{stem}_partial_{NN}.mp4` and, at the end, `{stem}.mp4`.

        `tags` are what every file says of itself; they are written anew into each, and never read.
        """
        self._stem = path_stem
        self._grows_at_front = grows_at_front
        self._crf = crf
        self._rate = exact_rate(fps)
        self._tags = tags
        self._edge: Tensor | None = None
        self._previous: Path | None = None
        self.frames = 0
        self.sections = 0
        self.partial: Path | None = None

    def add(self, pixels: Tensor, overlap: int, check: Check | None = None, count: int | None = None) -> Path:
        """Join a section, (B, 3, T, H, W) about -1..1, and return a new file that holds the video so far.

        It may be several in one, which make `count` sections in all. `overlap` frames cross-fade with the section
        before: 0 for the first, and later at most the overlap of the section before (its whole length if that was 0);
        ValueError otherwise. `check` as in `save_bcthw_as_mp4`, and before every copied frame. The file before this one
        stays, as a browser may still be playing it; older ones go. Raises NumericsError and OutputError; an error, or
        what `check` raises, leaves video and files as they were.
        """
        number = count or self.sections + 1
        require_finite(pixels, Message("Section {number}", number=number))
        joined = self._joined(pixels.detach().to("cpu", torch.float32), overlap)
        fresh, keep = joined.shape[2], overlap or pixels.shape[2]
        edge = slice(keep) if self._grows_at_front else slice(fresh - keep, None)
        border = keep if self._grows_at_front else fresh - keep
        section = io.BytesIO()
        encode_mp4(rgb_frames(joined), section, self._rate, self._crf, key_frame=border, check=check)
        section.seek(0)

        path = partial_file(self._stem, number)
        cuts = [*self._settled(), Cut(section, 0, fresh)]
        with atomic_write(path) as part:
            join_mp4(reversed(cuts) if self._grows_at_front else cuts, part, self._rate, check, self._tags)
        _remove(self._previous)
        self._previous, self.partial = self.partial, path
        self._edge, self.sections = joined[:, :, edge].clone(), number
        self.frames = sum(cut.stop - cut.start for cut in cuts)
        return path

    def reopen(self, sections: int, frames: int) -> bool:
        """Go on with the file that another `GrowingVideo` of this stem left after `sections` sections.

        Returns whether it is there with all its `frames`; then `recall` has to come before `add`. The files of
        other lengths are removed.
        """
        path = partial_file(self._stem, sections)
        if count_frames(path) != frames:
            return False
        self.remove_partials(but=path)
        self.partial, self.sections, self.frames = path, sections, frames
        return True

    def finished(self, frames: int | None) -> Path | None:
        """Return the final file if a `GrowingVideo` of this stem made it with all its `frames`, else None.

        `frames` of None is for a file that is more than was made: then it is enough that it is there.
        """
        final = self.final
        if not final.is_file() if frames is None else count_frames(final) != frames:
            return None
        self.remove_partials()
        return final

    def bytes_for(self, pixels: Tensor) -> int:
        """Return about how much room `add` needs for these `pixels`: the new file is written beside the old one."""
        so_far = self.partial.stat().st_size if self.partial is not None and self.partial.exists() else 0
        return so_far + pixels[:, 0].numel() // 2 + sum(map(len, self._tags.pictures))

    def recall(self, pixels: Tensor, overlap: int) -> None:
        """Hold the edge again: `pixels` and `overlap` are what `add` got for the newest section in the file.

        The frames of a section that the next one may cross-fade with are never cross-faded themselves.
        """
        keep = overlap or pixels.shape[2]
        edge = slice(keep) if self._grows_at_front else slice(pixels.shape[2] - keep, None)
        self._edge = pixels[:, :, edge].detach().to("cpu", torch.float32, copy=True)

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return self._stem.parent

    @property
    def final(self) -> Path:
        """The file of the finished video."""
        return self._stem.with_name(f"{self._stem.name}.mp4")

    def remove_partials(self, but: Path | None = None) -> None:
        """Remove the partial files of this stem, whichever process made them."""
        for path in partial_files(self._stem).values():
            _remove(path if path != but else None)

    def _joined(self, pixels: Tensor, overlap: int) -> Tensor:
        """Cross-fade `pixels` with the edge."""
        edge = pixels[:, :, :0] if self._edge is None else self._edge
        return soft_append_bcthw(*((pixels, edge) if self._grows_at_front else (edge, pixels)), overlap)

    def _settled(self) -> Iterator[Cut]:
        """Yield the part of the newest file that no cross-fade changes any more, unless there is none."""
        if self.partial is not None and self._edge is not None and (edge := self._edge.shape[2]) < self.frames:
            start = edge if self._grows_at_front else 0
            yield Cut(self.partial, start, start + self.frames - edge)

    def finish(self) -> Path:
        """Give the newest file its final name, remove the other one, and return the path; OutputError if it cannot."""
        if self.partial is None:
            raise ValueError("a video needs at least one section")
        final = self.final
        try:
            os.replace(self.partial, final)
        except OSError as error:
            raise output_error(final, error) from error
        _remove(self._previous)
        self.partial = self._previous = None
        return final


@dataclass(frozen=True)
class Cut:
    """Frames `start` to `stop` of an MP4 that `encode_mp4` or `join_mp4` made; cuts lie at key frames."""

    file: Path | BinaryIO
    start: int
    stop: int


def count_frames(file: Path) -> int:
    """Return how many frames an MP4 holds; 0 for one that is not there or cannot be read to its end."""
    if not file.is_file():  # opening a pipe would wait for ever
        return 0
    try:
        with av.open(file, "r") as source:
            # A picture that the file carries is a packet, too, but has no time.
            return sum(packet.pts is not None and not packet.is_corrupt for packet in source.demux())
    except av.FFmpegError:
        return 0


def join_mp4(
    cuts: Iterable[Cut],
    path: Path,
    rate: Fraction,
    check: Check | None = None,
    tags: Tags = NO_TAGS,
) -> None:
    """Write the cuts one after the other to `path`; all were encoded with the same settings.

    `tags` are what the file says of itself. `check` is called before each `mp4.BLOCK` bytes. Raises OutputError
    if a cut's file is not there any more or not as it was written.
    """
    with ExitStack() as opened, open(path, "wb") as output:
        pieces = [_frames_of(cut, rate, opened) for cut in cuts]
        write_joined(pieces, output, rate, check or (lambda: None), tags)


def _frames_of(cut: Cut, rate: Fraction, opened: ExitStack) -> Frames:
    try:
        file = opened.enter_context(cut.file.open("rb", buffering=0)) if isinstance(cut.file, Path) else cut.file
        return read_frames(file, rate).cut(cut.start, cut.stop)
    except (OSError, NotAsWrittenError) as error:
        raise _changed(cut.file) from error


def _changed(file: Path | BinaryIO) -> OutputError:
    return OutputError(
        Message(
            "{file} holds the video so far and was deleted, moved or changed meanwhile. "
            "Leave the files of a running job in their place, and start again.",
            file=file,
        )
    )


def _remove(path: Path | None) -> None:
    if path is None:
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("The old file %s could not be removed: %s.", path, error.strerror)

"""Every error a user may meet, as one tree; each message is a sentence that says what to do.

::

    FramePackError
    ├── SettingsError          a setting out of range or one that does not fit (also a ValueError)
    ├── PhotoError             a file that cannot be used as the start picture (also a ValueError)
    ├── ClipError              a file that cannot be used as a given video (also a ValueError)
    ├── LoraError              a file that cannot be used as a LoRA, or is another one than before (also a ValueError)
    ├── ModelFilesError        a missing, truncated or foreign weight file, or no room to fetch it
    ├── NumericsError          NaN or infinite latents or pixels
    ├── OutOfMemoryError       the device or the machine ran out of memory
    ├── PartnerError           a process that makes the same video failed
    │   └── PartnerGoneError   it is not there any more: others in its place may go on
    ├── OutputError            a result that could not be written (folder read-only or gone)
    │   └── DiskFullError      no room for it: worth another try when there is
    ├── QueueFullError         too many jobs are waiting
    ├── UnknownJobError        a job id this server never gave out (also a KeyError)
    └── CancelledError         the user pressed End: not a fault, and never logged as one
"""

from __future__ import annotations

from diffusers_helper.core.messages import Message

OUT_OF_MEMORY = Message(
    "The device or the machine ran out of memory. Raise the GPU memory to leave free, make the picture "
    "smaller or the video shorter, or close other programs, and start again."
)
"""What an `OutOfMemoryError` of a device says; the page offers to do the first two."""


class FramePackError(Exception):
    """The root: its text may be shown to a user as it stands."""


class SettingsError(FramePackError, ValueError):
    """A setting is out of range or does not fit the others."""


class PhotoError(FramePackError, ValueError):
    """The given file cannot be used as the start picture."""


class ClipError(FramePackError, ValueError):
    """The given file cannot be used as a video."""


class LoraError(FramePackError, ValueError):
    """The given file cannot be used as a LoRA, or it is not the one that the video was made with."""


class ModelFilesError(FramePackError):
    """A model file is missing, cut short, or belongs to something else."""


class NumericsError(FramePackError):
    """Sampling or decoding gave NaN or infinite numbers."""


class OutOfMemoryError(FramePackError):
    """The device or the machine ran out of memory."""


class PartnerError(FramePackError):
    """A process that takes part in the same video failed."""


class PartnerGoneError(PartnerError):
    """A process that takes part in the same video is not there any more."""


class OutputError(FramePackError):
    """A result could not be written."""


class DiskFullError(OutputError):
    """A result could not be written because the disk is full."""


class QueueFullError(FramePackError):
    """Too many jobs are waiting."""


class UnknownJobError(FramePackError, KeyError):
    """No job has this id."""

    __str__ = Exception.__str__  # KeyError would show the sentence in quotes


class CancelledError(FramePackError):
    """The user stopped the job."""

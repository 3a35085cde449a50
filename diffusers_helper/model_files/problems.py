"""What may be wrong with a part's file."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from diffusers_helper.core.messages import Message
from diffusers_helper.model_files.parts import Part


class Fault(Enum):
    """How a file fails; the first two can be mended by fetching it (again)."""

    MISSING = "missing"
    DAMAGED = "damaged"
    FOREIGN = "foreign"
    PICKLE = "pickle"

    @property
    def fetching_helps(self) -> bool:
        """Whether the public repository has what is needed in its place."""
        return self in (Fault.MISSING, Fault.DAMAGED)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a part: the file (relative to the part's folder) and the sentence's rest, "is missing"."""

    file: str
    text: str
    fault: Fault

    def sentence(self, part: Part) -> Message:
        """Return it as a whole sentence."""
        return Message(
            "{file} of {repository} ({part}) {problem}.",
            file=self.file,
            repository=part.repository,
            part=part.title,
            problem=self.text,
        )


def reason(error: OSError | ValueError) -> str:
    """Return why a file cannot be read, to follow its name."""
    if isinstance(error, OSError):
        return Message("cannot be read ({reason})", reason=error.strerror or type(error).__name__)
    return str(error)

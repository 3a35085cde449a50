"""The steps of a Dockerfile, as far as this project's has them; whatever else stands in one is an error."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

KNOWN = ("ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "RUN", "USER", "VOLUME", "WORKDIR")


class DockerfileError(Exception):
    """Something in the file that is not known here."""


@dataclass(frozen=True)
class Step:
    """One instruction: RUN, COPY, ..., and what follows it, its lines joined."""

    word: str
    text: str

    @property
    def options(self) -> dict[str, str]:
        """What stands before the rest as `--name=value`."""
        return dict(part[2:].split("=", 1) for part in self.text.split() if re.match(r"--[a-z-]+=", part))

    @property
    def rest(self) -> str:
        """The text without its options."""
        return re.sub(r"^(--[a-z-]+=\S+\s+)+", "", self.text)

    @property
    def words(self) -> list[str]:
        """The words of the text without its options, as of COPY and VOLUME."""
        return shlex.split(self.rest)

    @property
    def pairs(self) -> dict[str, str]:
        """Of ENV and ARG: names and values; an ARG without a value is not in it."""
        return dict(part.split("=", 1) for part in shlex.split(self.text) if "=" in part)

    @property
    def command(self) -> list[str]:
        """Of CMD, ENTRYPOINT and HEALTHCHECK: the words of its JSON form."""
        words = json.loads(self.rest.removeprefix("CMD "))
        if not isinstance(words, list):
            raise DockerfileError(f"{self.word} is no list of words: {self.text}")
        return words


@dataclass(frozen=True)
class Stage:
    """What stands between two FROM lines."""

    base: str
    name: str
    steps: list[Step] = field(default_factory=list)

    def last(self, word: str) -> Step:
        """Return the last step of that kind; raises DockerfileError where there is none."""
        for step in reversed(self.steps):
            if step.word == word:
                return step
        raise DockerfileError(f"there is no {word}")


def stages(text: str) -> list[Stage]:
    """Return the stages of a Dockerfile; raises DockerfileError for what is not known here."""
    found = list[Stage]()
    for word, rest in _instructions(text):
        if word == "FROM":
            origin = re.fullmatch(r"(\S+)(?: AS (\S+))?", rest)
            if origin is None:
                raise DockerfileError(f"FROM {rest}")
            found.append(Stage(origin[1], origin[2] or ""))
        elif word in KNOWN and found:
            found[-1].steps.append(Step(word, rest))
        else:
            raise DockerfileError(f"{word} {rest}")
    return found


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        word, _, rest = line.strip().partition(" ")
        yield word, rest.strip()


def context(ignored: str, folder: Path) -> list[Path]:
    """Return what of a folder is sent to the engine by a `.dockerignore` that lists what is not ignored.

    Raises DockerfileError for another kind of file.
    """
    first, *others = [line for line in ignored.splitlines() if line and not line.startswith("#")] or [""]
    kept = [line[1:] for line in others if line.startswith("!")]
    if first != "*" or any(line not in ("**/__pycache__",) for line in others if not line.startswith("!")):
        raise DockerfileError(".dockerignore does not begin with * and then list what is kept")
    missing = [name for name in kept if not (folder / name).exists()]
    if missing:
        raise DockerfileError(f".dockerignore keeps what is not there: {', '.join(missing)}")
    return [folder / name for name in kept]


def with_values(text: str, values: dict[str, str]) -> str:
    """Return `text` with `$NAME` and `${NAME}` of ENV and ARG put in, as outside RUN."""
    return re.sub(r"\$\{?(\w+)\}?", lambda name: values.get(name[1], ""), text)

"""Whether files are byte for byte what the hub sent: their SHA-256 is compared, once for each file and change of it.

Reading a model takes minutes, so what was compared is written down, by path, size and time of change.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from diffusers_helper.core.errors import OutputError
from diffusers_helper.core.files import atomic_write, parsed_json
from diffusers_helper.core.messages import Message
from diffusers_helper.model_files.check import SHA256
from diffusers_helper.model_files.parts import Part
from diffusers_helper.model_files.problems import Fault, Problem

logger = logging.getLogger(__name__)

RECORD = "checksums.json"
"""The record's name in the folder of what can be made again."""
CHUNK = 16 * 1024 * 1024
_METADATA = Path(".cache", "huggingface", "download")
"""Where `hf download --local-dir` writes what the hub said of each file, below the repository's folder."""
Report = Callable[[int, int], None]
"""Gets the bytes that were compared and those in all; what it raises stops the comparison."""


class ChecksumRecord:
    """What was compared, in the JSON file `path`; None keeps nothing.

    Processes may share it: what one of them loses of another's is only compared again.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def holds(self, file: Path, digest: str) -> bool:
        """Whether `file`, as it is now, was found to have the SHA-256 `digest`."""
        return self._read().get(str(file.resolve())) == [*_facts(file), digest]

    def add(self, file: Path, digest: str) -> None:
        """Note that `file`, as it is now, has the SHA-256 `digest`; the log says where that cannot be written."""
        if self._path is None:
            return
        there = {name: entry for name, entry in self._read().items() if Path(name).exists()}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self._path) as part:
                part.write_text(json.dumps(there | {str(file.resolve()): [*_facts(file), digest]}), encoding="utf-8")
        except (OSError, OutputError) as error:
            logger.warning("The record of compared files is not kept, so they are compared again: %s", error)

    def _read(self) -> dict[str, list[object]]:
        if self._path is None:
            return {}
        try:
            found = parsed_json(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def expected_sums(part: Part, folder: Path, sums: Mapping[str, str] | None = None) -> dict[Path, str]:
    """The SHA-256 of each file of `part` in `folder` for which anything tells it.

    `sums` are those by file name that the source knows. The hub's cache keeps a large file under its sum, and a
    download into a folder notes it beside.
    """
    found = {}
    for file in part.files_in(folder):
        candidates = ((sums or {}).get(file.name, ""), file.resolve().name, _noted(part, file))
        digest = next(filter(SHA256.fullmatch, candidates), None)
        if digest:
            found[file] = digest
    return found


def find_changed(
    part: Part,
    folder: Path,
    sums: Mapping[str, str] | None = None,
    *,
    record: ChecksumRecord | None = None,
    report: Report = lambda *_: None,
) -> tuple[list[Problem], int]:
    """Read every byte of the part's files in `folder`: what is not as the hub sent it, and how many were compared.

    Files that `record` holds are not read again; what is found right is added to it.
    """
    record = record or ChecksumRecord(None)
    expected = expected_sums(part, folder, sums)
    todo = {file: digest for file, digest in expected.items() if not record.holds(file, digest)}
    total, done, problems = sum(file.stat().st_size for file in todo), 0, []
    for file, digest in todo.items():
        found, done = _digest(file, done, total, report)
        if found == digest:
            record.add(file, digest)
        else:
            text = Message(
                "has another checksum than on the hub; delete {file} to have it fetched again", file=file.resolve()
            )
            problems.append(Problem(file.name, text, Fault.DAMAGED))
    return problems, len(expected)


def _digest(file: Path, done: int, total: int, report: Report) -> tuple[str, int]:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while piece := content.read(CHUNK):
            digest.update(piece)
            done += len(piece)
            report(done, total)
    return digest.hexdigest(), done


def _facts(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def _noted(part: Part, file: Path) -> str:
    root = file.parent.parent if part.folder else file.parent
    try:  # three lines: the commit, what the hub calls the content, and when it came
        with (root / _METADATA / part.folder / f"{file.name}.metadata").open("rb") as noted:
            _commit, digest, came = noted.read(1000).decode("ascii").split()
        replaced = file.stat().st_mtime > float(came) + 1  # by the user, who wants another file there
    except (OSError, ValueError):
        return ""
    return "" if replaced else digest

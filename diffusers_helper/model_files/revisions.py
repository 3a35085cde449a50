"""Which commit of each repository is in use, kept beside the program: what changes upstream later changes nothing here.

The first download of a repository decides. The file can be copied to other computers, so that all have the same model.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

from diffusers_helper.core.errors import ModelFilesError, OutputError
from diffusers_helper.core.files import atomic_write, parsed_json
from diffusers_helper.core.messages import Message

logger = logging.getLogger(__name__)

LOCK_FILE = Path(__file__).parents[2] / "models.lock"
_COMMIT = re.compile("[0-9a-f]{40}")


class Revisions:
    """Commits by repository, in the JSON file `path`; None keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def of(self, repository: str) -> str | None:
        """The commit to use; None if none was decided. Raises ModelFilesError for a file that makes no sense."""
        return self._read().get(repository)

    def remember(self, repository: str, commit: str) -> None:
        """Decide for `commit`, unless that was done before."""
        kept = self._read()
        if self._path is None or repository in kept:
            return
        try:
            with atomic_write(self._path) as part:
                part.write_text(json.dumps(kept | {repository: commit}, indent=2) + "\n", encoding="utf-8")
        except OutputError as error:
            logger.warning("The model's version is not kept. %s", error)

    def _read(self) -> dict[str, str]:
        if self._path is None or not self._path.exists():
            return {}
        try:
            content = parsed_json(self._path.read_text(encoding="utf-8"))
            if all(_COMMIT.fullmatch(commit) for commit in content.values()):
                return dict(content)
        except (OSError, ValueError, AttributeError, TypeError):
            pass
        raise ModelFilesError(
            Message("{file} is no list of commits. Delete it, or copy it again.", file=str(self._path))
        )

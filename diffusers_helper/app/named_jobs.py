"""Jobs while they run: held on the disk, and what their files are called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffusers_helper.core.errors import UnknownJobError
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.jobs.store import JobStore
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.names import DEFAULT_TEMPLATE, let_go, require_template, reserve, stems

EXACT_NAMES = ""
"""As the option `name_template`: results are called as their jobs are."""


class NamedJobs:
    """Holds the jobs of `store` while they run, and names their files.

    Args:
        store: where the jobs are kept.
        outputs: the folder of results.
        template: of their names, as the option `name_template` has it; None for the usual one.
        models: where the models are from, for the record.

    Raises SettingsError for a template that makes no names.
    """

    def __init__(self, store: JobStore, outputs: Path, template: str | None, models: str) -> None:
        self._store = store
        self._outputs = outputs
        self._template = "" if template == EXACT_NAMES else require_template(template or DEFAULT_TEMPLATE)
        self._models = models

    @contextmanager
    def running(self, name: str, inputs: JobInputs) -> Iterator[tuple[Path, Path]]:
        """Hold the job `name`; give the folder of its checkpoint, and the path of its files without ending.

        The path is in its record before any work, so that whoever goes on finds the files.
        """
        place, _, job_id = name.rpartition("/")
        output, reserved = self._output_of(job_id, inputs.request), False
        if not output:
            names = stems(self._template, inputs.request, inputs.start_name, job_id)
            stem = reserve(self._outputs / place, names) if self._template else job_id
            output, reserved = f"{place}/{stem}" if place else stem, True
        try:
            with self._store.running(job_id, inputs, output=output, models=self._models) as folder:
                yield folder, self._outputs / output
        finally:
            if reserved:
                let_go(self._outputs / output)

    def _output_of(self, job_id: str, request: GenerationRequest) -> str:
        """Return where the files of a job are that ran before; empty for a new one."""
        try:
            record = self._store.record(job_id)
        except UnknownJobError:
            return ""
        return record.output if record.request == request else ""

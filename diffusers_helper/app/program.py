"""What the page and the command line run: device, model folder, models and the run function of one process.

Only the device and the presence of the files are settled at the start; what takes long to import is imported by
`prepare`, which the jobs' worker calls after the page is served.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from diffusers_helper.app.device import device_fault, pick_device, require_gpus, unused_card_note
from diffusers_helper.app.gpu_choices import require_fitting, require_heads
from diffusers_helper.app.groups import groups_of
from diffusers_helper.app.late_imports import import_late
from diffusers_helper.app.listener import Listener
from diffusers_helper.app.makers import Generate, Maker, OwnModels
from diffusers_helper.app.named_jobs import NamedJobs
from diffusers_helper.app.needed_files import NeededFiles
from diffusers_helper.app.notices import FP8_NOTE, staggered, together
from diffusers_helper.app.video_times import VideoTimes
from diffusers_helper.core.directing import direct
from diffusers_helper.core.errors import CancelledError, ModelFilesError
from diffusers_helper.core.events import Event, Finished
from diffusers_helper.core.gpus import GpuUse
from diffusers_helper.core.messages import join_sentences, language
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.jobs.job import Job, hidden_folder, user_folder
from diffusers_helper.jobs.kept_video import with_kept_videos
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.progress import JobSnapshot, Previewer
from diffusers_helper.jobs.queue import JOBS_PER_OWNER, QueueLimits
from diffusers_helper.jobs.store import JobStore
from diffusers_helper.jobs.unfinished import StoredJobs
from diffusers_helper.jobs.worker import WorkerHooks
from diffusers_helper.loading.compute import ComputeOptions
from diffusers_helper.loading.environment import differences
from diffusers_helper.loading.precision import Precisions, TensorCores
from diffusers_helper.loading.step_ratios import FOLDER as STEP_RATIOS
from diffusers_helper.loading.step_ratios import StepRatios
from diffusers_helper.memory import default_device, empty_caches
from diffusers_helper.model_files import resolve_models
from diffusers_helper.model_files.checksums import RECORD
from diffusers_helper.model_files.lora_library import LoraLibrary
from diffusers_helper.models.attention import NAMES as ATTENTION_BACKENDS
from diffusers_helper.models.attention import resolve_attention
from diffusers_helper.models.dtypes import half_precision
from diffusers_helper.service.config import RuntimeConfig
from diffusers_helper.service.health import About
from diffusers_helper.service.notify import Notifier
from diffusers_helper.service.packages import importing
from diffusers_helper.service.places import require_writable
from diffusers_helper.service.preload import Preload

if TYPE_CHECKING:
    from diffusers_helper.loading.components import Components
    from diffusers_helper.media.inputs import JobInputs

logger = logging.getLogger(__name__)


class Program:
    """The models of one process, loaded when they are needed.

    Args:
        config: the settings of this process.
        variant: which one is used where a request names none; its files have to be there.
        generate: makes a video; None is `generation.generate.generate`, imported with the first one.
        best_device: finds the device where none is chosen.

    Attributes:
        device: where models run.
        outputs: the folder of results.
        defaults: a request with the settings that suit the models.
        source: where the models are from.
        note: what a user has to know of the models; empty for nothing.
        loras: the LoRA files in the user's folders, and those that come with the models.
        precisions: what blocks multiply here.
        step_ratios: what MagCache knows of the models.
        preload: loads models before the first job; see `make_manager`.
        store: the jobs that are not done, on the disk.
        times: how long videos take here.

    Raises SettingsError for a device, attention backend or template of names that does not work here, ModelFilesError
    for missing files.
    """

    def __init__(
        self,
        config: RuntimeConfig,
        variant: str,
        *,
        generate: Generate | None = None,
        best_device: Callable[[], torch.device] = default_device,
    ) -> None:
        folders = config.folders
        require_fitting(config)
        with config.naming_source("device"):  # a group's processes have the GPUs, and this one has none
            self.device = torch.device("cpu") if config.gpus else pick_device(config.device, best_device)
        if config.gpus and config.device != "cpu":
            with config.naming_source("gpus"):  # before weights are fetched for GPUs that are not here
                require_gpus(config.gpus)
        self.outputs = folders.outputs
        self.store = JobStore(self.outputs / "jobs")
        self._variant = variant
        self._config = config
        with config.naming_source("name_template"):
            self._jobs = NamedJobs(self.store, self.outputs, config.name_template, config.models or "")
        fp8 = folders.cache / "eight_bit" if config.weights == "fp8" else None
        self._options = ComputeOptions(
            attention=config.attention, fused=config.compile, fp8=fp8, stagger=config.stagger
        )
        self.preload = Preload()
        self._listener = Listener()
        if config.attention != "auto" and (not config.gpus or config.attention not in ATTENTION_BACKENDS):
            with config.naming_source("attention"):
                resolve_attention(config.attention, self.device, half_precision(self.device))
        with config.naming_source("outputs"):
            require_writable(self.outputs, "--outputs DIR")
        with config.naming_source("models"):
            self.source = resolve_models(
                config.models,
                accelerator=self.device.type != "cpu" or (config.gpus is not None and config.device != "cpu"),
                lock=folders.models_lock,
                record=folders.cache / RECORD,
            )
        require_heads(config, self.source)
        self._files = NeededFiles(self.source, offline=config.offline)
        self._files.of_variants((variant,))
        self.loras = LoraLibrary((*folders.loras, *self.source.lora_folders))
        self.step_ratios = StepRatios(self.source, folders.cache / STEP_RATIOS)
        self.defaults = self.source.defaults.model_copy(update={"variant": variant})
        self.precisions = Precisions(self.source, TensorCores(self.device, self._options))
        attention = f"{config.attention}, GPUs {config.gpus}, {config.parallel}" if config.gpus else config.attention
        self.times = VideoTimes(
            folders.cache / "speeds.json",
            self.step_ratios,
            self.device,
            replace(self._options, attention=attention),
            self.precisions,
        )
        unused = unused_card_note(self.device, config.device, gpus=config.gpus) or ""
        self._maker: Maker = (
            OwnModels(lambda: self.components, self.device, generate)
            if config.gpus is None
            else groups_of(config, self.source, self._options, self.loras.folders)
        )
        self._new_previewer, unsharp = _previewers(config.preview_decoder or self.source.preview_decoder)
        together_note = together(config) if config.gpus else ""
        fp8_note = FP8_NOTE if self.times.rounds(variant) else ""
        notes = (self.source.note, unused, fp8_note, unsharp, together_note, staggered(config))
        self.note = join_sentences([note for note in notes if note])
        logger.info("Models: %s; device: %s. %s", self.source.title, self._devices, self.note)

    @property
    def _devices(self) -> str:
        gpus = self._config.gpus if self._config.device != "cpu" else None
        return ", ".join(f"cuda:{number}" for number in gpus or ()) or str(self.device)

    @cached_property
    def components(self) -> Components:
        """The models; those of the encoders, the decoder and the transformer are loaded at their first use."""
        from diffusers_helper.loading.components import Components, LoadingProgress
        from diffusers_helper.loading.embedding_cache import EmbeddingCache
        from diffusers_helper.loading.lora_files import LoraFiles

        folder = self._config.folders.cache / "embeddings"
        components = Components(
            self.source,
            self.device,
            self._options,
            LoadingProgress(self._listener.downloading, self._listener.loading),
            EmbeddingCache(folder if self._config.embedding_cache else None),
            offline=self._config.offline,
        )
        components.loras = LoraFiles(self.loras.folders)
        components.precisions = self.precisions
        components.step_ratios = self.step_ratios
        return components

    def prepare(self) -> None:
        """Import what the first video needs."""
        with importing():
            import_late()

    def generate(
        self,
        inputs: JobInputs,
        name: str,
        *,
        check: Callable[[], None],
        report: Callable[[str], None],
        allow_env_change: bool = False,
    ) -> Generator[Event, None, None]:
        """Make the video, or the single picture, of the job `name`: its id, after the folder where its files go.

        See `generation.generate` and `generation.start`.

        What its files are called is decided when it first runs, and stays. A job of this id and request that was cut
        off goes on: where it was if the environment is the same or `allow_env_change`, else from its start.
        `report` gets sentences about what takes long inside one stage.
        """
        from diffusers_helper.generation import start

        self._listener.be_job(check, report)
        self.preload.over()
        inputs = inputs.with_seed()
        request = self.identified(inputs.request)
        inputs = replace(inputs, request=request)
        listener = Listener()  # other videos may be made at the same time
        listener.be_job(check, report)
        elsewhere = self._maker.pictures(check, listener.loading)
        with self._jobs.running(name, inputs) as (folder, output):
            model, metadata = self._config.start_from or "", self._config.metadata
            maker = start.PictureMaker(self.components, check, model, metadata, elsewhere)
            if request.frame:
                yield from start.generate_frame(inputs, maker, output)
                return
            kept, keep = partial(self.store.start_of, folder.name), partial(self.store.keep_start, folder.name)
            inputs = yield from start.with_start(inputs, maker, output, kept, keep)
            events = self._maker.generate(
                with_kept_videos(inputs, folder),
                output=output,
                check=check,
                checkpoint=folder,
                metadata=self._config.metadata,
                allow_env_change=allow_env_change,
                report=listener.loading,
            )
            yield from self._timed(events, inputs, folder.name)

    def _timed(
        self, events: Generator[Event, None, None], inputs: JobInputs, job_id: str
    ) -> Generator[Event, None, None]:
        """Pass the events of a job's video on, and note how long it took and how long it became."""
        with closing(self.times.timed(events, inputs.request, inputs.shape)) as timed:
            for event in timed:
                if isinstance(event, Finished) and event.made is not None:
                    self.store.update(job_id, frames=event.frames)
                yield event

    def identified(self, request: GenerationRequest) -> GenerationRequest:
        """Return `request` with the digests of its LoRA files; raises SettingsError and LoraError for their faults."""
        return self.components.loras.identified(request) if request.loras else request

    def env_warning(self, job_id: str) -> str:
        """Return what is different here from where the video was begun; empty if nothing is."""
        from diffusers_helper.generation.checkpoint import environment_in
        from diffusers_helper.generation.sampling import with_calibration

        record = self.store.record(job_id)
        variants = direct(record.request, record.pictures, record.videos).plan.variants
        before = environment_in(self.store.path(job_id))
        found = self._maker.environment(before, record.request, variants)
        return differences(before, with_calibration(found, self.step_ratios, record.request, variants))

    def release(self) -> None:
        """Give up the models, and end the processes that make no video now; the next one loads them again."""
        self._release_own()
        self._maker.release()

    def _release_own(self) -> None:
        if "components" in self.__dict__:
            self.components.release_all()
        empty_caches()

    def loaded(self) -> tuple[str, ...]:
        """Return the variants whose transformers are in memory: one at most."""
        return self.components.loaded_variants if "components" in self.__dict__ else ()

    def fault(self) -> str:
        """Return why the device computes no more; empty if it does."""
        return device_fault(self.device)

    def gpus(self) -> Sequence[GpuUse]:
        """Return how the GPUs are used that make videos here; those of a group from its first step on."""
        return self._maker.gpus

    def make_manager(
        self,
        *,
        preload: bool = False,
        by_user: bool = False,
        apart: bool = False,
        max_per_owner: int | None = JOBS_PER_OWNER,
    ) -> JobManager:
        """Return the queue that runs this program's jobs.

        Args:
            preload: load the models before the first job, as far as that is wise here.
            by_user: keep the results of each owner in a folder of their own.
            apart: otherwise keep each result in a folder that nobody guesses, as its name can be guessed.
            max_per_owner: how many jobs of one owner may wait; None for no limit.
        """

        def run(job: Job) -> Generator[Event, None, None]:
            place = user_folder(job.owner) if by_user else hidden_folder() if apart else ""
            name = f"{place}/{job.id}" if place else job.id
            return self.generate(
                job.inputs,
                name,
                check=job.check,
                report=job.set_status,
                allow_env_change=job.allow_env_change,
            )

        def prepare() -> None:
            try:
                self.prepare()
                if preload:
                    self._listener.be(still_wanted, self.preload.tell)
                    self.preload.run(self.components, self._variant, still_wanted)
            finally:
                self.preload.end()

        def still_wanted() -> None:
            if manager.closing:
                raise CancelledError("The program is stopping.")

        def after_failure() -> None:
            manager.stats.fatal_error = self.fault()
            if not manager.stats.fatal_error:
                self._release_own()  # a group has ended with its failure

        preload = preload and self._config.gpus is None  # whose processes load for themselves
        if preload:
            self.preload.expect()
        manager = JobManager(
            run,
            hooks=WorkerHooks(self._new_previewer, prepare, after_failure, self.release, self._on_end()),
            limits=QueueLimits(per_owner=max_per_owner, at_once=self._maker.at_once),
            unfinished=StoredJobs(self.store, self.env_warning),
            require=self._files.of_job,
        )
        return manager

    def _on_end(self) -> Callable[[JobSnapshot], None] | None:
        """Return what tells the operator's address of a job that has ended; None where there is none."""
        if self._config.notify_url is None:
            return None
        if self._config.offline:
            logger.warning("With --offline nobody is told when a video is done")
            return None
        return Notifier(self._config.notify_url, self._config.notify_form, language(self._config.language)).tell

    def about(self, port: int) -> About:
        """Return what the endpoints tell of this process, whose page is at `port`."""
        card = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else None
        return About(port, self._devices, card, self._variant, self.source.title)


def _previewers(file: Path | None) -> tuple[Callable[[], Previewer], str]:
    """Return what makes previewers with the decoder in `file`, and why without it; empty for nothing."""
    from diffusers_helper.jobs.previewer import LatentPreviewer, SmallDecoder
    from diffusers_helper.loading.preview_decoder import read_preview_decoder

    if file is None:
        return LatentPreviewer, ""
    try:
        decoder = read_preview_decoder(file)
    except ModelFilesError as error:
        logger.warning("%s", error)
        return LatentPreviewer, str(error)
    return lambda: LatentPreviewer(SmallDecoder(decoder)), ""

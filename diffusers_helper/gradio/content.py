"""What a page is made from: the model that it drives, what it shares with the other pages, what else it shows."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.gradio.api.video_edits import VideoReader
from diffusers_helper.gradio.client_jobs import ClientJobs
from diffusers_helper.history.library import History
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.speeds import Estimate
from diffusers_helper.media.decoding import PhotoReader
from diffusers_helper.media.wildcards import WildcardFolder
from diffusers_helper.model_files.lora_library import LoraLibrary
from diffusers_helper.presets.store import PresetFolders
from diffusers_helper.service.preload import Preload
from diffusers_helper.service.system_monitor import SystemMonitor


def _unknown(_request: GenerationRequest, _pictures: Collection[str]) -> Estimate | None:
    return None


@dataclass(frozen=True)
class ModelCard:
    """The model, as the page presents it.

    Attributes:
        defaults: what the controls show at first, the variant among them; a `resolution` of None shows 640.
        note: a sentence that a user must see; empty for none.
        camera_only: it knows moves of the camera and no people; the ideas for prompts are of that kind.
        estimate: tells how long a video takes here, made from pictures of these names; None where nobody knows.
        start_from: the text-to-image model that makes first pictures; empty for none.
        wildcards: the files that a prompt may name, as `__animal__`.
        presets: settings under names; those that come along fit this model.
        loras: the LoRA files that may be chosen; everybody who sees the page sees their names.
    """

    defaults: GenerationRequest
    note: str = ""
    camera_only: bool = False
    estimate: Callable[[GenerationRequest, Collection[str]], Estimate | None] = _unknown
    start_from: str = ""
    loras: LoraLibrary = field(default_factory=lambda: LoraLibrary(()))
    wildcards: WildcardFolder = field(default_factory=lambda: WildcardFolder(None))
    presets: PresetFolders = field(default_factory=lambda: PresetFolders(None))


@dataclass(frozen=True)
class Backend:
    """What the pages of all languages share.

    Attributes:
        manager: runs the jobs.
        client_jobs: which job is whose.
        photos: reads photos, with a bound for the whole program.
        videos: reads given videos, likewise.
        history: what was made; None for a page without it.
    """

    manager: JobManager
    client_jobs: ClientJobs
    photos: PhotoReader = field(default_factory=PhotoReader)
    videos: VideoReader = field(default_factory=VideoReader)
    history: History | None = None


@dataclass(frozen=True)
class ProgramStatus:
    """What the page shows of the program beside its videos; there is no panel for what is None.

    Attributes:
        computer: what the panel "Computer" looks at.
        preload: what loads models ahead.
        quarantined: tells of kept jobs that cannot be used; see `Quarantine.listed`.
    """

    computer: SystemMonitor | None = None
    preload: Preload | None = None
    quarantined: Callable[[], list[tuple[str, str]]] | None = None

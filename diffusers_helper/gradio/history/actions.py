"""What is done with a video of the history: on the stage, in the form, in the queue, as another file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from diffusers_helper.core.errors import FramePackError, SettingsError
from diffusers_helper.core.files import output_error
from diffusers_helper.core.messages import Language, Message
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.gradio.api.video_edits import VideoReader
from diffusers_helper.gradio.client_jobs import require_client_id
from diffusers_helper.gradio.create.recipe import RecipeHandlers
from diffusers_helper.gradio.door.privacy import client_id_of, owner_of
from diffusers_helper.gradio.door.uploads import Uploads
from diffusers_helper.gradio.history.handlers import HistoryHandlers, told_by, viewer_of
from diffusers_helper.gradio.history.remaking import another_take, made_in_full, recipe_of
from diffusers_helper.gradio.inputs import file_value, read_request, stored_picture
from diffusers_helper.gradio.view import FORMS, fault, file_url
from diffusers_helper.history.library import History
from diffusers_helper.history.query import Viewer
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.media.clip import open_clip
from diffusers_helper.media.edits import extended
from diffusers_helper.media.export import export, last_frame
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.model_files.lora_library import LoraLibrary


@dataclass(frozen=True)
class Means:
    """What the actions need.

    Attributes:
        history: what was made.
        manager: runs new jobs.
        recipes: fills the form.
        videos: reads videos in turn.
        loras: the LoRA files that may be used.
    """

    history: History
    manager: JobManager
    recipes: RecipeHandlers
    videos: VideoReader
    loras: LoraLibrary


@dataclass(frozen=True)
class Asked:
    """One action: who asks, of which video, and what the browser says with it."""

    viewer: Viewer
    job_id: str
    told: Mapping[str, Any]
    client_id: object
    seconds: object
    request: gr.Request | None


class VideoActions:
    """The handlers behind the tab's second event and behind the buttons of the stage.

    Args:
        means: what it needs.
        handlers: show the page of the history again.
        t: the language of the page.
    """

    def __init__(self, means: Means, handlers: HistoryHandlers, t: Language) -> None:
        self._means = means
        self._handlers = handlers
        self._t = t
        self._actions: dict[str, Callable[[Asked], dict[str, Any]]] = {
            "open": self._open,
            "use_settings": self._use_settings,
            "last_frame": self._last_frame,
            "new_take": self._new_take,
            "full": self._full,
            "extend": self._extend,
            "resume": self._resume,
            "export": self._export,
        }

    def use(
        self,
        client_id: object,
        seconds: object,
        event: gr.EventData,
        request: gr.Request | None = None,
    ) -> dict[str, Any]:
        """Do what an event of the grid says.

        Return the page of the history in `grid`, which video the stage shows in `shown`, the form's values, and in
        `tabs` what is to be seen, as far as they are others now.
        """
        told = told_by(event)
        viewer = viewer_of(client_id, request)
        done = self._done(Asked(viewer, str(told.get("id")), told, client_id, seconds, request))
        filled = {"grid": self._handlers.page(viewer, told, **done.get("more", {})), **_brought(done)}
        return {**filled, "tabs": gr.update(selected="create")} if "shown" in done or "form" in done else filled

    def use_on_stage(
        self,
        client_id: object,
        seconds: object,
        event: gr.EventData,
        request: gr.Request | None = None,
    ) -> dict[str, Any]:
        """Do what a button of the stage says.

        Return in `message` what went wrong, in `saved` the file to save, and what else `use` returns of stage and form.
        """
        told = told_by(event)
        done = self._done(Asked(viewer_of(client_id, request), str(told.get("id")), told, client_id, seconds, request))
        more = done.get("more", {})
        return {"message": fault(more.get("fault", "")), "saved": more.get("save"), **_brought(done)}

    def _done(self, what: Asked) -> dict[str, Any]:
        action = self._actions.get(str(what.told.get("action")))
        try:
            return action(what) if action else {}
        except FramePackError as error:
            return {"more": {"fault": self._t(str(error))}}

    def _open(self, what: Asked) -> dict[str, Any]:
        return {"shown": self._means.history.entry(what.viewer, what.job_id).id}

    def _use_settings(self, what: Asked) -> dict[str, Any]:
        recipe, file = recipe_of(self._means.history, what.viewer, what.job_id)
        return {"form": self._means.recipes.fill(recipe, file, what.request)}

    def _last_frame(self, what: Asked) -> dict[str, Any]:
        file = BytesIO()
        with self._means.videos.turn():
            last_frame(self._video(what)).save(file, format="PNG")
        photo = stored_picture(file.getvalue(), owner_of(what.request))
        return {"form": {"told": "", "image": file_value(photo)}}

    def _new_take(self, what: Asked) -> dict[str, Any]:
        inputs = another_take(self._means.history, what.viewer, what.job_id)
        return self._submit(what, self._checked(inputs))

    def _full(self, what: Asked) -> dict[str, Any]:
        """Make the video of a draft exactly."""
        inputs = made_in_full(self._means.history, what.viewer, what.job_id)
        return self._submit(what, self._checked(inputs))

    def _extend(self, what: Asked) -> dict[str, Any]:
        """Go on after the end of a video, by as many seconds as the form has."""
        request = self._means.history.request(what.viewer, what.job_id)
        settings = request.model_dump() | {"seed": -1, "keep": ["photo", "recipe"]}
        for name in ("end_strength", "key_seconds"):
            settings[name] = GenerationRequest.model_fields[name].get_default(call_default_factory=True)
        if isinstance(what.seconds, int | float):
            settings["seconds"] = what.seconds
        wanted = read_request(settings, self._means.loras)
        with self._means.videos.turn():
            return self._submit(what, extended(wanted, open_clip(self._video(what))))

    def _resume(self, what: Asked) -> dict[str, Any]:
        entry = self._means.history.entry(what.viewer, what.job_id)
        self._means.manager.resume(entry.id)
        return {"shown": entry.id}

    def _export(self, what: Asked) -> dict[str, Any]:
        form = str(what.told.get("form"))
        if form not in FORMS:
            raise SettingsError(Message("Videos can be saved as GIF, WebM or PNG."))
        source = self._video(what)
        with self._means.videos.turn():
            file = exported(source, form, owner_of(what.request))
        return {"more": {"save": {"url": file_url(file), "name": file.name}}}

    def _video(self, what: Asked) -> Path:
        entry = self._means.history.entry(what.viewer, what.job_id)
        if not entry.file or entry.picture or entry.deleted:
            raise SettingsError(Message("There is no video of this."))
        return self._means.history.outputs / entry.file

    def _checked(self, inputs: JobInputs) -> JobInputs:
        """Find the LoRA files of a request where they are here."""
        request = read_request(inputs.request.model_dump(), self._means.loras)
        return JobInputs(request, inputs.pictures, inputs.videos)

    def _submit(self, what: Asked, inputs: JobInputs) -> dict[str, Any]:
        whose = require_client_id(client_id_of(what.client_id, what.request))  # or the job were nobody's
        return {"shown": self._means.manager.submit(inputs, owner=owner_of(what.request), client_id=whose)}


def _brought(done: Mapping[str, Any]) -> dict[str, Any]:
    """Return which video the stage shows, and the form, as far as an action brings them."""
    form: dict[str, Any] = done.get("form", {})
    return {**form, "shown": done["shown"]} if "shown" in done else form


def exported(source: Path, form: str, owner: str) -> Path:
    """Return a video in another form, among the uploads of `owner`; raises ClipError and OutputError."""
    uploads = Uploads(Path(get_upload_folder()))
    about = source.stat()
    name = sha256(f"{source}\0{about.st_mtime_ns}\0{form}".encode("utf-8", "surrogateescape")).hexdigest()
    file = uploads.folder / name / f"{source.stem}.{form}"
    try:
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            export(source, file)
        uploads.add([file], owner)
    except OSError as error:
        raise output_error(file, error) from error
    return file

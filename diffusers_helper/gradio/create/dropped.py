"""Files that are dropped anywhere on the page, or several or other ones than a picture that are chosen as the photo.

One that this program made offers its photo and its settings; several photos become a video each. What is offered
stands above the form until somebody decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal

import gradio as gr

from diffusers_helper.core.errors import FramePackError, PhotoError, QueueFullError
from diffusers_helper.core.files import display_name
from diffusers_helper.core.messages import Language, Message
from diffusers_helper.gradio.client_jobs import require_client_id
from diffusers_helper.gradio.create.recipe import RecipeHandlers
from diffusers_helper.gradio.door.privacy import client_id_of
from diffusers_helper.gradio.inputs import SETTINGS, file_value, photo_size, sent_file
from diffusers_helper.gradio.keys import KEY_PHOTOS
from diffusers_helper.gradio.queue.adding import Adder
from diffusers_helper.gradio.view import fault, hint
from diffusers_helper.media.decoding import PhotoReader, PhotosBusyError
from diffusers_helper.media.recipe import Recipe, read_recipe

_BUTTONS: dict[str, tuple[Message, Literal["primary", "secondary"], str]] = {
    "photo": (Message("Use photo"), "secondary", "use-photo"),
    "settings": (Message("Use settings"), "secondary", "use-settings"),
    "both": (Message("Use both"), "primary", "use-both"),
    "queue": (Message("Queue them all"), "primary", "queue-all"),
    "leave": (Message("Leave it"), "secondary", "leave-dropped"),
}
_PHOTOS = ("image", "end_photo")


@dataclass(frozen=True)
class DropPanel:
    """The parts of what is offered.

    Attributes:
        files: where page.js puts what was dropped.
        kept: the files that something is offered about.
        told: what they are, or why they cannot be used.
        buttons: "photo", "settings" and "both" for one that was made here, "queue" for several photos, and "leave".
    """

    files: gr.File
    kept: gr.JSON
    told: gr.HTML
    buttons: dict[str, gr.Button]

    @property
    def shown(self) -> dict[str, Any]:
        """What every handler fills."""
        return {"kept": self.kept, "told": self.told, **self.buttons}


def lay_out_dropped(t: Language) -> DropPanel:
    """Make the parts inside the current column; nothing of them is to be seen before something is dropped."""
    files = gr.File(file_count="multiple", visible="hidden", elem_id="dropped-files")
    kept = gr.JSON(visible=False)
    with gr.Column(elem_id="dropped"):
        told = gr.HTML("", elem_id="dropped-told", apply_default_css=False)
        with gr.Row(elem_id="dropped-buttons"):
            buttons = {
                name: gr.Button(t(label), size="sm", min_width=90, visible=False, variant=variant, elem_id=elem_id)
                for name, (label, variant, elem_id) in _BUTTONS.items()
            }
    return DropPanel(files, kept, told, buttons)


class DropHandlers:
    """What the panel does.

    Args:
        recipes: fills the form.
        adder: queues several photos.
        photos: reads photos.
        t: the language of the page.
    """

    def __init__(self, recipes: RecipeHandlers, adder: Adder, photos: PhotoReader, t: Language) -> None:
        self._recipes = recipes
        self._adder = adder
        self._photos = photos
        self._t = t

    def look(self, files: object, request: gr.Request | None = None) -> dict[str, Any]:
        """Return an empty field for the next files, the photo if they are one, and what is offered."""
        given = [file for file in files if isinstance(file, dict)] if isinstance(files, list) else []
        emptied = {"files": None}
        if len(given) != 1:
            return {**emptied, **self._several(given)}
        [file] = given
        try:
            recipe, path = self._recipe(file, request)
        except FramePackError as error:
            return {**emptied, **self._plain(file, str(error), request)}
        return {**emptied, **self._made_here(recipe, path, file)}

    def look_at_photo(self, image: object, request: gr.Request | None = None) -> dict[str, Any]:
        """Return what is offered about the picture in the photo's own field: its settings, if it has any."""
        try:
            self._recipe(image, request)
        except FramePackError:
            return self._nothing()
        told = hint(self._t("This picture was made here and has its settings in it."))
        return self._offer([image], told, settings=True)

    def use_photo(self, kept: object, request: gr.Request | None = None) -> dict[str, Any]:
        """Return what `use_both` does, of the photos alone."""
        used = self.use_both(kept, request)
        return {name: value for name, value in used.items() if name not in (*SETTINGS, KEY_PHOTOS)}

    def use_settings(self, kept: object, request: gr.Request | None = None) -> dict[str, Any]:
        """Return what `use_both` does, without the photos."""
        used = self.use_both(kept, request)
        return {name: value for name, value in used.items() if name not in (*_PHOTOS, KEY_PHOTOS)}

    def use_both(self, kept: object, request: gr.Request | None = None) -> dict[str, Any]:
        """Return what is offered now, and the form as the file has it."""
        file = kept[0] if isinstance(kept, list) and kept else None
        return {**self._nothing(), **self._recipes.restore(file, request)}

    def queue(
        self, client_id: object, kept: object, request: gr.Request | None = None, **values: Any
    ) -> dict[str, Any]:
        """Queue a job for each photo; return what is offered of those that found no place.

        All videos end at the same end photo, if there is one. A photo that cannot be used is told, and not left.
        """
        files = kept if isinstance(kept, list) else []
        done, refused, message = 0, list[str](), ""
        try:
            known = require_client_id(client_id_of(client_id, request))
            for name, why in self._adder.each(known, files, request, **values):
                done += 1
                refused += [f"{name}: {self._t(why)}"] if why else []
        except (QueueFullError, PhotosBusyError) as error:
            message = self._t("{reason} The photos that are left stay here.", reason=self._t(str(error)))
        except FramePackError as error:
            message = self._t(str(error))
        left, queued = files[done:], done - len(refused)
        told = hint(self._t("In the queue: {count}", count=queued)) if queued else ""
        told += "".join(map(fault, refused)) + fault(message)
        return self._offer(left, told, queue=bool(left)) if left else self._nothing(told)

    def leave(self) -> dict[str, Any]:
        """Return that nothing is offered."""
        return self._nothing()

    def _recipe(self, file: object, request: gr.Request | None) -> tuple[Recipe, Path]:
        path = sent_file(file, request)
        return read_recipe(path), path

    def _plain(self, file: dict[str, Any], no_settings: str, request: gr.Request | None) -> dict[str, Any]:
        """Return the photo that a file without settings is, or why it is of no use."""
        try:
            photo_size(file, self._photos, request)
        except PhotoError:
            return self._nothing(fault(self._t(no_settings)))
        except FramePackError as error:
            return self._nothing(fault(self._t(str(error))))
        return {"image": file_value(file["path"]), **self._nothing()}

    def _made_here(self, recipe: Recipe, path: Path, file: dict[str, Any]) -> dict[str, Any]:
        has_photo = recipe.picture or bool(recipe.photo)
        name = escape(display_name(str(file.get("orig_name") or path.name)))
        told = hint(self._t("“{name}” was made here. What do you want of it?", name=name))
        return self._offer([file], told, photo=has_photo, settings=True, both=has_photo)

    def _several(self, files: list[dict[str, Any]]) -> dict[str, Any]:
        if not files:
            return self._nothing()
        text = self._t(
            "{count} files: each photo becomes a video with the words, the settings and the end photo of the form.",
            count=len(files),
        )
        return self._offer(files, hint(text), queue=True)

    def _offer(self, kept: list[Any], told: str, **visible: bool) -> dict[str, Any]:
        buttons = {name: gr.update(visible=visible.get(name, name == "leave")) for name in _BUTTONS}
        return {"kept": kept, "told": told, **buttons}

    def _nothing(self, told: str = "") -> dict[str, Any]:
        return {"kept": None, "told": told, **{name: gr.update(visible=False) for name in _BUTTONS}}

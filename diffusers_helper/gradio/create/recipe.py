"""A file that FramePack made fills the form with what it was made with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from diffusers_helper.core.directing import key_name
from diffusers_helper.core.errors import FramePackError, SettingsError
from diffusers_helper.core.files import display_name
from diffusers_helper.core.loras import Lora
from diffusers_helper.core.messages import ENGLISH, Language, Message
from diffusers_helper.core.plan import END
from diffusers_helper.core.request import BEST_CRF, WORST_CRF
from diffusers_helper.gradio import view
from diffusers_helper.gradio.door.privacy import owner_of
from diffusers_helper.gradio.inputs import SETTINGS, control_value, file_value, sent_file, stored_picture
from diffusers_helper.gradio.keys import KEY_PHOTOS, key_photo
from diffusers_helper.media.recipe import Recipe, read_recipe
from diffusers_helper.model_files.lora_library import LoraLibrary, named

logger = logging.getLogger(__name__)


class RecipeHandlers:
    """Fills the form.

    Args:
        t: the language of the page.
        read: reads what is in a file; see `media.recipe.read_recipe`.
        loras: the LoRA files that are here; None for none.
    """

    def __init__(
        self,
        t: Language = ENGLISH,
        read: Callable[[Path], Recipe] = read_recipe,
        loras: LoraLibrary | None = None,
    ) -> None:
        self._t = t
        self._read = read
        self._loras = loras or LoraLibrary(())

    def restore(self, value: object, request: gr.Request | None = None) -> dict[str, Any]:
        """Do as `fill`, of an upload."""
        try:
            path = sent_file(value, request)
            recipe = self._read(path)
        except FramePackError as error:
            return {"told": view.fault(self._t(str(error)))}
        return self.fill(recipe, path, request)

    def fill(self, recipe: Recipe, path: Path, request: gr.Request | None = None) -> dict[str, Any]:
        """Return in `told` what is to be said, and the values of a request as the file has them; the rest stays."""
        photo, missing = self._photo(recipe, path, request)
        end_photo, no_end = self._end_photo(recipe, request)
        keys, no_keys = self._keys(recipe, request)
        known = "loras" in recipe.settings or recipe.names is not None  # our files without any were made without
        settings = {"loras": (), **recipe.settings} if known else recipe.settings
        controls, lora_notes = self.controls(settings)
        notes = [text for text in (missing, no_end, no_keys) if text] + lora_notes
        filled = {"told": self._told(recipe, notes), **controls, **end_photo, **keys}
        if photo or settings.get("start") == "colour":
            filled["image"] = file_value(photo)
        return filled

    def controls(self, settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Return the values of the controls of `SETTINGS`, and sentences on LoRA files; what is not told stays."""
        values, notes = dict(settings), list[str]()
        if "mp4_crf" in values:
            values["mp4_crf"] = min(max(values["mp4_crf"], BEST_CRF), WORST_CRF)
        if values.get("resolution", 0) is None:
            del values["resolution"]
        if "loras" in values:
            values["loras"], notes = self._loras_here(values["loras"])
        return {name: control_value(name, values[name]) for name in SETTINGS if name in values}, notes

    def _loras_here(self, loras: Iterable[Lora]) -> tuple[list[Lora], list[str]]:
        """Return LoRA files by the names that they have here, and sentences on those that are missing or others."""
        files, found = self._loras.files(), []
        notes: list[str] = []
        for lora in loras:
            place = lora.name
            try:
                file = named(_without_root(lora.name), files)
                self._loras.require_usable(file)
                place = file.name
                if lora.sha256 not in ("", self._loras.sha256(file)):
                    notes.append(
                        Message("LoRA {name} is another file here than the one this was made with.", name=file.name)
                    )
            except SettingsError as error:
                notes.append(error.args[0])
            found.append(lora.model_copy(update={"name": place, "sha256": ""}))
        return found, notes

    @staticmethod
    def _photo(recipe: Recipe, path: Path, request: gr.Request | None) -> tuple[Path | None, str]:
        """Return the photo of `recipe`, which is the file at `path` or in it, or else why there is none."""
        if recipe.settings.get("start") == "colour":
            return None, ""  # the picture is blank, and no photo
        if recipe.picture:
            return path, ""
        try:
            if photo := stored_picture(recipe.photo, owner_of(request)):
                return photo, ""
        except FramePackError as error:
            logger.warning("The photo in %s could not be kept: %s", display_name(path), error)
            return None, str(error)
        return None, Message("The photo is not in this file: add it, or restore from the PNG beside the video.")

    @staticmethod
    def _end_photo(recipe: Recipe, request: gr.Request | None) -> tuple[dict[str, Any], str]:
        """Return what the end photo's control gets and, where that lacks what `recipe` had, why."""
        if recipe.names is None:
            return {}, ""
        if END not in recipe.names:
            return {"end_photo": None}, ""
        try:
            if photo := stored_picture(recipe.more.get(END, b""), owner_of(request)):
                return {"end_photo": file_value(photo)}, ""
        except FramePackError as error:
            return {"end_photo": None}, str(error)
        return {"end_photo": None}, Message("The end photo is not in this file: add it, or restore from the video.")

    @staticmethod
    def _keys(recipe: Recipe, request: gr.Request | None) -> tuple[dict[str, Any], str]:
        """Return what the key photos' control gets and, where that lacks some, why."""
        if recipe.names is None:
            return {}, ""
        found: list[dict[str, Any]] = []
        missing = ""
        for number, seconds in enumerate(recipe.settings.get("key_seconds", ()), 1):
            try:
                if photo := stored_picture(recipe.more.get(key_name(number), b""), owner_of(request)):
                    found.append(key_photo(seconds, str(photo), photo.name))
                else:
                    missing = Message(
                        "Not all key pictures are in this file: add them again, or restore from the video."
                    )
            except FramePackError as error:
                missing = str(error)
                break
        return {KEY_PHOTOS: found}, missing

    def _told(self, recipe: Recipe, missing: list[str]) -> str:
        texts: list[str] = [Message("The settings are restored."), *recipe.notes, *missing]
        return "".join(view.hint(escape(self._t(text))) for text in texts)


def _without_root(name: str) -> str:
    """A LoRA's name, of a path of some computer the last part alone: there it was in a folder of its own."""
    place = name.replace("\\", "/")
    return place.rpartition("/")[2] if place.startswith("/") or place[1:3] == ":/" else name

"""The folded panel "LoRA": files of the library, chosen, weighed and told about.

Its one value is a text, `film.safetensors=0.8; grain=[0s-2.4s: 0.2] [2.4s-: 1]`, as scripts and lists have it. The list
to choose from and the cards follow that text, and a choice or a card's slider changes it.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from io import BytesIO
from typing import Any

import gradio as gr

from diffusers_helper.core.errors import PhotoError, SettingsError
from diffusers_helper.core.loras import Lora
from diffusers_helper.core.messages import ENGLISH, Language
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.gradio.create.lora_view import ChosenLora, cards
from diffusers_helper.gradio.inputs import control_value
from diffusers_helper.gradio.listeners import QUIET, RAW, fills
from diffusers_helper.gradio.view import fault, hint
from diffusers_helper.media.decoding import PhotoReader, PhotosBusyError
from diffusers_helper.media.photo import Photo, open_photo
from diffusers_helper.model_files.lora_library import LibraryFile, LoraLibrary, named

THUMBNAIL = 192
"""Pixels of a preview's longer side."""
_MAX_PICTURE = 20_000_000
_EXAMPLE = "film.safetensors=0.8; grain=[0s-2.4s: 0.2] [2.4s-: 1]"
_QUICK = RAW | QUIET

logger = logging.getLogger(__name__)


class LoraHandlers:
    """What the panel does.

    Args:
        library: the files to choose from.
        t: the language of the page.
        photos: reads previews; None for a reader of its own.
    """

    def __init__(self, library: LoraLibrary, t: Language = ENGLISH, photos: PhotoReader | None = None) -> None:
        self._library = library
        self._t = t
        self._photos = photos or PhotoReader()
        self._picture = lru_cache(maxsize=256)(self._read_picture)

    def refresh(self, text: object) -> Any:
        """Return the files that can be chosen now, and those that the text names."""
        return self._choices(self._library.files(), _parsed(text))

    def show(self, text: object) -> dict[str, Any]:
        """Return what `refresh` does, the cards of what the text names, and whether the panel opens for them."""
        files = self._library.files()
        try:
            loras = _read(text)
        except SettingsError as error:
            return {"choice": self._choices(files, ()), "cards": fault(self._t(str(error)), heard=False)}
        shown = {"choice": self._choices(files, loras), "cards": self._cards(files, loras)}
        return {**shown, "panel": gr.update(open=True)} if loras else shown

    def choose(self, selected: object, text: object) -> dict[str, Any]:
        """Return the text for the files that are `selected` in the list, a new one at its own weight; and the cards."""
        files = self._library.files()
        wanted = [name for name in selected if isinstance(name, str)] if isinstance(selected, list) else []
        known = {_name(lora, files): lora for lora in _parsed(text)}
        loras = [known.get(name) or self._new(name, files) for name in wanted]
        return {"text": control_value("loras", loras), "cards": self._cards(files, loras)}

    def _choices(self, files: Sequence[LibraryFile], loras: Sequence[Lora]) -> Any:
        chosen = [_name(lora, files) for lora in loras]
        names = dict.fromkeys([*(file.name for file in files), *chosen])
        return gr.update(choices=[(name, name) for name in names], value=chosen)

    def _new(self, name: str, files: Sequence[LibraryFile]) -> Lora:
        try:
            return Lora(name=name, weight=self._library.details(named(name, files)).weight or 1.0)
        except SettingsError:
            return Lora(name=name)  # gone meanwhile, which its card tells

    def _cards(self, files: Sequence[LibraryFile], loras: Sequence[Lora]) -> str:
        if not files and not loras:
            return _nothing_here(self._library, self._t)
        return cards([self._chosen(lora, files) for lora in loras], self._t)

    def _chosen(self, lora: Lora, files: Sequence[LibraryFile]) -> ChosenLora:
        try:
            file = named(lora.name, files)
            self._library.require_usable(file)
        except SettingsError as error:
            return ChosenLora(lora, problem=error.args[0])
        picture = ""
        with suppress(PhotosBusyError):  # which is not remembered
            picture = self._picture(file)
        return ChosenLora(lora, file.size, self._library.details(file), picture)

    def _read_picture(self, file: LibraryFile) -> str:
        """A small copy of a file's preview, as a data URL; empty where there is none that can be read."""
        try:
            if file.picture is not None and file.picture.stat().st_size <= _MAX_PICTURE:
                return _data_url(self._photos.read(file.picture))
            if inside := self._library.details(file).thumbnail:
                return _data_url(open_photo(base64.b64decode(inside.partition(",")[2])))
        except PhotosBusyError:
            raise
        except (PhotoError, OSError, ValueError) as error:
            logger.debug("No preview of %s: %s", file.path, error)
        return ""


@dataclass(frozen=True)
class LoraPanel:
    """The panel's parts; `text` is the setting."""

    panel: gr.Accordion
    choice: gr.Dropdown
    cards: gr.HTML
    text: gr.Textbox

    @property
    def shown(self) -> dict[str, Any]:
        """What `LoraHandlers.show` fills."""
        return {"choice": self.choice, "cards": self.cards, "panel": self.panel}


def lay_out_loras(defaults: GenerationRequest, t: Language) -> LoraPanel:
    """Make the folded panel inside the current column."""
    with gr.Accordion("LoRA", open=False, elem_id="loras") as panel:
        choice = gr.Dropdown(
            [],
            multiselect=True,
            label=t("LoRA files"),
            info=t("Type to search; several add up."),
            elem_id="lora-choice",
        )
        shown = gr.HTML(apply_default_css=False, elem_id="lora-cards")
        text = gr.Textbox(
            control_value("loras", defaults.loras),
            label=t("The same as text"),
            info=t("A weight may change over time: [0s-2.4s: 0.2] [2.4s-: 1]"),
            placeholder=_EXAMPLE,
            lines=1,
            max_lines=6,
            elem_id="lora-text",
        )
    return LoraPanel(panel, choice, shown, text)


def connect_loras(panel: LoraPanel, handlers: LoraHandlers, keep: dict[str, Any]) -> None:
    """Connect the panel; the list is read anew whenever somebody opens it. `keep` keeps the draft."""
    show = fills(handlers.show, panel.shown)
    panel.panel.expand(inputs=panel.text, **show, **_QUICK)
    panel.choice.focus(handlers.refresh, panel.text, panel.choice, **_QUICK)
    choose = fills(handlers.choose, {"text": panel.text, "cards": panel.cards})
    panel.choice.input(inputs=[panel.choice, panel.text], **choose, **_QUICK).then(**keep)
    for typed in (panel.text.blur, panel.text.submit):
        typed(inputs=panel.text, **show, **_QUICK)


def _read(text: object) -> tuple[Lora, ...]:
    """The files that a text names; raises SettingsError."""
    return GenerationRequest.from_field("loras", text or "").loras


def _parsed(text: object) -> tuple[Lora, ...]:
    """The same; none where the text is wrong."""
    with suppress(SettingsError):
        return _read(text)
    return ()


def _name(lora: Lora, files: Sequence[LibraryFile]) -> str:
    """What the list calls a LoRA: by the file that it means, or as it is where that is not here."""
    with suppress(SettingsError):
        return named(lora.name, files).name
    return lora.name


def _nothing_here(library: LoraLibrary, t: Language) -> str:
    """Where to put files; of a folder only its name, as everybody reads it."""
    folders = ", ".join(folder.name for folder in library.folders) or "loras"
    text = t("There are no LoRA files yet. Put them (.safetensors) into this folder: {folders}", folders=folders)
    return hint(escape(text))


def _data_url(photo: Photo) -> str:
    image, file = photo.image.copy(), BytesIO()
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    image.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"

"""What the menu of presets does: JSON in, values of controls out. Everybody has their own presets alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from html import escape
from typing import Any

import gradio as gr

from diffusers_helper.core.errors import FramePackError, SettingsError
from diffusers_helper.core.messages import Language
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.gradio import view
from diffusers_helper.gradio.client_jobs import NO_WORD, is_client_id
from diffusers_helper.gradio.content import ModelCard
from diffusers_helper.gradio.create.recipe import RecipeHandlers
from diffusers_helper.gradio.door.privacy import is_local, user_of
from diffusers_helper.gradio.inputs import with_known_loras
from diffusers_helper.jobs.job import user_folder
from diffusers_helper.presets.preset import ASKED, HELD, Preset
from diffusers_helper.presets.store import STRANGER, PresetFolders, PresetStore


def presets_of(folders: PresetFolders, client_id: object, request: gr.Request | None) -> PresetStore:
    """Return the presets of who asks: a user's, those of this computer, or of a browser elsewhere.

    Raises SettingsError for somebody elsewhere without a word.
    """
    if user := user_of(request):
        return folders.of(user_folder(user))
    if request is None or is_local(request):
        return folders.of()
    if not is_client_id(client_id):
        raise SettingsError(NO_WORD)
    return folders.of(STRANGER + hashlib.blake2b(client_id.encode(), digest_size=16).hexdigest())


class PresetHandlers:
    """The handlers of one page.

    Args:
        model: what the page drives, and its presets.
        recipes: knows what the controls show of settings.
        t: the language of the page.
    """

    def __init__(self, model: ModelCard, recipes: RecipeHandlers, t: Language) -> None:
        self._model = model
        self._recipes = recipes
        self._t = t

    def opened(self, client_id: object, fresh: object, request: gr.Request | None = None) -> dict[str, Any]:
        """Return what the menu shows; in a tab that was just opened, with the preset to begin with in the form."""
        try:
            store = presets_of(self._model.presets, client_id, request)
            if fresh and (name := store.at_start):
                return self._loaded(store, store.load(name))
            faults = [self._t(fault) for fault in store.listed().faults]
            return self._shown(store, told="".join(map(view.fault, faults)))
        except FramePackError:
            return {}

    def choose(self, client_id: object, name: object, request: gr.Request | None = None) -> dict[str, Any]:
        """Fill the form with a preset."""

        def load(store: PresetStore) -> dict[str, Any]:
            return self._loaded(store, store.load(name)) if name else self._shown(store)

        return self._done(client_id, request, load)

    def save(
        self, client_id: object, name: object, asked: object, request: gr.Request | None = None, **values: Any
    ) -> dict[str, Any]:
        """Keep what the form says under a name; what one video has only where it is `asked` for."""
        fields = saved_fields(values, asked if isinstance(asked, list) else ())

        def save(store: PresetStore) -> dict[str, Any]:
            wanted = GenerationRequest.from_fields({field: values[field] for field in fields})
            preset = store.save(name, with_known_loras(wanted, self._model.loras), fields)
            told = view.hint(self._t("“{name}” is saved.", name=escape(preset.name)))
            return self._shown(store, preset, told=told)

        return self._done(client_id, request, save)

    def delete(self, client_id: object, name: object, request: gr.Request | None = None) -> dict[str, Any]:
        """Delete the preset that is chosen; a button brings it back."""

        def delete(store: PresetStore) -> dict[str, Any]:
            preset = store.delete(name)
            told = view.hint(self._t("“{name}” is deleted.", name=escape(preset.name)))
            return self._shown(store, told=told, deleted=preset.name)

        return self._done(client_id, request, delete)

    def undo(self, client_id: object, name: object, request: gr.Request | None = None) -> dict[str, Any]:
        """Bring a deleted preset back."""

        def restore(store: PresetStore) -> dict[str, Any]:
            preset = store.restore(name)
            return self._shown(store, preset, told=view.hint(self._t("“{name}” is back.", name=escape(preset.name))))

        return self._done(client_id, request, restore)

    def use_at_start(
        self, client_id: object, name: object, wanted: object, request: gr.Request | None = None
    ) -> dict[str, Any]:
        """Begin with the chosen preset in every new tab, or no longer."""

        def use(store: PresetStore) -> dict[str, Any]:
            store.use_at_start(name if wanted else "")
            return self._shown(store, store.load(name))

        return self._done(client_id, request, use)

    def _done(
        self, client_id: object, request: gr.Request | None, do: Callable[[PresetStore], dict[str, Any]]
    ) -> dict[str, Any]:
        """Return what `do` with the presets of who asks returns; else a sentence, and all else as it is."""
        try:
            return do(presets_of(self._model.presets, client_id, request))
        except FramePackError as error:
            return {"message": view.fault(self._t(str(error)))}

    def _loaded(self, store: PresetStore, preset: Preset) -> dict[str, Any]:
        controls, notes = self._recipes.controls(preset.settings)
        texts = [self._t(note) for note in (*preset.notes, *notes)]
        told = view.hint(self._t("“{name}” is in the form.", name=escape(self._t(preset.name))))
        told += "".join(view.hint(escape(text)) for text in texts)
        return {**self._shown(store, preset, told=told), **controls}

    def _shown(
        self, store: PresetStore, chosen: Preset | None = None, *, told: str = "", deleted: str = ""
    ) -> dict[str, Any]:
        """Return what `PresetPanel.shown` shows."""
        choices = [(self._t(preset.name), preset.name) for preset in store.listed().presets]
        own = chosen.name if chosen is not None and chosen.own else ""
        first = chosen is not None and store.at_start == chosen.name
        return {
            "message": told,
            "undo": gr.update(visible=bool(deleted)),
            "deleted": deleted,
            "menu": gr.update(choices=choices, value=chosen.name if chosen else None),
            "name": own,
            "at_start": gr.update(value=first, interactive=chosen is not None),
        }


def saved_fields(values: Mapping[str, Any], asked: Iterable[object] = ()) -> list[str]:
    """Return which of the settings in `values` a preset holds."""
    wanted = {*HELD, *(name for name in ASKED if name in asked)}
    return [name for name in values if name in wanted]

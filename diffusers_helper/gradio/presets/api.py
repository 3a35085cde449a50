"""Presets for scripts: list, load, save, delete and bring back.

A script at this computer has the presets of its page, and where users sign in each has their own. A script elsewhere
chooses a word that nobody guesses, as for the queue, and names it in every call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import Message
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.gradio.content import ModelCard
from diffusers_helper.gradio.faults import told_to_scripts
from diffusers_helper.gradio.inputs import SETTINGS, control_value, with_known_loras
from diffusers_helper.gradio.presets.handlers import presets_of
from diffusers_helper.presets.preset import ASKED, HELD, Preset
from diffusers_helper.presets.store import PresetStore

_FIELDS = Message(
    "settings: should be an object of settings by their names, such as {example}.", example='{"steps": 30}'
)


class PresetApi:
    """The handlers behind the named endpoints.

    Args:
        model: what the page drives, and its presets.
    """

    def __init__(self, model: ModelCard) -> None:
        self._model = model

    def listed(self, client: object, request: gr.Request | None = None) -> dict[str, Any]:
        """Return all presets, whether each is one's own, the one to begin with, and what cannot be read."""

        def told(store: PresetStore) -> dict[str, Any]:
            found = store.listed()
            presets = [{"name": str(preset.name), "own": preset.own} for preset in found.presets]
            return {"presets": presets, "at_start": store.at_start, "faults": list(found.faults)}

        return self._do(client, request, told)

    def load(self, name: object, client: object, request: gr.Request | None = None) -> dict[str, Any]:
        """Return the settings of a preset, as `/generate` takes them, and notes on what was left out."""
        return self._do(client, request, lambda store: _told(store.load(name)))

    def save(
        self, name: object, settings: object, at_start: object, client: object, request: gr.Request | None = None
    ) -> dict[str, Any]:
        """Keep settings under a name; with `at_start` the page begins with them."""

        def save(store: PresetStore) -> dict[str, Any]:
            if not isinstance(settings, dict) or not settings:
                raise SettingsError(_FIELDS)
            fields = [*settings]
            if other := [field for field in fields if field not in (*HELD, *ASKED)]:
                raise SettingsError(
                    Message("{field}: {reason}.", field=other[0], reason=Message("is no setting of a preset"))
                )
            wanted = with_known_loras(GenerationRequest.from_fields(settings), self._model.loras)
            preset = store.save(name, wanted, fields)
            if at_start is True:
                store.use_at_start(preset.name)
            return _told(preset)

        return self._do(client, request, save)

    def delete(self, name: object, client: object, request: gr.Request | None = None) -> dict[str, Any]:
        """Delete a preset; return what it held."""
        return self._do(client, request, lambda store: _told(store.delete(name)))

    def restore(self, name: object, client: object, request: gr.Request | None = None) -> dict[str, Any]:
        """Bring back what was deleted or replaced last under a name; return it."""
        return self._do(client, request, lambda store: _told(store.restore(name)))

    def _do(
        self, client: object, request: gr.Request | None, do: Callable[[PresetStore], dict[str, Any]]
    ) -> dict[str, Any]:
        with told_to_scripts():
            return do(presets_of(self._model.presets, client, request))


def _told(preset: Preset) -> dict[str, Any]:
    known = {name: value for name, value in preset.settings.items() if name in SETTINGS}
    settings = {name: control_value(name, value) for name, value in known.items()}
    return {"name": str(preset.name), "settings": settings, "notes": list(preset.notes)}


def connect_presets_api(api: PresetApi, **listener: Any) -> None:
    """Add the endpoints."""
    name, client = (gr.Textbox("", visible=False, label=label) for label in ("name", "client"))
    settings = gr.JSON(None, visible=False, label="settings")
    at_start = gr.Checkbox(False, visible=False, label="at start")
    told = gr.JSON(visible=False, label="presets")
    gr.on([], api.listed, client, told, api_name="presets", **listener)
    saved = [name, settings, at_start, client]
    gr.on([], api.save, saved, told, api_name="presets_save", **listener)
    for call, word in ((api.load, "load"), (api.delete, "delete"), (api.restore, "restore")):
        gr.on([], call, [name, client], told, api_name=f"presets_{word}", **listener)

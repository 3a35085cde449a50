"""From a video of the history back to what it was made with: its settings and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from diffusers_helper.core.drafts import in_full, is_draft
from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import START
from diffusers_helper.core.request import RANDOM_SEED, GenerationRequest
from diffusers_helper.history.library import History
from diffusers_helper.history.query import Viewer
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.photo import open_photo
from diffusers_helper.media.recipe import Recipe, read_recipe


def recipe_of(history: History, viewer: Viewer, job_id: str) -> tuple[Recipe, Path]:
    """Return how a video was made, and its file: as its record tells, with the pictures that are still there.

    Raises UnknownJobError.
    """
    entry, request = history.entry(viewer, job_id), history.request(viewer, job_id)
    file = history.outputs / (entry.file or entry.stem)
    recipe = Recipe(_settings(request), picture=False, notes=(), names=history.picture_names(viewer, job_id))
    with suppress(SettingsError):  # a partial video has none inside, nor one that was made with --no-metadata
        inside = read_recipe(file)
        recipe = replace(recipe, photo=inside.photo, more=inside.more, notes=inside.notes)
    if not recipe.photo:
        pictures = {name: _png(photo) for name, photo in history.pictures(viewer, job_id).items()}
        photo = pictures.pop(START, b"") or _beside(history.outputs / f"{entry.stem}.png", request)
        recipe = replace(recipe, photo=photo, more={**pictures, **recipe.more})
    return recipe, file


def another_take(history: History, viewer: Viewer, job_id: str) -> JobInputs:
    """Return the inputs of the same video with another seed; raises SettingsError and PhotoError where it cannot be."""
    recipe, _ = recipe_of(history, viewer, job_id)
    return _inputs(recipe, {**recipe.settings, "seed": RANDOM_SEED})


def made_in_full(history: History, viewer: Viewer, job_id: str) -> JobInputs:
    """Return the inputs of the same video as a draft, made exactly; raises as `another_take` does."""
    recipe, _ = recipe_of(history, viewer, job_id)
    if not is_draft(recipe.settings):
        raise SettingsError(Message("This video is no draft: it is made in full already."))
    return _inputs(recipe, in_full(recipe.settings))


def _inputs(recipe: Recipe, settings: Mapping[str, Any]) -> JobInputs:
    """Return what a video of these settings is made from, with the pictures of a recipe."""
    request = GenerationRequest.from_fields(settings)
    if recipe.names is None:
        raise SettingsError(Message("This video was made from others: begin with those again."))
    lacking = {name for name in recipe.names if name != START} - recipe.more.keys()
    if lacking:
        raise SettingsError(Message("Not all pictures of this video are kept: use its settings and add them."))
    pictures = {name: open_photo(png) for name, png in recipe.more.items()}
    if recipe.photo and START in recipe.names:
        pictures[START] = open_photo(recipe.photo)
    return JobInputs.of(request, pictures)


def _settings(request: GenerationRequest) -> dict[str, Any]:
    return {name: getattr(request, name) for name in GenerationRequest.model_fields}


def _png(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, format="PNG", compress_level=1)
    return file.getvalue()


def _beside(file: Path, request: GenerationRequest) -> bytes:
    """Return the picture that lies beside a video, which it begins with; a single picture is what was made."""
    try:
        return b"" if request.frame else file.read_bytes()
    except OSError:
        return b""

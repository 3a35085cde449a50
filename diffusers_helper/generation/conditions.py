"""Prompts and pictures as conditions for the transformer: from the embedding cache where they are known, else encoded.

Texts that were read before load no text encoder, pictures that were seen before no image encoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import replace

import numpy as np
from torch import Tensor

from diffusers_helper.core.directing import Blend, Cue
from diffusers_helper.core.events import Event, Note, StageStarted
from diffusers_helper.core.interrupt import interruptible
from diffusers_helper.core.messages import Message
from diffusers_helper.encoders.hunyuan import encode_prompt_conds, truncation_notes
from diffusers_helper.encoders.vision import hf_clip_vision_encode
from diffusers_helper.framepack.conditions import Conditions, between, blend
from diffusers_helper.generation.pictures import Picture
from diffusers_helper.loading.components import Components
from diffusers_helper.loading.embedding_cache import Embedding
from diffusers_helper.loading.encoders import TextEncoders
from diffusers_helper.media.frames import crop_or_pad_yield_mask
from diffusers_helper.model_files.parts import TEXT_PARTS, VISION_PARTS

TEXT_TOKENS = 512
"""Length that Llama's states are padded to."""

Check = Callable[[], None]


def make_conditions(
    cues: Mapping[int, Cue], pictures: Mapping[str, Picture], components: Components, check: Check, *, guided: bool
) -> Generator[Event, None, dict[int, Conditions]]:
    """The conditions of one video, by the numbers of its `cues`; yields StageStarted and Note.

    Args:
        cues: what its sections follow.
        pictures: (H, W, 3) by name, brought to the video's size.
        components: the encoders, loaded only for what the cache does not hold, and once for all texts.
        check: called between the encoders' layers; may raise.
        guided: whether CFG uses the negative prompts; else they are not read.
    """
    yield StageStarted("text", Message("Reading the prompt"))
    prompts = _names(cue.prompt for cue in cues.values())
    negatives = _names(cue.negative for cue in cues.values()) if guided else []
    read = _read({*prompts, *negatives}, components, check)
    for note in dict.fromkeys(note for prompt in prompts for note in read[prompt].notes):
        yield Note(note)
    yield StageStarted("image", Message("Looking at the photo"))
    seen = {name: _look(pictures[name], components, check) for name in _names(cue.picture for cue in cues.values())}
    return {number: _conditions(cue, read, seen, guided=guided) for number, cue in cues.items()}


def _names(blends: Iterable[Blend]) -> list[str]:
    """All that takes part in `blends`, each once, in their order."""
    return list(dict.fromkeys(name for blended in blends for name in blended.names))


def _conditions(cue: Cue, read: Mapping[str, Embedding], seen: Mapping[str, Tensor], *, guided: bool) -> Conditions:
    states = [seen[name] for name in cue.picture.names]
    image = between(states[0], states[-1], float(cue.picture.fraction)) if len(states) > 1 else states[0]
    positive = replace(_text(cue.prompt, read), image_embeddings=image)
    if not guided:
        return positive
    negative = _text(cue.negative, read)
    return replace(
        positive,
        negative_embeds=negative.prompt_embeds,
        negative_mask=negative.prompt_mask,
        negative_pooled=negative.pooled,
    )


def _text(blended: Blend, read: Mapping[str, Embedding]) -> Conditions:
    texts = [Conditions(*_padded(read[name])) for name in blended.names]
    return blend(texts[0], texts[-1], float(blended.fraction))


def _read(prompts: set[str], components: Components, check: Check) -> dict[str, Embedding]:
    """Each prompt's Llama states (1, n, 4096), pooled vector (1, 768), and notes on what was cut off."""
    cache = components.embeddings
    read = {prompt: cache.get(components.environment.embedding_key(TEXT_PARTS, prompt)) for prompt in prompts}
    missing = [prompt for prompt, embedding in read.items() if embedding is None]
    if missing:
        with components.text() as text, interruptible(text.text_encoder, check):
            encoded = {prompt: _encode(prompt, text) for prompt in missing}
        for prompt, embedding in encoded.items():
            cache.put(components.environment.embedding_key(TEXT_PARTS, prompt), embedding)
        read |= encoded
    return {prompt: embedding for prompt, embedding in read.items() if embedding is not None}


def _encode(prompt: str, text: TextEncoders) -> Embedding:
    notes = truncation_notes(prompt, text.tokenizer, text.tokenizer_2)
    llama, pooled = encode_prompt_conds(
        prompt, text.text_encoder, text.text_encoder_2, text.tokenizer, text.tokenizer_2, device=text.device
    )
    return Embedding({"llama": llama, "pooled": pooled}, notes)


def _padded(read: Embedding) -> tuple[Tensor, Tensor, Tensor]:
    """Llama states (1, 512, 4096), their mask (1, 512) and the pooled vector (1, 768)."""
    return *crop_or_pad_yield_mask(read.tensors["llama"], TEXT_TOKENS), read.tensors["pooled"]


def _look(picture: Picture, components: Components, check: Check) -> Tensor:
    """What the image encoder sees in the picture, (1, 729, 1152)."""
    facts = hashlib.sha256(np.ascontiguousarray(picture).data).hexdigest(), picture.shape
    seen = components.embeddings.get(components.environment.embedding_key(VISION_PARTS, *facts))
    if seen is None:
        with components.vision() as vision, interruptible(vision.image_encoder, check):
            states = hf_clip_vision_encode(picture, vision.feature_extractor, vision.image_encoder).last_hidden_state
        assert states is not None, "an encoder gives its last states"
        seen = Embedding({"states": states})
        components.embeddings.put(components.environment.embedding_key(VISION_PARTS, *facts), seen)
    return seen.tensors["states"]

"""Prompt and photo as conditions for the transformer: from the embedding cache where they are known, else encoded.

A prompt that was read before loads no text encoder, a photo that was seen before no image encoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffusers_helper.core.events import Event, Note, StageStarted
from diffusers_helper.core.interrupt import interruptible
from diffusers_helper.core.messages import Message
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.encoders.hunyuan import encode_prompt_conds, truncation_notes
from diffusers_helper.encoders.vision import hf_clip_vision_encode
from diffusers_helper.framepack.conditions import Conditions
from diffusers_helper.loading.components import Components, TextEncoders
from diffusers_helper.loading.embedding_cache import Embedding
from diffusers_helper.media.frames import crop_or_pad_yield_mask
from diffusers_helper.model_files.parts import TEXT_PARTS, VISION_PARTS

TEXT_TOKENS = 512
"""Length that Llama's states are padded to."""

Check = Callable[[], None]


def make_conditions(
    request: GenerationRequest, picture: NDArray[np.uint8], components: Components, check: Check
) -> Generator[Event, None, Conditions]:
    """The conditions of one video; yields StageStarted and Note.

    Args:
        request: prompts and CFG scale; the negative prompt is read only where CFG uses it.
        picture: (H, W, 3), brought to its bucket.
        components: the encoders, loaded only for what the cache does not hold.
        check: called between the encoders' layers; may raise.
    """
    yield StageStarted("text", Message("Reading the prompt"))
    guided = request.cfg_scale != 1.0
    read = _read({request.prompt, request.negative_prompt} if guided else {request.prompt}, components, check)
    for note in read[request.prompt].notes:
        yield Note(note)
    yield StageStarted("image", Message("Looking at the photo"))
    states = _look(picture, components, check)
    positive = _padded(read[request.prompt])
    if guided:
        return Conditions(*positive, *_padded(read[request.negative_prompt]), states)
    return Conditions(*positive, image_embeddings=states)


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


def _look(picture: NDArray[np.uint8], components: Components, check: Check) -> Tensor:
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

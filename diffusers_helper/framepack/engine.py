"""The engine: a plan, its conditions and two models become an iterator of events, one section after the other.

It knows the method (what a section reads, samples and decodes) and neither text encoders, files, pages nor variants.
Whoever consumes the iterator may close it at any step; memory is freed on the way out.

What follows a section's sampling is its end: decoding, and whatever ``then`` adds. Ends come one after the other,
either before the next section's sampling or in a thread beside it; the numbers are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from diffusers_helper.framepack.beside import Beside
from diffusers_helper.framepack.errors import NumericsError
from diffusers_helper.framepack.events import Event, SectionDone, SectionSampled, StageStarted, StepDone
from diffusers_helper.framepack.history import LatentHistory
from diffusers_helper.framepack.interrupt import interruptible
from diffusers_helper.framepack.planning import SectionPlan, VideoPlan
from diffusers_helper.hunyuan import vae_decode
from diffusers_helper.k_diffusion.uni_pc_fm import unipc_steps
from diffusers_helper.k_diffusion.wrapper import prepared_model, timesteps_of
from diffusers_helper.models.section_context import Conditioning
from diffusers_helper.pipelines.k_diffusion_hunyuan import draw_noise, flux_mu, flux_sigmas, transformer_arguments
from diffusers_helper.texts import Message

VAE_SCALE = 8
"""Pixels per latent, each way."""

Use = Callable[[nn.Module], AbstractContextManager[Any]]
Check = Callable[[], None]
Events = Generator[Event, None, None]
Then = Callable[[Events, Check], Events]


def _nothing_more(events: Events, _check: Check) -> Events:
    return events


@dataclass(frozen=True, eq=False)
class Conditions:
    """What steers the whole video.

    Attributes:
        prompt_embeds: Llama states of the prompt, (B, L, 4096), zero-padded to L.
        prompt_mask: True for its valid tokens, (B, L) bool.
        pooled: CLIP's pooled vector, (B, 768).
        negative_embeds, negative_mask, negative_pooled: the same of the negative prompt; used when CFG is above 1.
        image_embeddings: SigLIP states of the start picture, (B, 729, 1152).
    """

    prompt_embeds: Tensor
    prompt_mask: Tensor
    pooled: Tensor
    negative_embeds: Tensor | None = None
    negative_mask: Tensor | None = None
    negative_pooled: Tensor | None = None
    image_embeddings: Tensor | None = None


@dataclass(frozen=True)
class _Sampling:
    """Settings that are the same for every section."""

    steps: int
    guidance_scale: float
    cfg_scale: float
    cfg_rescale: float
    teacache: bool
    device: torch.device
    dtype: torch.dtype


@torch.inference_mode()
def sample_video(
    plan: VideoPlan,
    *,
    transformer: Any,
    vae: Any,
    start_latent: Tensor,
    conditions: Conditions,
    seed: int,
    steps: int = 25,
    guidance_scale: float = 10.0,
    cfg_scale: float = 1.0,
    cfg_rescale: float = 0.0,
    teacache: bool = False,
    device: torch.device | str,
    dtype: torch.dtype,
    decode: bool = True,
    use: Use = nullcontext,
    overlap: bool = False,
    decode_in_turn: bool = False,
    then: Then = _nothing_more,
    sampled: Sequence[SectionSampled] = (),
    decode_from: int = 0,
) -> Iterator[Event]:
    """Sample and decode the sections of ``plan`` one by one.

    Args:
        plan: from ``planning.plan_video``.
        transformer: the packed transformer.
        vae: diffusers' AutoencoderKLHunyuanVideo; not touched if ``decode`` is False.
        start_latent: the start picture, (B, 16, 1, H, W), scaled as the transformer wants it.
        conditions: prompt and picture.
        seed: of the one CPU generator that draws every section's noise, in sampling order.
        steps: model calls per section.
        guidance_scale: distilled guidance.
        cfg_scale, cfg_rescale: classifier-free guidance (1 is off) and its rescaling.
        teacache: skip model calls that would change little (an approximation).
        device, dtype: where the sampling runs, and the transformer's dtype.
        decode: turn latents into pixels.
        use: makes the context in which one of the two models can run on ``device``; it moves weights on small cards.
        overlap: run each section's end in a thread beside the next one's sampling; needs memory for both models. On
            a GPU it has a stream of its own.
        decode_in_turn: with ``overlap``, let the next section wait until this one is decoded, so that one model is at
            work at a time; only what ``then`` does with the pixels is beside the sampling.
        then: gets the events of a section's end and gives those that are yielded instead: more of them, usually. It
            runs where the end does; its second argument raises CancelledError there once the iterator is closed.
        sampled: the first sections as an earlier run sampled them: they are not sampled again, and the others come
            out as if they had been.
        decode_from: the first of those ``sampled`` that has its end again.

    Yields StageStarted, StepDone, SectionSampled and SectionDone. Those of one kind come in the order of the sections;
    with ``overlap`` a section's end comes between the next one's steps, and without its StageStarted as long as
    nothing waits for it. Raises NumericsError when a section holds NaN or infinity.
    """
    settings = _Sampling(steps, guidance_scale, cfg_scale, cfg_rescale, teacache, torch.device(device), dtype)
    end = _End(vae if decode else None, transformer.kernels if decode else None, use, then)
    generator = torch.Generator("cpu").manual_seed(seed)
    history = LatentHistory(plan, start_latent.to(settings.device, torch.float32))
    again = _sampled_before(plan, history, generator, sampled, decode_from)
    new = _sections(plan, len(sampled), transformer, history, generator, conditions, settings, use)
    with closing(new):
        sections = chain(again, new)
        if overlap:
            yield from _ended_beside(sections, end, settings.device, decode_in_turn)
        else:
            yield from _ended_in_turn(sections, end)


@dataclass(frozen=True, eq=False)
class _Sampled:
    """A section whose end has not begun: what the history holds from now on does not reach it.

    Attributes:
        place: which section it is of how many, as values of a message.
        newest: the latents to decode, (B, 16, n, H, W).
    """

    event: SectionSampled
    place: dict[str, int]
    newest: Tensor


def _sampled_before(
    plan: VideoPlan,
    history: LatentHistory,
    generator: torch.Generator,
    sampled: Sequence[SectionSampled],
    decode_from: int,
) -> Iterator[_Sampled]:
    """Bring history and generator to where an earlier run left them; yield the sections from ``decode_from`` on."""
    for section, event in zip(plan.sections, sampled, strict=False):
        history.grow(section, event.latents.to(history.start.device))
        generator.set_state(event.generator_state)
        if section.index >= decode_from:
            yield _Sampled(event, _place(section, plan), history.newest(section.decode_latents))


def _sections(
    plan: VideoPlan,
    first: int,
    transformer: Any,
    history: LatentHistory,
    generator: torch.Generator,
    conditions: Conditions,
    settings: _Sampling,
    use: Use,
) -> Generator[Event | _Sampled, None, None]:
    guidance: _Guidance | None = None
    batch, _, _, height, width = history.start.shape
    for section in plan.sections[first:]:
        place = _place(section, plan)
        yield StageStarted("sample", Message("Sampling section {number} of {sections}", **place))
        noise = draw_noise(batch, plan.section_frames, height * VAE_SCALE, width * VAE_SCALE, generator)
        with use(transformer):
            if guidance is None:
                guidance = _condition(transformer, conditions, noise, settings)
            latents = yield from _sample_section(section, plan, transformer, noise, history, guidance, settings)
        _require_finite(latents, Message("The latents of section {number} of {sections}", **place))
        history.grow(section, latents)
        event = SectionSampled(section.index, latents.cpu(), generator.get_state())
        yield _Sampled(event, place, history.newest(section.decode_latents))


def _place(section: SectionPlan, plan: VideoPlan) -> dict[str, int]:
    return {"number": section.index + 1, "sections": len(plan.sections)}


@dataclass(frozen=True, eq=False)
class _End:
    """What is done with a sampled section; ``vae`` and ``kernels`` are None where nothing is decoded."""

    vae: Any
    kernels: Any
    use: Use
    then: Then

    def __call__(self, sampled: _Sampled, check: Check) -> Events:
        return self.then(self._decoded(sampled, check), check)

    @torch.inference_mode()  # a thread's own
    def _decoded(self, sampled: _Sampled, check: Check) -> Events:
        yield sampled.event
        pixels = None
        if self.vae is not None:
            yield StageStarted("decode", Message("Decoding section {number} of {sections}", **sampled.place))
            with self.use(self.vae), interruptible(self.vae, check):
                pixels = vae_decode(sampled.newest, self.vae, kernels=self.kernels).float().cpu()
            _require_finite(pixels, Message("The pixels of section {number} of {sections}", **sampled.place))
        yield SectionDone(sampled.event.index, sampled.event.latents, pixels)


def _ended_in_turn(sections: Iterator[Event | _Sampled], end: _End) -> Iterator[Event]:
    for item in sections:
        if isinstance(item, _Sampled):
            yield from end(item, lambda: None)
        else:
            yield item


def _ended_beside(
    sections: Iterator[Event | _Sampled], end: _End, device: torch.device, decode_in_turn: bool
) -> Iterator[Event]:
    with Beside[Event]() as beside:
        for item in sections:
            if isinstance(item, _Sampled):
                yield from beside.items(wait=True)
                beside.start(end(item, beside.check), _stream_of_ends(device, own=not decode_in_turn))
                if decode_in_turn:
                    yield from beside.items(wait=True, until=lambda event: isinstance(event, SectionDone))
            else:
                yield item
                yield from (event for event in beside.items(wait=False) if not isinstance(event, StageStarted))
        yield from beside.items(wait=True)


def _stream_of_ends(device: torch.device, *, own: bool) -> AbstractContextManager[Any]:
    """On a GPU a context with another stream, which begins with the results of the current one so far.

    Not ``own``: with the current one, since memory that torch keeps for one stream serves no other.
    """
    if device.type != "cuda":
        return nullcontext()
    current = torch.cuda.current_stream(device)
    if not own:
        return torch.cuda.stream(current)
    stream = _side_stream(device)
    stream.wait_stream(current)
    return torch.cuda.stream(stream)


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for the whole process: torch's allocator keeps freed memory per stream."""
    return torch.cuda.Stream(device)


@dataclass(frozen=True, eq=False)
class _Guidance:
    """The noise levels of every section, and what the transformer made of the conditions for them."""

    sigmas: Tensor
    positive: Conditioning
    negative: Conditioning | None


def _condition(transformer: Any, conditions: Conditions, noise: Tensor, settings: _Sampling) -> _Guidance:
    """Compute all that no section changes."""
    sigmas = flux_sigmas(settings.steps, flux_mu(noise.shape))
    timesteps = timesteps_of(sigmas[:-1], settings.dtype).to(settings.device)

    def conditioning(embeds: Tensor, mask: Tensor, pooled: Tensor) -> Conditioning:
        given = transformer_arguments(
            embeds,
            mask,
            pooled,
            guidance_scale=settings.guidance_scale,
            batch=len(noise),
            device=settings.device,
            dtype=settings.dtype,
            image_embeddings=conditions.image_embeddings,
        )
        return transformer.condition(
            timesteps.unsqueeze(1).expand(-1, len(noise)),
            given["encoder_hidden_states"],
            given["encoder_attention_mask"],
            given["pooled_projections"],
            given["guidance"],
            given["image_embeddings"],
        )

    c = conditions
    negative = None
    if settings.cfg_scale != 1.0:
        if c.negative_embeds is None or c.negative_mask is None or c.negative_pooled is None:
            raise ValueError("Guidance above 1 needs the negative prompt's conditions.")
        negative = conditioning(c.negative_embeds, c.negative_mask, c.negative_pooled)
    return _Guidance(sigmas, conditioning(c.prompt_embeds, c.prompt_mask, c.pooled), negative)


def _sample_section(
    section: SectionPlan,
    plan: VideoPlan,
    transformer: Any,
    noise: Tensor,
    history: LatentHistory,
    guidance: _Guidance,
    settings: _Sampling,
) -> Any:
    """Sample one section, yielding a StepDone per model call; returns its latents (B, 16, w, H, W) float32."""
    if settings.teacache:
        transformer.initialize_teacache(True, num_steps=settings.steps)
    try:
        noise = noise.to(settings.device)
        clean = history.clean(section)
        packed = transformer.pack(
            noise.to(settings.dtype),
            _indices(section.latent_indices),
            {
                4: (clean.quarter, _indices(section.clean_4x_indices)),
                2: (clean.half, _indices(section.clean_2x_indices)),
                1: (clean.full, _indices(section.clean_indices)),
            },
        )
        model = prepared_model(
            transformer,
            packed,
            guidance.positive,
            guidance.negative,
            dtype=settings.dtype,
            cfg_scale=settings.cfg_scale,
            cfg_rescale=settings.cfg_rescale,
        )
        denoised = noise
        for step in unipc_steps(model, noise, guidance.sigmas):
            denoised = step.denoised
            yield StepDone(section.index, len(plan.sections), step.i + 1, settings.steps, denoised)
        return denoised
    finally:
        if settings.teacache:
            transformer.initialize_teacache(False)


def _indices(positions: tuple[int, ...]) -> Tensor:
    return torch.tensor([positions])


def _require_finite(tensor: Tensor, what: str) -> None:
    if not torch.isfinite(tensor).all():
        raise NumericsError(
            Message(
                "{what} hold numbers that are not finite, so the video would be black. "
                "Try again without TeaCache, with CFG at 1, or with another attention backend (--attention sdpa).",
                what=what,
            )
        )

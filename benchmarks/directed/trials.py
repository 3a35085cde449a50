"""Ways of sampling beside the usual one: noise on what sections read, and less to read where the prompt changes.

The stages are those of `generate`, without files; a trial changes the plan or what the transformer reads.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from benchmarks.directed.prompts import PAIRS, Change
from benchmarks.directed.scene import SECTION, Measured, Scene, borders
from benchmarks.metrics import Frames, joint_ratio, movement, psnr, sharpness
from benchmarks.quality import PROMPTS, SPAN, judge
from benchmarks.studio import SECTION_SECONDS, Studio, joined
from diffusers_helper.core.events import Event
from diffusers_helper.core.forgetting import forgetting
from diffusers_helper.core.plan import START, VideoPlan
from diffusers_helper.core.settings import sampling_settings
from diffusers_helper.encoders.hunyuan import vae_encode
from diffusers_helper.framepack.engine import VideoInputs, sample_sections
from diffusers_helper.framepack.postprocess import Postprocess
from diffusers_helper.framepack.sampler import Sampler
from diffusers_helper.generation.conditions import make_conditions
from diffusers_helper.generation.decoding import ComponentsDecoder
from diffusers_helper.generation.models import ModelLoader
from diffusers_helper.generation.pictures import pixels_of, prepared
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.memory.budget import Work
from diffusers_helper.models.execution import Execution
from diffusers_helper.models.section_context import Conditioning, ConditionInputs, Denoiser, PackedHistory
from training.motions import camera_motion

SIGMAS = (0.0, 0.05, 0.1, 0.2)
MOTIONS = ("pan left", "zoom in")
FORGOTTEN: dict[str, tuple[int, ...]] = {"nothing": (), "4x": (4,), "4x and 2x": (4, 2)}
VARIANTS = ("original", "f1")
Context = Mapping[int, tuple[Tensor | None, Tensor | None]]


@dataclass(frozen=True)
class Trial:
    """What is different.

    Attributes:
        plan: makes another plan of the video's.
        denoiser: makes another denoiser of the transformer.
    """

    plan: Callable[[VideoPlan], VideoPlan] = lambda plan: plan
    denoiser: Callable[[Denoiser], Denoiser] = lambda denoiser: denoiser


@dataclass(frozen=True, eq=False)
class NoisyReader:
    """A denoiser that reads clean latents with noise on them; frames that hold nothing stay empty.

    Attributes:
        denoiser: the transformer.
        sigma: the noise's standard deviation; the latents' is about 1.
        generator: draws it.
    """

    denoiser: Denoiser
    sigma: float
    generator: torch.Generator

    def condition(self, timesteps: Tensor, inputs: ConditionInputs, execution: Execution) -> Conditioning:
        """See `Denoiser`."""
        return self.denoiser.condition(timesteps, inputs, execution)

    def pack(self, sampled: Tensor, indices: Tensor | None, history: Context) -> PackedHistory:
        """See `Denoiser`."""
        noisy = {factor: (self._noisy(latents), times) for factor, (latents, times) in history.items()}
        return self.denoiser.pack(sampled, indices, noisy)

    def denoise(self, *arguments: Any, **named: Any) -> Tensor:
        """See `Denoiser`."""
        return self.denoiser.denoise(*arguments, **named)

    def _noisy(self, latents: Tensor | None) -> Tensor | None:
        if latents is None:
            return None
        noise = torch.randn(latents.shape, generator=self.generator).to(latents)
        held = latents.abs().amax((1, 3, 4), keepdim=True) > 0
        return latents + self.sigma * noise * held


def forgetful(factors: Sequence[int]) -> Trial:
    """Leave the slots of these `factors` empty in sections whose text differs from the one sampled before."""

    def planned(plan: VideoPlan) -> VideoPlan:
        prompts = {section.output_index: section.prompt for section in plan.sections}
        return forgetting(plan, [prompts[number] for number in range(len(prompts))], factors)

    return Trial(plan=planned)


def noisy(sigma: float, seed: int) -> Trial:
    """Noise on all that sections read."""
    return Trial(denoiser=lambda denoiser: NoisyReader(denoiser, sigma, torch.Generator().manual_seed(seed)))


def tried(studio: Studio, inputs: JobInputs, trial: Trial) -> Frames:
    """Frames (T, H, W, 3) of the video of `inputs`, made as `trial` has it."""
    plan = trial.plan(inputs.direction.plan)
    return joined(_events(studio, inputs, plan, trial.denoiser), plan)


def _events(
    studio: Studio, inputs: JobInputs, plan: VideoPlan, wrap: Callable[[Denoiser], Denoiser]
) -> Iterator[Event]:
    components, request = studio.components, inputs.request
    components.plan_memory(request.preserved_memory_gb)
    pictures = prepared(inputs, "")
    conditions = yield from make_conditions(inputs.direction.cues, pictures.named, components, _go_on, guided=False)
    with torch.inference_mode(), components.vae() as vae:
        given = {
            name: vae_encode(pixels_of(picture), vae, torch.Generator("cpu").manual_seed(request.seed))
            for name, picture in pictures.named.items()
        }
    settings = sampling_settings(request)
    models = ModelLoader(components, settings, Work(*pictures.size), _go_on)

    def samplers(variant: str) -> Generator[Event, None, Sampler]:
        sampler = yield from models.sampler(variant)

        def use(_denoiser: object) -> AbstractContextManager[Any]:
            return sampler.use(sampler.denoiser)  # type: ignore[arg-type]  # the transformer, a module

        return replace(sampler, denoiser=wrap(sampler.denoiser), use=use)

    yield from sample_sections(
        plan,
        VideoInputs(given, conditions, request.seed),
        samplers,
        settings,
        Postprocess(ComponentsDecoder(components, lambda: models.kernels, _go_on)),
    )


def _go_on() -> None:
    """Nothing stops the lab."""


def noise_on_memory(studio: Studio, scenes: Sequence[Scene]) -> Measured:
    """Does noise on the start picture and the history set pictures in motion?"""
    for variant, sigma, scene, name in product(VARIANTS, SIGMAS, scenes, MOTIONS):
        truth = scene.clip(camera_motion(name), range(2 * SECTION + 1))
        inputs = studio.inputs({START: truth[0]}, prompt=PROMPTS[name][0], variant=variant, seconds=2 * SECTION_SECONDS)
        frames = tried(studio, inputs, noisy(sigma, studio.settings.seed) if sigma else Trial())
        moved = movement(frames[0], frames[SPAN])
        speeds = moved.pixels(scene.side) / SPAN
        case = {"case": f"{variant}, noise {sigma:g}", "picture": scene.name, "motion": name}
        yield (
            case
            | {
                "right": judge(name, moved, scene.side),
                "pixels_a_frame": float((speeds**2).sum() ** 0.5),
                "psnr_start": psnr(frames[0], truth[0]),
                "psnr_all": psnr(frames, truth),
                "sharpness_lost": sharpness(truth[-1]) - sharpness(frames[-1]),
                "joints": joint_ratio(frames, SECTION),
            },
            borders(frames),
        )


def less_memory(studio: Studio, scenes: Sequence[Scene]) -> Measured:
    """Does the picture change more readily where the first section with another text reads less?"""
    for variant, kind, (name, factors) in product(VARIANTS, PAIRS, FORGOTTEN.items()):
        for scene, pair in product(scenes, PAIRS[kind][:1]):
            change = Change(*pair, half=2)
            frames = tried(studio, change.inputs(studio, scene, variant), forgetful(factors))
            case = {"case": f"{variant}, {kind}, without {name}", "picture": scene.name, "motion": " | ".join(pair)}
            yield case | change.judged(frames, scene), borders(frames)

"""The sections of a video, sampled by a schedule: one after the other, or staggered, by one process or several."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffusers_helper.core.errors import OUT_OF_MEMORY, CancelledError
from diffusers_helper.core.events import Event, SectionSampled, StageStarted, StepDone
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import SectionPlan, VideoPlan
from diffusers_helper.core.stagger import Schedule, schedule
from diffusers_helper.framepack.history import LatentHistory
from diffusers_helper.framepack.loaded import LoadedModel
from diffusers_helper.framepack.partners import Partners
from diffusers_helper.framepack.postprocess import SampledSection, Settle, require_finite
from diffusers_helper.k_diffusion.uni_pc_fm import Step
from diffusers_helper.memory.devices import is_shortage
from diffusers_helper.pipelines.k_diffusion_hunyuan import draw_noise

VAE_SCALE = 8
"""Pixels per latent, each way."""


@dataclass(eq=False)
class _Section:
    """A section at work.

    Attributes:
        plan: of the section.
        generator_state: behind its noise.
        steps: its sampling; None where a partner does it.
        done: how many steps are.
        trail: what sections after it read meanwhile.
    """

    plan: SectionPlan
    generator_state: Tensor
    steps: Generator[Step, None, Tensor] | None
    done: int = 0
    trail: list[Tensor] = field(default_factory=list)


def section_labels(section: SectionPlan, plan: VideoPlan) -> dict[str, int]:
    """Return which section it is of how many, as values of a message."""
    return {"number": section.index + 1, "sections": len(plan.sections)}


@dataclass(eq=False)
class Sections:
    """One video while it is sampled.

    Attributes:
        plan: of the video.
        steps, lag: of its schedule, see `core.stagger.schedule`.
        history: its latents; sections join it here.
        generator: draws the noise of all sections, in their order.
        partners: who sample it.
        trails: see `engine.EarlierRun`.
    """

    plan: VideoPlan
    steps: int
    lag: int | None
    history: LatentHistory
    generator: torch.Generator
    partners: Partners
    trails: Mapping[int, Tensor] = field(default_factory=dict)
    _at_work: dict[int, _Section] = field(default_factory=dict, init=False)
    _told: int = field(default=-1, init=False)

    def sample(self, first: int, model: LoadedModel) -> Generator[Event | SampledSection | Settle, None, None]:
        """Sample the sections from `first` on with `model`, which is loaded.

        Yields a StepDone per tick, of the section that is done next. Where this ends early, the partners are told.
        """
        try:
            order = schedule(self.plan, self.steps, self.lag, first)
            for tick, numbers in enumerate(order.ticks()):
                self._recall(order, tick)
                yield from self._begun(numbers, model)
                yield from self._tick(model, order, order.length - 1 - tick)
        except (GeneratorExit, CancelledError):
            self.partners.leave("")
            raise
        except BaseException as error:
            self.partners.leave(_reason(error))
            raise
        finally:
            model.rest()

    def _recall(self, order: Schedule, tick: int) -> None:
        """Show sections that an earlier run finished as they were before this tick, where they were not done then."""
        for number, trail in self.trails.items():
            section = self.plan.sections[number]
            left = self.steps - (tick - order.earlier[number])
            if 0 < left <= len(trail):
                self.history.show(section, trail[-left].to(self.history.device))
            elif left <= 0:
                self.history.settle(section)

    def _begun(self, numbers: range, model: LoadedModel) -> Generator[Event | Settle, None, None]:
        """Let the sections of these numbers be at work."""
        for section in self.plan.sections[numbers.start : numbers.stop]:
            if section.index in self._at_work:
                continue
            if section.variant != model.variant:
                yield Settle()
                yield from model.load(section.variant)
            self._begin(section, model)
        if numbers.start != self._told:
            self._told = numbers.start
            labels = section_labels(self.plan.sections[numbers.start], self.plan)
            yield StageStarted("sample", Message("Sampling section {number} of {sections}", **labels))

    def _begin(self, section: SectionPlan, model: LoadedModel) -> None:
        batch, _, _, height, width = self.history.shape
        noise = draw_noise(batch, self.plan.section_frames, height * VAE_SCALE, width * VAE_SCALE, self.generator)
        steps = model.steps(section, noise, self.history) if self.partners.samples(section.index) else None
        self._at_work[section.index] = _Section(section, self.generator.get_state(), steps)

    def _tick(self, model: LoadedModel, order: Schedule, left: int) -> Generator[Event | SampledSection, None, None]:
        """Do one step of every section at work; `left` ticks follow."""
        sampled: dict[int, Tensor] = {}
        for number, section in self._at_work.items():
            if section.steps is not None:
                model.ready(section.plan)
                sampled[number] = next(section.steps).denoised
                if section.done == 0:  # what is not finite stays so, and the other steps may take a quarter of an hour
                    _require_finite(sampled[number], section.plan, self.plan, model)
        like = self.history.like(self.plan.latent_window_size)
        latents = self.partners.meet(list(self._at_work), sampled, like)
        if not left:
            self.partners.finish()
        for number, section in self._at_work.items():
            section.done += 1
            self.history.show(section.plan, latents[number])
            if self.lag is not None and self.lag <= section.done < self.steps:
                section.trail.append(latents[number].cpu())
        number, section = next(iter(self._at_work.items()))
        yield StepDone(number, len(self.plan.sections), section.done, self.steps, latents[number], left)
        for number, section in list(self._at_work.items()):
            if section.done == self.steps:
                del self._at_work[number]
                for _ in section.steps or ():  # to its end
                    pass
                model.rest()
                _require_finite(latents[number], section.plan, self.plan, model)
                yield self._finished(section, latents[number], order)

    def _finished(self, section: _Section, latents: Tensor, order: Schedule) -> SampledSection:
        plan, labels = section.plan, section_labels(section.plan, self.plan)
        self.history.grow(plan, latents)
        trail = torch.stack(section.trail) if section.trail else None
        trails_from = order.at_work_with(plan.index + 1)
        event = SectionSampled(plan.index, latents.cpu(), section.generator_state, trail, trails_from)
        return SampledSection(event, labels, self.history.to_decode(plan), plan.trim)


def _reason(error: BaseException) -> str:
    """Return what the partners are told: a device's own words on its memory are for no user."""
    if isinstance(error, RuntimeError) and is_shortage(error):
        return OUT_OF_MEMORY
    return str(error) or type(error).__name__


def _require_finite(latents: Tensor, section: SectionPlan, plan: VideoPlan, model: LoadedModel) -> None:
    what = Message("The latents of section {number} of {sections}", **section_labels(section, plan))
    require_finite(latents, what, model.sampler.dtype)

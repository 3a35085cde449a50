"""The processes that make one video together, as the stages of a video see them; usually there is one, alone."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from diffusers_helper.core.directing import Cue
from diffusers_helper.core.events import Event, SectionSampled
from diffusers_helper.core.loras import Lora
from diffusers_helper.core.plan import VideoPlan
from diffusers_helper.core.settings import SamplingSettings
from diffusers_helper.framepack.engine import EarlierRun, VideoInputs, sample_sections
from diffusers_helper.framepack.partners import Alone, Partners
from diffusers_helper.framepack.postprocess import Postprocess
from diffusers_helper.framepack.sampler import Sampler, Samplers
from diffusers_helper.generation.decoding import ComponentsDecoder
from diffusers_helper.generation.models import ModelLoader
from diffusers_helper.loading.components import Components
from diffusers_helper.memory import out_of_memory_as_error
from diffusers_helper.memory.budget import Work
from diffusers_helper.models.branches import Branches, both
from diffusers_helper.models.recording import CudaGraphs, GraphRecorder
from diffusers_helper.models.spread import WHOLE, Spread
from diffusers_helper.models.vae_decoder import Share


@dataclass(frozen=True, eq=False)
class VideoJob:
    """What every process of a team samples; tensors are on the CPU.

    Attributes:
        plan, inputs, settings: of the video.
        sampled, decode_from, trails: see `EarlierRun`.
        work: what a step takes beside the weights.
        loras, cues: the LoRA files, and where their weights are.
        preserved_memory_gb: see the request.
    """

    plan: VideoPlan
    inputs: VideoInputs
    settings: SamplingSettings
    sampled: Sequence[SectionSampled]
    decode_from: int
    trails: Mapping[int, Tensor]
    work: Work
    loras: Sequence[Lora]
    cues: Mapping[int, Cue]
    preserved_memory_gb: float


@dataclass(frozen=True, eq=False)
class Member:
    """This process' part in one video.

    Attributes:
        partners: who sample it.
        spread: how the sequence lies on them.
        branches: how they compute both branches of guidance.
        shares: gives for each decode who decodes its windows; None where this process does.
    """

    partners: Partners
    spread: Spread = WHOLE
    branches: Branches = both
    shares: Callable[[], Share] | None = None

    def samplers(self, samplers: Samplers) -> Samplers:
        """Return what loads the same models, as the team's."""

        def load(variant: str) -> Generator[Event, None, Sampler]:
            sampler = yield from samplers(variant)
            execution = replace(sampler.execution, spread=self.spread, branches=self.branches)
            if execution.constant and self.spread.processes > 1 and sampler.device.type == "cuda":
                execution.recorder = GraphRecorder(CudaGraphs(sampler.device))
            return replace(sampler, execution=execution, partners=self.partners)

        return load


ALONE = Member(Alone())


class Team(Protocol):
    """What leads or follows a video."""

    def lead(self, job: VideoJob) -> Member:
        """Let the others begin `job`; return this process' part, which is the first."""


def follow(job: VideoJob, components: Components, member: Member) -> Iterator[Event]:
    """Take part in a video that another process leads, to its end; yields what happens here.

    Raises CancelledError where the video is ended, PartnerError where another process failed, and OutOfMemoryError.
    """
    with out_of_memory_as_error():
        components.plan_memory(job.preserved_memory_gb)
        models = ModelLoader(components, job.settings, job.work, unstoppable, job.loras, job.cues)
        decoder = ComponentsDecoder(components, lambda: models.kernels, unstoppable, member.shares)
        postprocess = Postprocess(
            decoder,
            overlap=components.device.type == "cuda",
            serialize_decode=not components.policy.resident,
        )
        earlier = EarlierRun(job.sampled, job.decode_from, job.trails)
        yield from sample_sections(
            job.plan, job.inputs, member.samplers(models.sampler), job.settings, postprocess, earlier
        )


def unstoppable() -> None:
    """Be a check that never raises: who stopped inside a step would leave the others waiting for the rest of it."""

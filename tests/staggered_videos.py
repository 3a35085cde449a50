"""The golden videos, sampled by a schedule: what tests run in one process and in several."""

from dataclasses import replace
from functools import partial

import torch

from diffusers_helper.core.errors import CancelledError, PartnerError
from diffusers_helper.core.events import SectionSampled, StepDone
from diffusers_helper.core.plan import START
from diffusers_helper.core.planning import plan_video
from diffusers_helper.core.settings import SamplingSettings
from diffusers_helper.encoders.hunyuan import vae_decode
from diffusers_helper.framepack.engine import EarlierRun, VideoInputs, sample_sections
from diffusers_helper.framepack.partners import Alone, InTurns
from diffusers_helper.framepack.postprocess import Postprocess
from diffusers_helper.framepack.sampler import Sampler, one_sampler
from diffusers_helper.memory.devices import retry_on_oom
from diffusers_helper.models.decoding_together import DecodesTogether
from diffusers_helper.models.kernels import PLAIN
from diffusers_helper.models.step_caches import new_step_cache
from tests.golden import golden_meta, load_golden
from tests.models import golden_conditions, golden_transformer, golden_vae

VIDEOS = {"original": "i2v_3", "f1": "f1_3"}
PARAMETERS = {"easycache": {"threshold": 10.0, "first": 2}, "magcache": {"extrapolate": 1}}
"""By which four steps leave something out."""

KEPT = []


def events_of(variant, lag=None, *, partners=None, earlier=None, cache="none", begin=None):
    """Sample four sections like those of a golden video."""
    name = VIDEOS[variant]
    transformer = golden_transformer()
    sampler = Sampler(
        transformer, torch.device("cpu"), torch.float32, transformer.execution, partners=partners or Alone()
    )
    new_cache = partial(new_step_cache, ratios=(1.0, 1.0, 1.0, 1.0))
    sampler = replace(sampler, new_step_cache=new_cache, begin=begin or sampler.begin)
    return sample_sections(
        plan_video(variant, 4, golden_meta()["video"][name]["win"]),
        VideoInputs({START: load_golden(f"video_{name}")["start_latent"]}, {0: golden_conditions(name)}, 7),
        one_sampler(sampler),
        SamplingSettings(4, step_cache=cache, stagger=lag, cache_parameters=PARAMETERS.get(cache, {})),
        Postprocess(None),
        earlier or EarlierRun(),
    )


def sampled(events):
    """The sections among events."""
    return [event for event in events if isinstance(event, SectionSampled)]


def latents_in_turns(variant, lag):
    """Take part in a video: the latents of all sections, and how many ticks it took."""
    events = list(events_of(variant, lag, partners=partners()))
    return [event.latents for event in sampled(events)], sum(isinstance(event, StepDone) for event in events)


def partners():
    return InTurns(torch.distributed.group.WORLD)


def ended_by_the_first(lag, ticks):
    """The first process closes its video after some ticks: how many each did, and how it ended."""
    events = events_of("f1", lag, partners=partners())
    done = 0
    try:
        for event in events:
            done += isinstance(event, StepDone)
            if done == ticks and torch.distributed.get_rank() == 0:
                events.close()
                return done, "closed"
    except CancelledError:
        return done, "told"
    return done, "to its end"


def failed_by_the_second(lag):
    """The second process fails where it begins its first section: what each raised."""

    def begin(section):
        if section.index > 0 and torch.distributed.get_rank() == 1:
            raise MemoryError("no room for a section")

    try:
        list(events_of("f1", lag, partners=partners(), begin=begin))
    except (PartnerError, MemoryError) as error:
        return type(error).__name__, str(error)
    return "", ""


def decoded():
    """A decode of several windows, alone and shared, twice: whether the first process gets the same pixels."""
    latents = torch.randn(1, 16, 9, 2, 2, generator=torch.Generator().manual_seed(0))
    shares = DecodesTogether(torch.distributed.group.WORLD)
    KEPT.append(shares)  # until the first process has its pixels
    alone = vae_decode(latents, golden_vae(), kernels=PLAIN)
    together = [vae_decode(latents, golden_vae(), kernels=PLAIN, share=shares()) for _ in range(2)]
    return [torch.equal(alone, one) for one in together], [one.shape[2] for one in together]


def decoded_again():
    """Five windows, the last one shorter, of which each process' second one finds no memory: what is given then."""
    windows = [torch.full((1, 1, frames, 1, 1), float(number)) for number, frames in enumerate((3, 3, 3, 3, 2))]
    shares = DecodesTogether(torch.distributed.group.WORLD, video=1)
    KEPT.append(shares)
    share, calls = shares(), []

    def decode(latents):
        calls.append(int(latents[0, 0, 0, 0, 0]))
        if len(calls) == 2:
            raise torch.OutOfMemoryError("no room for a window")
        return latents[:, :, :1].expand(1, 3, 4 * latents.shape[2] - 3, 1, 1).contiguous()

    def given():
        return [(pixels[0, 0, :1].flatten().tolist(), pixels.shape[2]) for pixels in share(decode, windows)]

    return retry_on_oom(given, given), calls


def all_cases():
    """What this process sees of each."""
    return {variant: latents_in_turns(variant, 2) for variant in VIDEOS} | {
        "decoded": decoded(),
        "decoded again": decoded_again(),
        "ended": ended_by_the_first(2, 5),
        "failed": failed_by_the_second(2),
    }

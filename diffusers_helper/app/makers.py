"""What makes the videos of a program: the models of this process, or (see groups.py) processes with a GPU each."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from diffusers_helper.app.device import gpu_use
from diffusers_helper.core.events import Event
from diffusers_helper.core.gpus import GpuUse
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.settings import sampling_settings
from diffusers_helper.loading.environment import differences
from diffusers_helper.media.inputs import JobInputs

if TYPE_CHECKING:
    import torch

    from diffusers_helper.generation.start import Made
    from diffusers_helper.generation.team import Team
    from diffusers_helper.loading.components import Components

Generate = Callable[..., Generator[Event, None, None]]
Report = Callable[[str, int, int], None]
"""Hears of what takes long: what it is, how much is done, and of how much."""

Pictures = Callable[[JobInputs], Generator[Event, None, "Made"]]
"""Makes a picture; see `generation.start.PictureMaker.make`."""


@dataclass(frozen=True, eq=False)
class Call:
    """A video that is asked for.

    Attributes:
        inputs, output, metadata: see `generation.generate`.
        checkpoint: the folder of its sections.
        allow_env_change: go on with sections that were made in another environment; else the video is begun anew.
    """

    inputs: JobInputs
    output: Path
    checkpoint: Path
    metadata: bool
    allow_env_change: bool = False


class Maker(Protocol):
    """What a program asks of what makes its videos."""

    @property
    def at_once(self) -> int:
        """How many videos it makes at the same time."""

    @property
    def generate(self) -> Generate:
        """Makes one video, by the fields of `Call` as its arguments, `check` and `report` (see `Report`)."""

    @property
    def gpus(self) -> Sequence[GpuUse]:
        """How the GPUs are used that make videos."""

    def pictures(self, check: Callable[[], None], report: Report) -> Pictures | None:
        """Return what makes single pictures and first pictures; None for the models of this process."""

    def environment(
        self, before: Mapping[str, str], request: GenerationRequest, variants: Sequence[str]
    ) -> dict[str, str]:
        """Return what a video depends on here, calibrations apart; what is not known yet is as it was `before`."""

    def release(self) -> None:
        """Give back the memory of what makes no video now."""


class OwnModels:
    """Makes videos with the models of this process; see `Maker`.

    Args:
        components: gives the models.
        device: where they are.
        generate: makes a video of them; None is `generation.generate`.
    """

    at_once = 1

    def __init__(
        self, components: Callable[[], Components], device: torch.device, generate: Generate | None = None
    ) -> None:
        self._components = components
        self._device = device
        self._generate = generate

    def generate(  # noqa: PLR0913 - those of `generation.generate`
        self,
        inputs: JobInputs,
        *,
        output: Path,
        check: Callable[[], None],
        checkpoint: Path,
        metadata: bool = True,
        allow_env_change: bool = False,
        report: Report,  # noqa: ARG002 - the models know who hears of them
    ) -> Generator[Event, None, None]:
        """See `Maker`."""
        call = Call(inputs, output, checkpoint, metadata, allow_env_change)
        return begun(call, self._components(), check, generate=self._generate)

    @property
    def gpus(self) -> Sequence[GpuUse]:
        """See `Maker`."""
        return (gpu_use(self._device),) if self._device.type == "cuda" else ()

    def pictures(self, check: Callable[[], None], report: Report) -> Pictures | None:  # noqa: ARG002 - see `Maker`
        """See `Maker`."""
        return None

    def environment(
        self,
        before: Mapping[str, str],  # noqa: ARG002 - all is known
        request: GenerationRequest,
        variants: Sequence[str],
    ) -> dict[str, str]:
        """See `Maker`."""
        from diffusers_helper.generation.sampling import environment_at

        return environment_at(self._components(), sampling_settings(request), variants)

    def release(self) -> None:
        """Do nothing: the models are the program's."""


def begun(
    call: Call,
    components: Components,
    check: Callable[[], None],
    team: Team | None = None,
    generate: Generate | None = None,
) -> Generator[Event, None, None]:
    """Begin a video, or go on with it: the events of `generate`, by default `generation.generate`.

    Sections of another environment are forgotten, unless the call allows them.
    """
    from diffusers_helper.generation import generate as generation
    from diffusers_helper.generation.checkpoint import Checkpoint

    checkpoint = Checkpoint(call.checkpoint)
    if not call.allow_env_change and env_change(call, components):
        checkpoint.forget()
    return (generate or generation.generate)(
        call.inputs,
        components=components,
        output=call.output,
        check=check,
        checkpoint=checkpoint,
        metadata=call.metadata,
        team=team,
    )


def env_change(call: Call, components: Components) -> str:
    """Return what is different here from where a video was begun; empty if nothing is, and for a new one."""
    from diffusers_helper.generation.checkpoint import environment_in
    from diffusers_helper.generation.sampling import environment_of

    now = environment_of(components, call.inputs.request, call.inputs.direction.plan.variants)
    return differences(environment_in(call.checkpoint), now)

"""What this computer is and has, as plain data: gathered once, judged by `doctor`. All sizes are bytes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING

from diffusers_helper.app.gpu_choices import require_fitting, require_heads
from diffusers_helper.app.launch import open_port
from diffusers_helper.commands.speed import Speed, measure
from diffusers_helper.core.errors import FramePackError, ModelFilesError, SettingsError
from diffusers_helper.core.gpus import GpuUse
from diffusers_helper.core.quality import RUNGS, Quality
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.model_files import ModelSource, Part, free_bytes, parts_for, resolve_models
from diffusers_helper.service.config import RuntimeConfig
from diffusers_helper.service.nvidia import driver_version
from diffusers_helper.service.places import can_write
from diffusers_helper.service.proxies import proxies_in, proxy_fault, without_password
from diffusers_helper.service.versions import Package, installed_packages

if TYPE_CHECKING:
    import torch

    from diffusers_helper.loading.precision import Precision
    from diffusers_helper.service.system_monitor import GpuSample


@dataclass(frozen=True)
class Gpu:
    """The CUDA card that would be used; `architectures` are those that this torch has kernels for ("sm_90")."""

    name: str
    capability: tuple[int, int]
    architectures: tuple[str, ...]
    free: int
    resident: bool


@dataclass(frozen=True)
class BackendProbe:
    """How one attention backend did: `fits` says whether it is installed and meant for the device."""

    name: str
    fits: bool
    reason: str | None


@dataclass(frozen=True)
class Models:
    """The model that would be used.

    Attributes:
        title: for people.
        small: whether any computer runs it.
        error: the sentence with which a start would end; None if it would not.
        lacking: bytes still to download, about.
        size: bytes of all its weights; `largest` of its largest part, as far as they wait in RAM for a GPU.
        root: where its files are.
        free: room on the disk of `root`.
    """

    title: str
    small: bool
    error: str | None
    lacking: int
    size: int
    largest: int
    root: Path
    free: int


@dataclass(frozen=True)
class Facts:
    """Everything that the checks look at.

    Attributes:
        cuda_build: version of CUDA that torch was built for; None if for none.
        driver: version of NVIDIA's driver; None if there is none.
        wanted_device: what `--device` says.
        device: type of the device that models would run on; `device_error` is why the wanted one cannot.
        gpu: the card; None if `device` is not "cuda".
        packages: the large libraries.
        speed: what the card reaches; None without a card, or if it computes nothing.
        plain_kernels: why no fused kernels are used; None if they are.
        wanted_attention: what `--attention` says.
        h264: whether the video library can write H.264.
        shares: which part of an exact section's time each rung of quality takes.
        draft: what drafts multiply.
        port_error: why the page could not be served; None if it could.
        wanted_gpus, parallel: what `--gpus` and `--parallel` say; no numbers where one GPU makes a video.
        gpus: how many there are.
        gpus_error: which of the choices for several GPUs do not fit; empty for none.
        links: whether each of the wanted ones reaches the memory of the others.
        cards: the wanted ones now, as far as they tell.
        copies: how many times weights that travel to the GPUs are in RAM.
        proxies: those of the environment, by variable; `proxy_error` is why they cannot be used.
    """

    python: tuple[int, int, int]
    torch: str
    cuda_build: str | None
    driver: str | None
    wanted_device: str
    device: str
    device_error: str | None
    gpu: Gpu | None
    packages: tuple[Package, ...]
    speed: Speed | None
    plain_kernels: str | None
    attention: tuple[BackendProbe, ...]
    wanted_attention: str
    memory: int
    swap: int
    models: Models
    outputs: Path
    outputs_free: int
    outputs_writable: bool
    h264: bool
    port_error: str | None
    shares: tuple[tuple[str, float], ...] = ()
    draft: Precision | None = None
    wanted_gpus: tuple[int, ...] = ()
    parallel: str = "auto"
    gpus: int = 0
    gpus_error: str = ""
    links: bool = False
    cards: tuple[GpuSample, ...] = ()
    copies: int = 1
    proxies: tuple[tuple[str, str], ...] = ()
    proxy_error: str | None = None


def gather(config: RuntimeConfig, variant: str) -> Facts:
    """Look at this computer with the eyes of a program that was started with `config`.

    Small kernels run on the device. Raises SettingsError for a model folder that does not exist.
    """
    import torch
    from av.codec import codecs_available

    from diffusers_helper.memory.ram import free_ram
    from diffusers_helper.memory.shared import can_share

    device, device_error = _device(config.device)
    precisions = _precisions(config, variant, device)
    ram = free_ram()
    outputs: Path = config.folders.outputs
    return Facts(
        python=sys.version_info[:3],
        torch=torch.__version__,
        cuda_build=torch.version.cuda,
        driver=driver_version(),
        wanted_device=config.device,
        device=device.type,
        device_error=device_error,
        gpu=_gpu(device) if device.type == "cuda" else None,
        packages=tuple(installed_packages()),
        speed=_speed(device),
        plain_kernels=_plain_kernels(device, wanted=config.compile),
        attention=_attention(device),
        wanted_attention=config.attention,
        memory=ram.available,
        swap=ram.swap,
        models=_models(config, variant, accelerator=device.type != "cpu"),
        outputs=outputs,
        outputs_free=free_bytes(outputs),
        outputs_writable=can_write(outputs),
        h264="libx264" in codecs_available,
        port_error=_port_error(config.server, config.port),
        shares=_shares(config, variant, precisions, accelerator=device.type != "cpu"),
        draft=precisions["draft"],
        wanted_gpus=config.gpus or (),
        parallel=config.parallel,
        gpus=torch.cuda.device_count(),
        gpus_error=_gpus_error(config),
        links=_links(config.gpus or ()),
        cards=_cards(config.gpus or (), outputs),
        copies=1 if can_share() else max(1, len(config.gpus or ())),
        proxies=tuple((name, without_password(url)) for name, url in proxies_in(os.environ).items()),
        proxy_error=proxy_fault(),
    )


def _gpus_error(config: RuntimeConfig) -> str:
    try:
        require_fitting(config)
        wanted, lock = config.device != "cpu", config.folders.models_lock
        require_heads(config, resolve_models(config.models, accelerator=wanted, lock=lock))
    except SettingsError as error:
        return str(error)
    except ModelFilesError:  # the models' own line says it
        return ""
    return ""


def _cards(gpus: tuple[int, ...], outputs: Path) -> tuple[GpuSample, ...]:
    import torch

    from diffusers_helper.app.device import uuid_of
    from diffusers_helper.service.system_monitor import SystemMonitor

    there = [torch.device("cuda", number) for number in gpus if number < torch.cuda.device_count()]
    return SystemMonitor(outputs, lambda: [GpuUse(uuid_of(device), 0) for device in there]).read().gpus


def _links(gpus: tuple[int, ...]) -> bool:
    import torch

    if not gpus or max(gpus) >= torch.cuda.device_count():
        return False
    return all(torch.cuda.can_device_access_peer(one, other) for one, other in permutations(gpus, 2))


def _device(choice: str) -> tuple[torch.device, str | None]:
    import torch

    from diffusers_helper.app.device import pick_device

    try:
        return pick_device(choice), None
    except SettingsError as error:
        return torch.device("cpu"), str(error)


def _gpu(device: torch.device) -> Gpu:
    import torch

    from diffusers_helper.memory import choose_policy, get_cuda_free_memory_gb
    from diffusers_helper.memory.devices import GIB

    free = get_cuda_free_memory_gb(device)
    return Gpu(
        name=torch.cuda.get_device_name(device),
        capability=torch.cuda.get_device_capability(device),
        architectures=tuple(torch.cuda.get_arch_list()),
        free=int(free * GIB),
        resident=choose_policy(free, 0).resident,
    )


def _speed(device: torch.device, measure: Callable[[torch.device], Speed] = measure) -> Speed | None:
    if device.type == "cpu":
        return None
    try:
        return measure(device)
    except (RuntimeError, SettingsError):  # no kernel image, no free memory: other findings say so
        return None


def _plain_kernels(device: torch.device, *, wanted: bool) -> str | None:
    from diffusers_helper.models.dtypes import half_precision
    from diffusers_helper.models.kernel_selection import reason_for_plain

    return reason_for_plain(device, half_precision(device)) if wanted else "they are switched off with --no-compile"


def _attention(device: torch.device) -> tuple[BackendProbe, ...]:
    from diffusers_helper.models.attention import BACKENDS
    from diffusers_helper.models.dtypes import half_precision

    attempts, dtype = [], half_precision(device)
    for name, backend in BACKENDS.items():
        reason = backend.constraint(device, dtype, 128)
        if reason is None and not backend.is_installed:
            reason = f"{backend.module} is not installed"
        fits = reason is None
        attempts.append(BackendProbe(name, fits, backend.reason_unavailable(device, dtype) if fits else reason))
    return tuple(attempts)


def _models(config: RuntimeConfig, variant: str, *, accelerator: bool) -> Models:
    source = resolve_models(config.models, accelerator=accelerator, lock=config.folders.models_lock)
    try:
        source.check((variant,), offline=config.offline)
        error = None
    except ModelFilesError as failure:
        error = str(failure)
    sizes, lacking = _sizes(source, variant)
    return Models(
        title=source.title,
        small=source.is_tiny,
        error=error,
        lacking=lacking,
        size=sum(sizes.values()),
        largest=max(int(size * (1 - part.once_per_video)) for part, size in sizes.items()),
        root=source.root,
        free=free_bytes(source.root),
    )


def _precisions(config: RuntimeConfig, variant: str, device: torch.device) -> dict[Quality, Precision]:
    from diffusers_helper.core.settings import sampling_settings
    from diffusers_helper.loading.compute import ComputeOptions
    from diffusers_helper.loading.precision import Precisions, TensorCores

    source = resolve_models(config.models, accelerator=device.type != "cpu", lock=config.folders.models_lock)
    options = ComputeOptions(attention=config.attention, fused=config.compile)
    precisions = Precisions(source, TensorCores(device, options))
    requests = {quality: GenerationRequest(quality=quality) for quality in RUNGS}
    return {quality: precisions.proven(sampling_settings(request), variant) for quality, request in requests.items()}


def _shares(
    config: RuntimeConfig, variant: str, precisions: Mapping[Quality, Precision], *, accelerator: bool
) -> tuple[tuple[str, float], ...]:
    from diffusers_helper.core.settings import sampling_settings
    from diffusers_helper.loading.step_ratios import FOLDER, StepRatios
    from diffusers_helper.models.step_caches import expected_share

    source = resolve_models(config.models, accelerator=accelerator, lock=config.folders.models_lock)
    settings = [sampling_settings(source.defaults.model_copy(update={"quality": quality})) for quality in RUNGS]
    ratios = StepRatios(source, config.folders.cache / FOLDER).of(variant, source.defaults.steps)
    shares = (expected_share(one, ratios) for one in settings)
    return tuple((name, share * precisions[name].cost) for name, share in zip(RUNGS, shares, strict=True))


def _sizes(source: ModelSource, variant: str) -> tuple[dict[Part, int], int]:
    """Bytes of each part, and of those that are not in order."""
    sizes, lacking = {}, 0
    for part in parts_for((variant,)):
        folder, problems = source.inspect(part)
        here = folder is not None and not problems
        sizes[part] = part.bytes_in(folder) if here and folder else part.size
        lacking += 0 if here else part.size
    return sizes, lacking


def _port_error(server: str, port: int) -> str | None:
    try:
        open_port(server, port).close()
    except FramePackError as error:
        return str(error)
    return None

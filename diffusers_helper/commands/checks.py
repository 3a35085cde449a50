"""What `doctor` looks at: each check judges the facts about a computer by one finding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from diffusers_helper.commands.system_info import BackendProbe, Facts
from diffusers_helper.core.plan import FPS, LATENT_WINDOW
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.model_files import readable_size
from diffusers_helper.service.nvidia import has_kernels, kernels_fault, unused_card

PYTHONS = ((3, 11), (3, 13))
"""The oldest and the newest Python that the program is tested with."""
GPU_BYTES = int(GenerationRequest.model_fields["preserved_memory_gb"].default * 1024**3)
"""GPU memory that the work itself takes beside swapped weights: what a request leaves free for it."""
STEPS = GenerationRequest.model_fields["steps"].default
SECTION_SECONDS = 4 * LATENT_WINDOW / FPS
OUTPUT_BYTES = 1_000_000_000
"""Room for results below which somebody should be told; a long video's files take some hundred MB."""
UNTRIED = ("mps", "xpu")
_TORCH_ADVICE = "Install the torch that requirements.txt names (scripts/setup), or a newer one for a newer card"
_HOPPER_ADVICE = (
    "It is exact and makes a step 6 % shorter (0.745 s in place of 0.793 on an H100): "
    "pip install -r requirements-hopper.txt"
)


class Level(StrEnum):
    """How bad a finding is; only a problem keeps a video from being made."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: a sentence about it and, unless it is in order, what to do."""

    level: Level
    subject: str
    sentence: str


def python(facts: Facts) -> Finding:
    """Whether the program is tested with this Python."""
    version = ".".join(map(str, facts.python))
    if PYTHONS[0] <= facts.python[:2] <= PYTHONS[1]:
        return Finding(Level.OK, "Python", f"{version}.")
    sentence = f"{version} is not among those tested. Install 3.11, 3.12 or 3.13, delete .venv and run scripts/setup."
    return Finding(Level.PROBLEM, "Python", sentence)


def packages(facts: Facts) -> Finding:
    """Whether the large libraries are of versions that the program is tested with."""
    for package in facts.packages:
        if package.too_old:
            have = f"is too old ({package.installed})" if package.installed else "is not installed"
            text = f"{package.name} {have}: {package.oldest} is needed. Run scripts/setup, which installs it."
            return Finding(Level.PROBLEM, "packages", text)
    newer = [f"{package.name} {package.installed}" for package in facts.packages if package.untested]
    if newer:
        text = f"newer than what was tested: {', '.join(newer)}. If something fails, run scripts/setup."
        return Finding(Level.NOTE, "packages", text)
    return Finding(Level.OK, "packages", ", ".join(f"{package.name} {package.installed}" for package in facts.packages))


def torch_build(facts: Facts) -> Finding:
    """Whether torch finds a device, and has kernels for it."""
    if facts.device_error:
        return Finding(Level.PROBLEM, "torch", facts.device_error)
    gpu = facts.gpu
    if gpu is not None:
        arch = "sm_{}{}".format(*gpu.capability)
        if has_kernels(gpu.capability, gpu.architectures):
            return Finding(Level.OK, "torch", f"{facts.torch} has kernels for the {gpu.name} ({arch}).")
        text = f"{facts.torch}: {kernels_fault(gpu.name, gpu.capability, gpu.architectures)} {_TORCH_ADVICE}."
        return Finding(Level.PROBLEM, "torch", text)
    if facts.device == "cpu" and facts.driver and facts.wanted_device != "cpu":
        text = f"{facts.torch}: {unused_card(facts.driver, facts.cuda_build)} --device cpu goes without it."
        return Finding(Level.PROBLEM, "torch", text)
    return Finding(Level.OK, "torch", f"{facts.torch} on {facts.device}.")


def driver(facts: Facts) -> Finding:
    """Whether there is a driver, where one is needed."""
    if facts.driver:
        return Finding(Level.OK, "driver", f"NVIDIA {facts.driver}.")
    if facts.device != "cuda":
        return Finding(Level.OK, "driver", f"none of NVIDIA's, and none is needed on {facts.device}.")
    return Finding(Level.NOTE, "driver", "nvidia-smi does not answer. Restart the computer after a driver update.")


def device(facts: Facts) -> Finding:
    """Whether the device is made for the models."""
    if facts.device == "cpu" and not facts.models.small:
        text = "the published models take hours for a second of video on a CPU. Use a computer with a GPU."
        return Finding(Level.NOTE, "device", text)
    if facts.gpu is not None and facts.gpu.capability < (8, 0):
        text = (
            f"the {facts.gpu.name} is older than bfloat16 and computes in float16. Should its largest number not "
            "suffice, the video fails with a sentence; a card since 2020 does not have this limit."
        )
        return Finding(Level.NOTE, "device", text)
    if facts.device in UNTRIED:
        text = f"{facts.device}: no such device was ever tried with FramePack. scripts/check_device says what is right."
        return Finding(Level.NOTE, "device", text)
    return Finding(Level.OK, "device", f"{facts.gpu.name if facts.gpu else facts.device}.")


def together(facts: Facts) -> Finding:
    """Whether the GPUs that are to make a video together are there, and how they would."""
    wanted = ", ".join(map(str, facts.wanted_gpus))
    if fault := facts.gpus_error or _lacking(facts, wanted):
        return Finding(Level.PROBLEM, "several GPUs", fault)
    if not wanted:
        return Finding(Level.OK, "several GPUs", "none are to make a video together (--gpus).")
    if facts.wanted_device == "cpu":
        text = f"--device cpu: {len(facts.wanted_gpus)} processes share the processor, which makes no video sooner."
        return Finding(Level.NOTE, "several GPUs", text)
    if facts.parallel == "jobs":
        return Finding(Level.OK, "several GPUs", f"{wanted} make a video each (jobs){_now(facts)}.")
    if facts.parallel == "ulysses" and not facts.links:
        text = f"{wanted} do not reach each other's memory, so sharing every step is slow. Choose --parallel stagger."
        return Finding(Level.NOTE, "several GPUs", text)
    way = "reach each other's memory" if facts.links else "go through the computer's memory"
    return Finding(Level.OK, "several GPUs", f"{wanted} {way} ({facts.parallel}){_now(facts)}.")


def _lacking(facts: Facts, wanted: str) -> str:
    if facts.wanted_device == "cpu" or max(facts.wanted_gpus, default=-1) < facts.gpus:
        return ""
    return f"--gpus {wanted}, and torch finds {facts.gpus}. Choose among those that nvidia-smi lists, from 0."


def _now(facts: Facts) -> str:
    cards = [
        f"{number}: {readable_size(card.free)} free"
        + ("" if card.utilisation is None else f", {card.utilisation:.0%} busy")
        for number, card in zip(facts.wanted_gpus, facts.cards, strict=False)
    ]
    return f": {'; '.join(cards)}" if cards else ""


def gpu_memory(facts: Facts) -> Finding:
    """Whether the card has room for the work."""
    gpu = facts.gpu
    if gpu is None:
        return Finding(Level.OK, "GPU memory", "none to look at.")
    free = f"{readable_size(gpu.free)} are free"
    if facts.models.small:
        return Finding(Level.OK, "GPU memory", f"{free}.")
    if gpu.free < GPU_BYTES:
        text = (
            f"{free}, and the work needs {readable_size(GPU_BYTES)}. Close other programs on the card "
            "(nvidia-smi lists them), or choose a smaller resolution."
        )
        return Finding(Level.PROBLEM, "GPU memory", text)
    way = (
        "everything stays on the card"
        if gpu.resident
        else "weights are moved there as they are needed, which takes time"
    )
    return Finding(Level.OK, "GPU memory", f"{free}: {way}.")


def kernels(facts: Facts) -> Finding:
    """Whether steps are as fast as they can be."""
    if facts.plain_kernels is None:
        return Finding(Level.OK, "kernels", "the fused ones work.")
    if facts.device != "cuda":
        return Finding(Level.OK, "kernels", f"plain: {facts.plain_kernels}.")
    text = f"plain, so steps are slower: {facts.plain_kernels}. Triton needs gcc and Python's headers (python3-dev)."
    return Finding(Level.NOTE, "kernels", text)


def speed(facts: Facts) -> Finding:
    """How long a step will take with the published models."""
    if facts.models.small:
        return Finding(Level.OK, "speed", "the tiny model takes a moment per step.")
    gpu, rates = facts.gpu, facts.speed
    if rates is None:
        return Finding(Level.OK, "speed", "nothing to measure here.")
    resident = gpu.resident if gpu is not None else True  # where memory is one, nothing travels
    seconds = rates.step_seconds(fused=facts.plain_kernels is None, resident=resident)
    faster = [(name, readable_seconds(seconds * STEPS * share)) for name, share in facts.shares if share < 1]
    rungs = "".join(f", {time} with --quality {name}" for name, time in faster)
    text = (
        f"about {seconds:.1f} s per step at 640x608, so {readable_seconds(seconds * STEPS)} for each "
        f"{SECTION_SECONDS} s of video{rungs}. Much slower than that: see docs/troubleshooting.md."
    )
    return Finding(Level.OK, "speed", text)


def eight_bit(facts: Facts) -> Finding:
    """What drafts compute in 8 bits."""
    subject, draft = "8 bits", facts.draft
    if draft is None or facts.device != "cuda":
        return Finding(Level.OK, subject, f"none on {facts.device}: drafts only skip steps.")
    linears = f"multiply {draft.linears} numbers" if draft.linears else f"are exact ({draft.linears_misfit})"
    by = f"is computed in 8 bits ({draft.attention})"
    attention = by if draft.attention else f"is that of other videos ({draft.attention_misfit})"
    return Finding(Level.OK, subject, f"linear layers of drafts {linears}; their attention {attention}.")


def readable_seconds(seconds: float) -> str:
    """A time as people say it."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def attention(facts: Facts, attempt: BackendProbe) -> Finding:
    """Whether one backend works, and how much it matters."""
    subject = f"attention {attempt.name}"
    wanted = attempt.name == facts.wanted_attention
    if attempt.reason is None:
        return Finding(Level.OK, subject, "works.")
    if wanted or attempt.name == "sdpa":
        advice = "Leave --attention out." if wanted else _TORCH_ADVICE + "."
        return Finding(Level.PROBLEM, subject, f"cannot be used: {attempt.reason}. {advice}")
    if not attempt.fits:
        is_hopper = facts.gpu is not None and facts.gpu.capability[0] == 9
        if attempt.name == "fa3" and is_hopper and not facts.models.small:
            return Finding(Level.NOTE, subject, f"{attempt.reason}. {_HOPPER_ADVICE}")
        return Finding(Level.OK, subject, f"not used: {attempt.reason}.")
    text = (
        f"is installed and does not work: {attempt.reason}. It is left out; reinstall it for this torch, or remove it."
    )
    return Finding(Level.NOTE, subject, text)


def memory(facts: Facts) -> Finding:
    """Whether RAM holds the weights that are not on the card; for a card the rest is read from the disk in time."""
    free = f"{readable_size(facts.memory)} are free"
    if facts.gpu is not None and facts.gpu.resident:
        return Finding(Level.OK, "RAM", f"{free}; the weights go straight to the card.")
    need = facts.models.largest * facts.copies if facts.gpu is not None else facts.models.size
    text = f"{free}, and the weights need {readable_size(need)}"
    if len(facts.wanted_gpus) > 1 and facts.gpu is not None:
        text += " (each GPU has its own)" if facts.copies > 1 else " (all GPUs have them together)"
    if facts.memory >= need:
        return Finding(Level.OK, "RAM", f"{text}.")
    if facts.gpu is not None:
        text = f"{text}: the rest is read from the disk in every step, which is slower. Close other programs, or start "
        return Finding(Level.NOTE, "RAM", f"{text}with --weights fp8, which halves them.")
    if facts.memory + facts.swap >= need:
        return Finding(Level.NOTE, "RAM", f"{text}: the rest goes to swap, which is slow. Close other programs.")
    lacking = readable_size(need - facts.memory - facts.swap)
    text = f"{text}; with {readable_size(facts.swap)} of swap {lacking} are lacking. Close other programs or add swap."
    return Finding(Level.PROBLEM, "RAM", text)


def models(facts: Facts) -> Finding:
    """Whether the files are there, or can be fetched."""
    found = facts.models
    if found.error:
        return Finding(Level.PROBLEM, "models", found.error)
    if found.lacking:
        text = (
            f"about {readable_size(found.lacking)} are still to download to {found.root}, where "
            f"{readable_size(found.free)} are free. It happens with the first video, or now with: "
            "./framepack models download"
        )
        return Finding(Level.NOTE, "models", text)
    return Finding(Level.OK, "models", f"complete, in {found.root} ({found.title}).")


def outputs(facts: Facts) -> Finding:
    """Whether results can be written."""
    if not facts.outputs_writable:
        text = f"{facts.outputs} cannot be written to. Change its permissions, or choose another with --outputs."
        return Finding(Level.PROBLEM, "outputs", text)
    text = f"{readable_size(facts.outputs_free)} are free in {facts.outputs}."
    if facts.outputs_free < OUTPUT_BYTES:
        return Finding(Level.PROBLEM, "outputs", f"only {text} Make room, or choose another folder with --outputs.")
    return Finding(Level.OK, "outputs", text)


def encoder(facts: Facts) -> Finding:
    """Whether videos can be written as H.264."""
    if facts.h264:
        return Finding(Level.OK, "encoder", "H.264 (libx264).")
    text = "PyAV has no libx264, so no video can be written. Reinstall it: pip install --force-reinstall av"
    return Finding(Level.PROBLEM, "encoder", text)


def port(facts: Facts) -> Finding:
    """Whether the page can be served."""
    if facts.port_error:
        return Finding(Level.PROBLEM, "port", facts.port_error)
    return Finding(Level.OK, "port", "free.")


def proxies(facts: Facts) -> Finding:
    """Whether downloads go through a proxy, and whether it can be used."""
    listed = ", ".join(f"{name}={url}" for name, url in facts.proxies)
    if facts.proxy_error:
        text = f"{listed} cannot be used: {facts.proxy_error} The page does not start. Correct or unset it."
        return Finding(Level.PROBLEM, "proxies", text.lstrip())
    if not listed:
        return Finding(Level.OK, "proxies", "none.")
    return Finding(Level.OK, "proxies", f"downloads go through {listed}; this computer itself is reached without.")


Check = Callable[[Facts], Finding]
CHECKS: tuple[Check, ...] = (
    python, packages, torch_build, driver, device, together, gpu_memory, kernels, eight_bit, speed, memory, models,
    outputs, encoder, port, proxies,
)  # fmt: skip

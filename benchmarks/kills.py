"""Kill a real command-line run with SIGKILL at many moments, go on, and compare with the run that nobody disturbed.

`python -m benchmarks.kills --models tiny --kills 20 --report kills.md`: for both variants, latents bit for bit and
the frames of the MP4 exactly. Moments: so many seconds after the run says that it samples, decodes or writes a section,
and right before the n-th file gets its final name (an audit hook in the child, outside the program's code).
`--device cuda --free-gib 6` does it on a GPU of which the runs find so much free.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np
import torch
from diffusers import AutoencoderKLHunyuanVideo
from PIL import Image
from safetensors.torch import load_file

from benchmarks.common import GIB
from diffusers_helper.model_files.choice import TINY_FOLDER
from diffusers_helper.model_files.parts import VAE

ROOT = Path(__file__).parents[1]
SAYS = {"sampling": "Sampling section", "decoding": "Decoding section", "writing": "Writing the video"}
LONGEST = {"sampling": 0.3, "decoding": 4.0, "writing": 0.5}
"""How long after the words the kill may come, seconds."""
HEAD = "| variant | killed | sections kept | in the MP4 | `.part` left | latents | frames |\n" + "|---" * 7 + "|\n"
_HOOK = """
import os, signal, sys
count, name = os.environ.pop("KILL_AT_RENAME").split(" ", 1)
left = int(count)
def hook(event, arguments):
    global left
    if event == "os.rename" and "outputs" in str(arguments[1]) and name in os.path.basename(str(arguments[1])):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
"""


@dataclass(frozen=True)
class Moment:
    """When a run is killed: the `count`-th time that it does `what`, `delay` seconds later.

    Of renames those count alone whose new name has `name` in it.
    """

    what: str
    count: int
    delay: float = 0.0
    name: str = ""

    def __str__(self) -> str:
        return f"{self.what} {self.count}" + (f" + {self.delay:.2f} s" if self.delay else "")


@dataclass(frozen=True)
class Outcome:
    """What was on the disk after the kill, and how what came of it compares."""

    variant: str
    moment: Moment
    kept: int
    shown: int
    parts: int
    latents: bool
    frames: bool

    @property
    def row(self) -> str:
        """A line of the table."""
        words = (self.variant, self.moment, self.kept, self.shown, self.parts, *map(_yes, (self.latents, self.frames)))
        return f"| {' | '.join(map(str, words))} |\n"


def _yes(good: bool) -> str:
    return "equal" if good else "DIFFERENT"


class Runs:
    """Command-line runs of one request in folders of their own.

    Args:
        folder: for everything.
        variant, models, seconds, steps: of the video.
        device: where they compute.
    """

    def __init__(
        self, folder: Path, variant: str, models: str, seconds: float, steps: int, device: str = "cpu"
    ) -> None:
        self.folder, self.variant = folder, variant
        self.options = ["--models", models, "--device", device, "--cache", str(folder / "cache")]
        self.settings = ["--variant", variant, "--seconds", str(seconds), "--steps", str(steps), "--seed", "5"]
        self.photo = folder / "photo.png"
        pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(self.photo)

    def whole(self) -> Path:
        """Make the video undisturbed; return the folder of its results."""
        return self._generate("whole", None)

    def killed(self, name: str, moment: Moment) -> tuple[Path, Moment]:
        """Make it until `moment`, or a bit earlier if it was done by then; return the folder of its results."""
        while True:
            outputs = self._generate(name, moment)
            if list(outputs.glob("jobs/*/job.json")) and not _is_done(outputs):
                return outputs, moment
            shutil.rmtree(outputs.parent)
            moment = replace(moment, delay=moment.delay / 2, count=moment.count - (moment.what == "renaming"))

    def resume(self, outputs: Path, moment: Moment | None = None) -> None:
        """Go on with what is in `outputs`, to the end or until `moment`."""
        self._run(self._command("resume", outputs), moment)

    def _generate(self, name: str, moment: Moment | None) -> Path:
        outputs = self.folder / name / "outputs"
        more = (str(self.photo), "a cat", "--keep", "latents", *self.settings)
        self._run(self._command("generate", outputs, *more), moment)
        return outputs

    def _run(self, command: list[str], moment: Moment | None) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with tempfile.TemporaryDirectory() as hook:
            if moment is not None and moment.what == "renaming":
                (Path(hook) / "sitecustomize.py").write_text(_HOOK)
                environment |= {"PYTHONPATH": hook, "KILL_AT_RENAME": f"{moment.count} {moment.name}"}
            with subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            ) as run:
                _watch(run, moment)
        if moment is None and run.returncode != 0:
            raise RuntimeError(f"an undisturbed run ended with {run.returncode}")

    def _command(self, command: str, outputs: Path, *more: str) -> list[str]:
        return [sys.executable, "-m", "diffusers_helper", command, *more, *self.options, "--outputs", str(outputs)]


def _is_done(outputs: Path) -> bool:
    return any('"state": "done"' in path.read_text() for path in outputs.glob("jobs/*/job.json"))


def _watch(run: subprocess.Popen[bytes], moment: Moment | None) -> None:
    """Read what the run says to its end; kill it when the moment has come."""
    said, text = 0, ""
    assert run.stderr is not None
    while chunk := os.read(run.stderr.fileno(), 65536):
        if moment is None or moment.what not in SAYS or said >= moment.count:
            continue
        text += chunk.decode(errors="replace")
        stages = [stage for stage, _ in _repeats_dropped(text)]
        said = sum(SAYS[moment.what] in stage for stage in stages)
        if said >= moment.count:
            threading.Timer(moment.delay, run.kill).start()


def _repeats_dropped(text: str) -> Iterator[tuple[str, None]]:
    """What the progress line says, each time that it changes."""
    last = ""
    for line in re.split(r"[\r\n]", text):
        stage = line.split(":", 1)[0].strip()
        if stage and stage != last:
            last = stage
            yield stage, None


def compare(variant: str, moment: Moment, runs: Runs, whole: Path, name: str) -> Outcome:
    """Kill a run, go on with it, and compare it with the `whole` one."""
    outputs, moment = runs.killed(name, moment)
    kept = len(list(outputs.glob("jobs/*/section_*.safetensors")))
    numbers = [int(path.stem[-2:]) for path in outputs.glob("*_partial_*.mp4")]
    parts = len(list(outputs.rglob("*.part")))
    runs.resume(outputs)
    assert not list(outputs.rglob("*.part")), "something half-written was left"
    assert not list(outputs.glob("*_partial_*")), "a partial file was left"
    return Outcome(
        variant, moment, kept, max(numbers, default=0), parts, same_latents(whole, outputs), same_frames(whole, outputs)
    )


def same_latents(first: Path, second: Path) -> bool:
    """Whether two runs sampled the same bits."""
    found = [sorted(folder.glob("jobs/*/section_*.safetensors")) for folder in (first, second)]
    if len(found[0]) != len(found[1]) or not found[0]:
        return False
    pairs = ((load_file(a), load_file(b)) for a, b in zip(*found, strict=True))
    return all(a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in pairs)


def same_frames(first: Path, second: Path) -> bool:
    """Whether the two MP4s show the same frames, exactly."""
    found = [list(_frames(folder)) for folder in (first, second)]
    return len(found[0]) == len(found[1]) > 0 and all(map(np.array_equal, *found))


def _frames(outputs: Path) -> Iterator[np.ndarray]:
    [video] = outputs.glob("*.mp4")
    with av.open(video) as file:
        for frame in file.decode(video=0):
            yield frame.to_ndarray()


def small_models(folder: Path, model: Path = TINY_FOLDER) -> Path:
    """Make a copy of `model` in `folder` whose decoder takes a third of the time, untrained; return it."""
    shutil.copytree(model, folder, copy_function=os.symlink)
    vae = folder / VAE.repository / VAE.folder
    config = AutoencoderKLHunyuanVideo.load_config(vae)
    shutil.rmtree(vae)
    torch.manual_seed(0)
    small = AutoencoderKLHunyuanVideo.from_config(config, block_out_channels=(4, 4, 4, 4), norm_num_groups=2)
    small.save_pretrained(vae)
    return folder


def moments(count: int, sections: int, chance: random.Random) -> list[Moment]:
    """Return `count` moments of all four kinds; five renames come before anything of the video, two per section."""
    found = []
    for number in range(count):
        what = ("sampling", "decoding", "writing", "renaming")[number % 4]
        if what == "renaming":
            found.append(Moment(what, chance.randint(6, 8 + 2 * sections)))
        else:
            found.append(Moment(what, chance.randint(1, sections), chance.uniform(0, LONGEST[what])))
    return found


def main() -> None:
    """Kill as often as the options say, and write a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", help="as everywhere; without it the tiny model with a smaller decoder")
    parser.add_argument("--kills", type=int, default=20, help="for each variant")
    parser.add_argument("--seconds", type=float, default=3.6)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--report", type=Path)
    parser.add_argument("--variants", nargs="+", default=["original", "f1"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--free-gib", type=float, help="of the GPU's memory; the rest is held here")
    parsed = parser.parse_args()
    table = HEAD
    taken = all_but(parsed.free_gib) if parsed.free_gib else None
    with tempfile.TemporaryDirectory() as scratch:
        models = parsed.models or str(small_models(Path(scratch) / "models"))
        for variant in parsed.variants:
            (folder := Path(scratch) / variant).mkdir()
            runs = Runs(folder, variant, models, parsed.seconds, parsed.steps, parsed.device)
            whole, chance = runs.whole(), random.Random(parsed.seed)
            for number, moment in enumerate(moments(parsed.kills, round(parsed.seconds / 1.2), chance)):
                started = time.monotonic()
                outcome = compare(variant, moment, runs, whole, f"kill{number:02d}")
                table += outcome.row
                print(outcome.row.strip(), f"{time.monotonic() - started:.0f} s", flush=True)
                if parsed.report:
                    parsed.report.write_text(table)
    del taken


def all_but(gib: float) -> torch.Tensor:
    """Memory of the GPU, so much that only `gib` GiB are left to others."""
    torch.ones(1, device="cuda")
    free, _ = torch.cuda.mem_get_info()
    return torch.empty(free - int(gib * GIB), dtype=torch.uint8, device="cuda")


if __name__ == "__main__":
    main()

"""Ways in which the files of a kept job may be damaged, each a function of what it damages."""

import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image

from diffusers_helper.jobs.store import JobStore

ASIDE, LEFT, WHOLE = "put aside", "left where it is", "offered"
"""What becomes of the damaged job."""


@dataclass(frozen=True)
class Victim:
    """One job of a store: interrupted, with two sections and the video of one."""

    store: JobStore
    id: str

    @property
    def folder(self) -> Path:
        return self.store.folder / self.id

    @property
    def lock(self) -> Path:
        return self.store.folder / f"{self.id}.lock"

    @property
    def outputs(self) -> Path:
        return self.store.folder.parent

    def set(self, **fields: object) -> None:
        file = self.folder / "job.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    def as_earlier(self, **fields: object) -> None:
        """Write the record as versions up to 2026-11 did, which knew one picture."""
        file = self.folder / "job.json"
        record = json.loads(file.read_text())
        start = record.pop("pictures")["start"]
        file.write_text(json.dumps(record | {"photo_name": start["name"], "photo_notes": start["notes"]} | fields))

    def request(self, **fields: object) -> None:
        file = self.folder / "job.json"
        record = json.loads(file.read_text())
        file.write_text(json.dumps(record | {"request": record["request"] | fields}))

    def write(self, name: str, content: bytes | str) -> None:
        (self.folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    def replace(self, name: str, make: Callable[[Path], object]) -> None:
        path = self.folder / name
        path.unlink()
        make(path)

    def called(self, name: str | bytes) -> None:
        os.rename(os.fsencode(self.folder), os.fsencode(self.store.folder) + b"/" + os.fsencode(name))


Damage = Callable[[Victim], object]
DAMAGES: dict[str, tuple[Damage, str]] = {}


def becomes(outcome: str) -> Callable[[Damage], Damage]:
    """Register a way of damaging a job, and what has to become of the job then."""

    def register(damage: Damage) -> Damage:
        DAMAGES[damage.__name__] = damage, outcome
        return damage

    return register


def deep(opening: str = "[") -> str:
    return opening * 200_000


def png(width: int, height: int) -> bytes:
    """A PNG that says it has so many pixels, and has none."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(b""), b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


# --- job.json: its text


@becomes(ASIDE)
def record_empty(job: Victim) -> None:
    job.write("job.json", "")


@becomes(ASIDE)
def record_cut_short(job: Victim) -> None:
    job.write("job.json", (job.folder / "job.json").read_bytes()[:-40])


@becomes(ASIDE)
def record_of_zeros(job: Victim) -> None:
    job.write("job.json", bytes((job.folder / "job.json").stat().st_size))


@becomes(ASIDE)
def record_deep_list(job: Victim) -> None:
    job.write("job.json", deep())


@becomes(ASIDE)
def record_deep_in_a_field(job: Victim) -> None:
    job.write("job.json", '{"id": "x", "request": ' + deep('{"a":'))


@becomes(ASIDE)
def record_null(job: Victim) -> None:
    job.write("job.json", "null")


@becomes(ASIDE)
def record_list(job: Victim) -> None:
    job.write("job.json", "[1, 2]")


@becomes(ASIDE)
def record_number(job: Victim) -> None:
    job.write("job.json", "9" * 5000)


@becomes(ASIDE)
def record_not_utf8(job: Victim) -> None:
    job.write("job.json", b"\xff\xfe{\x00}\x00\x00\xd8")


@becomes(ASIDE)
def record_huge(job: Victim) -> None:
    job.write("job.json", b" " * 5_000_000 + (job.folder / "job.json").read_bytes())


# --- job.json: what it is


@becomes(ASIDE)
def record_missing(job: Victim) -> None:
    (job.folder / "job.json").unlink()


@becomes(ASIDE)
def record_folder(job: Victim) -> None:
    job.replace("job.json", Path.mkdir)


@becomes(ASIDE)
def record_pipe(job: Victim) -> None:
    job.replace("job.json", os.mkfifo)


@becomes(ASIDE)
def record_dangling_link(job: Victim) -> None:
    job.replace("job.json", lambda path: path.symlink_to("nowhere"))


@becomes(ASIDE)
def record_link_to_itself(job: Victim) -> None:
    job.replace("job.json", lambda path: path.symlink_to("job.json"))


@becomes(ASIDE)
def record_link_to_a_device(job: Victim) -> None:
    job.replace("job.json", lambda path: path.symlink_to("/dev/zero"))


@becomes(ASIDE)
def record_link_to_another_job(job: Victim) -> None:
    [other, *_] = sorted(path for path in job.store.folder.glob("*/job.json") if path.parent != job.folder)
    job.replace("job.json", lambda path: path.symlink_to(other))


# --- job.json: its fields


@becomes(ASIDE)
def id_of_another_folder(job: Victim) -> None:
    job.set(id="20260101_000000_ffffffffffffffff")


@becomes(ASIDE)
def id_of_the_folder_above(job: Victim) -> None:
    job.set(id="..")


@becomes(ASIDE)
def id_hidden(job: Victim) -> None:
    job.set(id=".hidden")


@becomes(ASIDE)
def id_path(job: Victim) -> None:
    job.set(id="../../etc")


@becomes(ASIDE)
def id_number(job: Victim) -> None:
    job.set(id=7)


@becomes(ASIDE)
def id_null(job: Victim) -> None:
    job.set(id=None)


@becomes(ASIDE)
def state_unknown(job: Victim) -> None:
    job.set(state="paused")


@becomes(ASIDE)
def state_list(job: Victim) -> None:
    job.set(state=["queued"])


@becomes(ASIDE)
def created_text(job: Victim) -> None:
    job.set(created="yesterday")


@becomes(ASIDE)
def created_null(job: Victim) -> None:
    job.set(created=None)


@becomes(ASIDE)
def created_nan(job: Victim) -> None:
    job.set(created=float("nan"))


@becomes(ASIDE)
def created_infinite(job: Victim) -> None:
    job.set(created=float("inf"))


@becomes(ASIDE)
def created_huge(job: Victim) -> None:
    job.set(created=10**300)


@becomes(ASIDE)
def created_negative(job: Victim) -> None:
    job.set(created=-1e18)


@becomes(ASIDE)
def created_true(job: Victim) -> None:
    job.set(created=True)


@becomes(ASIDE)
def visitor_list(job: Victim) -> None:
    job.set(client_id=["a"])


@becomes(ASIDE)
def owner_object(job: Victim) -> None:
    job.set(owner={"name": "ann"})


@becomes(ASIDE)
def models_number(job: Victim) -> None:
    job.set(models=1)


@becomes(ASIDE)
def error_null(job: Victim) -> None:
    job.set(error=None)


@becomes(ASIDE)
def photo_name_list(job: Victim) -> None:
    job.set(pictures={"start": {"name": [], "notes": []}})


@becomes(ASIDE)
def photo_notes_text(job: Victim) -> None:
    job.set(pictures={"start": {"name": "a.jpg", "notes": "one"}})


@becomes(ASIDE)
def photo_notes_numbers(job: Victim) -> None:
    job.set(pictures={"start": {"name": "a.jpg", "notes": [1, 2]}})


@becomes(ASIDE)
def pictures_list(job: Victim) -> None:
    job.set(pictures=["start"])


@becomes(ASIDE)
def pictures_without_start(job: Victim) -> None:
    job.set(pictures={})


@becomes(ASIDE)
def picture_elsewhere(job: Victim) -> None:
    picture = {"name": "a.jpg", "notes": []}
    job.set(pictures={"start": picture, "../../secret": picture})


@becomes(ASIDE)
def picture_that_is_not_there(job: Victim) -> None:
    picture = {"name": "a.jpg", "notes": []}
    job.set(pictures={"start": picture, "end": picture})


@becomes(ASIDE)
def earlier_photo_notes_numbers(job: Victim) -> None:
    job.as_earlier(photo_notes=[1, 2])


@becomes(WHOLE)
def earlier_photo(job: Victim) -> None:
    job.as_earlier()


@becomes(ASIDE)
def output_list(job: Victim) -> None:
    job.set(output=["a"])


@becomes(ASIDE)
def output_above(job: Victim) -> None:
    job.set(output="../../elsewhere/a")


@becomes(ASIDE)
def output_absolute(job: Victim) -> None:
    job.set(output="/etc/passwd")


@becomes(ASIDE)
def output_nul(job: Victim) -> None:
    job.set(output="a\0b")


@becomes(ASIDE)
def output_dot(job: Victim) -> None:
    job.set(output="./")


@becomes(ASIDE)
def request_missing(job: Victim) -> None:
    job.set(request=None)


@becomes(ASIDE)
def request_list(job: Victim) -> None:
    job.set(request=[["prompt", "x"]])


@becomes(ASIDE)
def request_of_another_program(job: Victim) -> None:
    job.set(request={"total_second_length": 5, "gs": 10})


@becomes(ASIDE)
def request_seconds_huge(job: Victim) -> None:
    job.request(seconds=1e300)


@becomes(ASIDE)
def request_seed_text(job: Victim) -> None:
    job.request(seed="seven")


@becomes(ASIDE)
def request_keep_nested(job: Victim) -> None:
    job.request(keep=[[["latents"]]])


@becomes(ASIDE)
def request_variant_unknown(job: Victim) -> None:
    job.request(variant="f2")


@becomes(WHOLE)
def record_of_a_later_version(job: Victim) -> None:
    job.set(priority=3, tags=["a"])


@becomes(WHOLE)
def record_of_an_earlier_version(job: Victim) -> None:
    record = json.loads((job.folder / "job.json").read_text())
    kept = {name: record[name] for name in ("id", "request", "state", "created")}
    job.write("job.json", json.dumps(kept | {"visitor": record["client_id"]}))


# --- the photo


@becomes(ASIDE)
def photo_missing(job: Victim) -> None:
    (job.folder / "photo.png").unlink()


@becomes(ASIDE)
def photo_empty(job: Victim) -> None:
    job.write("photo.png", b"")


@becomes(ASIDE)
def photo_cut_short(job: Victim) -> None:
    content = (job.folder / "photo.png").read_bytes()
    job.write("photo.png", content[: len(content) // 2])


@becomes(ASIDE)
def photo_with_a_flipped_bit(job: Victim) -> None:
    content = bytearray((job.folder / "photo.png").read_bytes())
    content[len(content) // 2] ^= 1
    job.write("photo.png", bytes(content))


@becomes(ASIDE)
def photo_over_pillows_limit(job: Victim) -> None:
    job.write("photo.png", png(30_000, 30_000))


@becomes(ASIDE)
def photo_as_large_as_numbers_go(job: Victim) -> None:
    job.write("photo.png", png(2**31 - 1, 2**31 - 1))


@becomes(ASIDE)
def photo_of_another_format(job: Victim) -> None:
    file = BytesIO()
    Image.new("RGB", (80, 64)).save(file, "JPEG")
    job.write("photo.png", file.getvalue())


@becomes(ASIDE)
def photo_text(job: Victim) -> None:
    job.write("photo.png", "no photo")


@becomes(ASIDE)
def photo_folder(job: Victim) -> None:
    job.replace("photo.png", Path.mkdir)


@becomes(ASIDE)
def photo_pipe(job: Victim) -> None:
    job.replace("photo.png", os.mkfifo)


@becomes(ASIDE)
def photo_dangling_link(job: Victim) -> None:
    job.replace("photo.png", lambda path: path.symlink_to("nowhere"))


@becomes(ASIDE)
def photo_link_to_a_device(job: Victim) -> None:
    job.replace("photo.png", lambda path: path.symlink_to("/dev/zero"))


# --- the lock


@becomes(WHOLE)
def lock_folder(job: Victim) -> None:
    job.lock.unlink(missing_ok=True)
    job.lock.mkdir()


@becomes(WHOLE)
def lock_folder_with_something_in_it(job: Victim) -> None:
    lock_folder(job)
    (job.lock / "mine.txt").write_text("mine")


@becomes(WHOLE)
def lock_dangling_link(job: Victim) -> None:
    job.lock.unlink(missing_ok=True)
    job.lock.symlink_to("/nowhere/lock")


@becomes(WHOLE)
def lock_link_to_a_file(job: Victim) -> None:
    job.lock.unlink(missing_ok=True)
    (job.outputs / "precious").write_text("precious")
    job.lock.symlink_to(job.outputs / "precious")


@becomes(WHOLE)
def lock_pipe(job: Victim) -> None:
    job.lock.unlink(missing_ok=True)
    os.mkfifo(job.lock)


@becomes(WHOLE)
def lock_with_text(job: Victim) -> None:
    job.lock.write_text("4711")


# --- the rest of the folder


@becomes(WHOLE)
def environment_deep(job: Victim) -> None:
    job.write("environment.json", deep())


@becomes(WHOLE)
def environment_deep_objects(job: Victim) -> None:
    job.write("environment.json", deep('{"a":'))


@becomes(WHOLE)
def environment_list(job: Victim) -> None:
    job.write("environment.json", "[1]")


@becomes(WHOLE)
def environment_pipe(job: Victim) -> None:
    job.replace("environment.json", os.mkfifo)


@becomes(WHOLE)
def environment_folder(job: Victim) -> None:
    job.replace("environment.json", Path.mkdir)


@becomes(WHOLE)
def section_damaged(job: Victim) -> None:
    job.write("section_001.safetensors", b"\0" * 100)


@becomes(WHOLE)
def section_pipe(job: Victim) -> None:
    job.replace("section_000.safetensors", os.mkfifo)


@becomes(WHOLE)
def section_with_an_odd_name(job: Victim) -> None:
    job.write("section_1e9.safetensors", b"")
    job.write("section_.safetensors", b"")


@becomes(WHOLE)
def conditions_folder(job: Victim) -> None:
    job.replace("conditions.safetensors", Path.mkdir)


@becomes(WHOLE)
def dangling_link_in_the_job(job: Victim) -> None:
    (job.folder / "notes").symlink_to("nowhere")


@becomes(WHOLE)
def dangling_link_half_written(job: Victim) -> None:
    (job.folder / "section_002.safetensors.part").symlink_to("/nowhere/at/all")


@becomes(WHOLE)
def folder_half_written(job: Victim) -> None:
    (job.folder / "job.json.part").mkdir()


@becomes(WHOLE)
def file_of_the_future(job: Victim) -> None:
    os.utime(job.folder / "job.json", (2**33, 2**33))


@becomes(WHOLE)
def files_of_1970(job: Victim) -> None:
    for path in job.folder.iterdir():
        os.utime(path, (0, 0))


# --- partial videos


@becomes(WHOLE)
def partial_slowed_down(job: Victim) -> None:
    (job.outputs / f"{job.id}_partial_01_slow.mp4").write_bytes(b"mine")


@becomes(WHOLE)
def partial_with_a_word(job: Victim) -> None:
    (job.outputs / f"{job.id}_partial_zz.mp4").write_bytes(b"mine")


@becomes(WHOLE)
def partial_of_a_section_that_cannot_be(job: Victim) -> None:
    (job.outputs / f"{job.id}_partial_99.mp4").write_bytes(b"mine")


@becomes(WHOLE)
def partial_with_a_huge_number(job: Victim) -> None:
    (job.outputs / f"{job.id}_partial_{'9' * 150}.mp4").write_bytes(b"mine")


@becomes(WHOLE)
def partial_not_utf8(job: Victim) -> None:
    Path(os.fsdecode(os.fsencode(job.outputs / job.id) + b"_partial_\xff.mp4")).write_bytes(b"mine")


# --- the folder itself


@becomes(ASIDE)
def folder_with_a_space(job: Victim) -> None:
    job.called("my job")


@becomes(ASIDE)
def folder_with_a_newline(job: Victim) -> None:
    job.called("my\njob")


@becomes(ASIDE)
def folder_not_utf8(job: Victim) -> None:
    job.called(b"my\xffjob")


@becomes(ASIDE)
def folder_of_255_bytes(job: Victim) -> None:
    job.called("j" * 255)


@becomes(ASIDE)
def folder_with_pattern_characters(job: Victim) -> None:
    job.called("[a]*?")


@becomes(ASIDE)
def folder_called_as_a_lock(job: Victim) -> None:
    job.called("a.lock")


@becomes(ASIDE)
def folder_copied_by_hand(job: Victim) -> None:
    job.called("copy")


@becomes(LEFT)
def folder_hidden(job: Victim) -> None:
    job.called(".hidden")


@becomes(ASIDE)
def folder_without_anything_but_sections(job: Victim) -> None:
    for name in ("job.json", "photo.png", "environment.json", "conditions.safetensors"):
        (job.folder / name).unlink()


@becomes(ASIDE)
def folder_dangling_link(job: Victim) -> None:
    shutil.move(job.folder, job.outputs / "moved")
    job.folder.symlink_to("nowhere")


@becomes(ASIDE)
def folder_link_to_itself(job: Victim) -> None:
    shutil.move(job.folder, job.outputs / "moved")
    job.folder.symlink_to(job.id)


@becomes(WHOLE)
def folder_on_another_disk(job: Victim) -> None:
    shutil.move(job.folder, job.outputs / "moved")
    job.folder.symlink_to(job.outputs / "moved")


@becomes(LEFT)
def folder_replaced_by_a_file(job: Victim) -> None:
    shutil.move(job.folder, job.outputs / "moved")
    job.folder.write_text("mine")


@becomes(LEFT)
def folder_replaced_by_a_pipe(job: Victim) -> None:
    shutil.move(job.folder, job.outputs / "moved")
    os.mkfifo(job.folder)


def tensors() -> dict[str, torch.Tensor]:
    """What a section's file holds."""
    return {"latents": torch.zeros(1, 16, 9, 2, 2), "generator_state": torch.Generator().get_state()}

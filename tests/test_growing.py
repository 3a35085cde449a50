import base64
import gc
import io
import os
import weakref
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_helper.core.errors import CancelledError, NumericsError, OutputError
from diffusers_helper.media.frames import rgb_frames, soft_append_bcthw
from diffusers_helper.media.growing import GrowingVideo
from diffusers_helper.media.tags import Tags
from diffusers_helper.media.video import save_bcthw_as_mp4
from tests.browsing import headless
from tests.clips import HEIGHT, WIDTH, boxes, clip, decoded, packets
from tests.fakes import LION


def sections(front, count=5, **size):
    """Clips and overlaps, shaped as those of the two variants."""
    return [(clip(4 if index == 0 else 6 + (index == count - 1 and front), index, **size), 0 if index == 0 else 3)
            for index in range(count)]  # fmt: skip


def joined(front, parts):
    video = parts[0][0]
    for pixels, overlap in parts[1:]:
        video = soft_append_bcthw(pixels, video, overlap) if front else soft_append_bcthw(video, pixels, overlap)
    return video


def assert_shows(path, video, crf=1):
    """The file is even in time and shows the float video as a direct encode does, up to the codec's error."""
    found = packets(path)
    assert sorted(pts for pts, *_ in found) == list(range(video.shape[2]))
    assert [dts for _, dts, *_ in found] == list(range(-2, video.shape[2] - 2))
    assert all(dts <= pts for pts, dts, *_ in found)
    assert {duration for *_, duration in found} == {1}
    with av.open(path) as container:
        assert (container.streams.video[0].average_rate, container.streams.video[0].start_time) == (30, 0)
        assert container.duration == pytest.approx(1e6 * video.shape[2] / 30, abs=1000)
    assert boxes(path).index("moov") < boxes(path).index("mdat")
    direct = path.with_name("direct.mp4")
    save_bcthw_as_mp4(video, direct, crf=crf)
    got, want = decoded(path), decoded(direct)
    direct.unlink()
    assert got.shape == want.shape
    error = np.abs(got.astype(int) - want).mean(axis=(1, 2, 3))  # a frame in a wrong place is 60 off and more
    assert error.max() < (6 if crf < 10 else 25)


@pytest.mark.parametrize("front", [True, False])
@pytest.mark.parametrize(("height", "width"), [(32, 48), (33, 47)])
@pytest.mark.parametrize("crf", [1, 20, 51])
def test_a_grown_video_is_that_of_soft_append(tmp_path, front, height, width, crf):
    growing, parts = GrowingVideo(tmp_path / "id", front, crf=crf), sections(front, height=height, width=width)
    for index, (pixels, overlap) in enumerate(parts):
        path = growing.add(pixels, overlap)
        whole = joined(front, parts[: index + 1])
        assert_shows(path, whole, crf)
        assert (growing.frames, growing.partial, growing.sections) == (whole.shape[2], path, index + 1)
    assert_shows(growing.finish(), whole, crf)


@pytest.mark.slow
@pytest.mark.parametrize("front", [True, False])
@pytest.mark.parametrize("window", [2, 9])
def test_a_section_costs_the_same_however_long_the_video(tmp_path, front, window):
    """Windows as the plans have them: 4w new frames that overlap by 4w-3. Counts encoded frames and held pixels."""
    new, overlap = 4 * window, 4 * window - 3
    parts = [(clip(overlap), 0), *((clip(new + overlap, seed=seed), overlap) for seed in range(1, 7))]
    encoded, growing = [], GrowingVideo(tmp_path / "id", front, crf=1)
    for index, (pixels, fade) in enumerate(parts):
        checks = []
        growing.add(pixels, fade, check=lambda checks=checks: checks.append(None))
        encoded.append(len(checks) - 1 - (index > 1))  # one block of the section's bytes and one of settled ones
        assert held(growing) == 4 * 3 * overlap * HEIGHT * WIDTH
        borders = {0, *((overlap if front else new) + new * number for number in range(index))}
        assert borders <= {pts for pts, _, is_key, _ in packets(growing.partial) if is_key}
    assert encoded == [pixels.shape[2] for pixels, _ in parts]
    assert_shows(growing.finish(), joined(front, parts))


def test_settled_frames_are_copied_bit_for_bit(tmp_path):
    growing, parts = GrowingVideo(tmp_path / "id", grows_at_front=False, crf=30), sections(front=False)
    for pixels, overlap in parts[:3]:
        before = growing.add(pixels, overlap)
    settled = growing.frames - 3
    after = growing.add(*parts[3])
    assert (decoded(after)[:settled] == decoded(before)[:settled]).all()


@pytest.mark.parametrize("front", [True, False])
def test_cross_fades_may_reach_over_more_than_one_section(tmp_path, front):
    parts = [(clip(4, seed=1), 0), (clip(5, seed=2), 4), (clip(6, seed=3), 4), (clip(4, seed=4), 3), (clip(3), 0)]
    growing = GrowingVideo(tmp_path / "id", front, crf=1)
    for pixels, overlap in parts:
        path = growing.add(pixels, overlap)
    assert_shows(path, joined(front, parts))


def test_a_section_can_be_stopped_at_every_frame(tmp_path):
    growing, parts = GrowingVideo(tmp_path / "id", grows_at_front=True, crf=1), sections(front=True)
    for pixels, overlap in parts[:2]:
        growing.add(pixels, overlap)
    before = sorted(os.listdir(tmp_path)), growing.partial.read_bytes(), growing.frames
    for limit in range(6 + 1 + 1):  # encoded, copied as new, copied as old
        with pytest.raises(CancelledError):
            growing.add(*parts[2], check=countdown(limit))
        assert (sorted(os.listdir(tmp_path)), growing.partial.read_bytes(), growing.frames) == before
    growing.add(*parts[2], check=countdown(8))
    assert_shows(growing.partial, joined(True, parts[:3]))


def countdown(calls):
    """A check that lets `calls` calls pass and stops at the next."""
    left = iter(range(calls))

    def check():
        if next(left, None) is None:
            cancel()

    return check


@pytest.mark.parametrize("change", ["deleted", "shortened", "replaced"])
def test_a_newest_file_that_is_gone_is_named(tmp_path, change):
    growing, parts = GrowingVideo(tmp_path / "id", grows_at_front=False, crf=20), sections(front=False)
    for pixels, overlap in parts[:3]:
        path = growing.add(pixels, overlap)
    data = path.read_bytes()
    path.unlink()
    if change == "shortened":
        path.write_bytes(data[: -len(data) // 2])
    elif change == "replaced":
        path.write_text("no video")
    with pytest.raises(OutputError, match=r"id_partial_03\.mp4 holds the video so far and was deleted"):
        growing.add(*parts[3])
    path.write_bytes(data)
    growing.add(*parts[3])


def moving_picture(frames):
    """A window that wanders over a photograph, (1, 3, frames, 96, 128) in -1..1."""
    with Image.open(LION) as photo:
        pixels = torch.from_numpy(np.asarray(photo.convert("RGB").resize((320, 240))).copy()).permute(2, 0, 1)
    views = [pixels[:, index // 2 : index // 2 + 96, index : index + 128] for index in range(frames)]
    return torch.stack(views, dim=1)[None].float() / 127.5 - 1


@pytest.mark.slow
@pytest.mark.parametrize("front", [True, False])
def test_no_seam_is_seen_where_segments_meet(tmp_path, front):
    """Four sections of window 9: quality is that of a direct encode and does not step at a border."""
    video = moving_picture(145)
    growing = GrowingVideo(tmp_path / "id", front, crf=16)
    ends = [(108, 141), (72, 141), (36, 105), (0, 69)] if front else [(0, 37), (4, 73), (40, 109), (76, 145)]
    for number, (begin, end) in enumerate(ends):
        growing.add(video[:, :, begin:end], 33 if number else 0)
    save_bcthw_as_mp4(video[:, :, : growing.frames], tmp_path / "direct.mp4", crf=16)
    path = growing.finish()
    grown, direct = (psnr(path, video) for path in (path, tmp_path / "direct.mp4"))
    assert abs(np.median(grown) - np.median(direct)) < 0.5
    borders = [int(pts) for pts, _, is_key, _ in packets(path) if is_key and pts > 0]
    assert len(borders) == 3
    for border in borders:
        assert abs(grown[border : border + 4].mean() - grown[border - 4 : border].mean()) < 1.3


def psnr(path, video):
    """Of every frame, in dB."""
    got = decoded(path).astype(float)
    want = np.stack(list(rgb_frames(video)))[: len(got)]
    return 10 * np.log10(255**2 / ((got - want) ** 2).mean(axis=(1, 2, 3)))


def test_files_of_a_growing_video(tmp_path):
    growing = GrowingVideo(tmp_path / "2026.11.22", grows_at_front=False, crf=30)
    assert growing.partial is None
    seen = []
    for pixels, overlap in sections(front=False, count=4):
        growing.add(pixels, overlap)
        seen.append(sorted(os.listdir(tmp_path)))
    name = "2026.11.22_partial_0{}.mp4"
    assert seen == [[name.format(1)], [name.format(1), name.format(2)], [name.format(2), name.format(3)],
                    [name.format(3), name.format(4)]]  # fmt: skip
    last = growing.partial.read_bytes()
    assert growing.finish() == tmp_path / "2026.11.22.mp4"
    assert os.listdir(tmp_path) == ["2026.11.22.mp4"]
    assert (tmp_path / "2026.11.22.mp4").read_bytes() == last
    assert growing.partial is None


def test_only_the_edge_stays_float(tmp_path):
    growing = GrowingVideo(tmp_path / "id", grows_at_front=True, crf=51)
    for pixels, overlap in sections(front=True, count=6):
        growing.add(pixels, overlap)
    assert held(growing) == 4 * 3 * 3 * HEIGHT * WIDTH


def held(growing):
    """Bytes of pixels that the video keeps in memory."""
    assert not [name for name, value in vars(growing).items() if isinstance(value, list | dict | bytes | np.ndarray)]
    return sum(value.untyped_storage().nbytes() for value in vars(growing).values() if isinstance(value, torch.Tensor))


def broken(kind, tmp_path, pixels):
    """Arguments of an `add` that fails in the given way, and what it raises."""
    if kind == "nan":
        pixels = pixels.clone()
        pixels[0, 0, 1, 2, 3] = float("nan")
        return {"pixels": pixels, "overlap": 3}, NumericsError, "Section 3 .*NaN"
    if kind == "full disk":
        (tmp_path / "id_partial_03.mp4.part").symlink_to("/dev/full")
        return {"pixels": pixels, "overlap": 3}, OutputError, "disk is full"
    if kind == "cancelled":
        return {"pixels": pixels, "overlap": 3, "check": cancel}, CancelledError, "stopped"
    return {"pixels": pixels, "overlap": 4}, ValueError, "cross-fade 4 frames"


def cancel():
    raise CancelledError("stopped")


@pytest.mark.parametrize("kind", ["nan", "full disk", "cancelled", "overlap"])
def test_a_failed_section_leaves_everything_as_it_was(tmp_path, kind):
    growing, parts = GrowingVideo(tmp_path / "id", grows_at_front=False, crf=20), sections(front=False)
    for pixels, overlap in parts[:2]:
        growing.add(pixels, overlap)
    before = sorted(os.listdir(tmp_path)), growing.partial, growing.frames
    arguments, error, says = broken(kind, tmp_path, parts[2][0])
    with pytest.raises(error, match=says):
        growing.add(**arguments)
    assert (sorted(os.listdir(tmp_path)), growing.partial, growing.frames) == before
    assert len(decoded(growing.partial)) == growing.frames

    growing.add(*parts[2])  # and the section can still be joined
    assert_shows(growing.finish(), joined(False, parts[:3]), crf=20)


def test_a_folder_deleted_while_the_video_grows(tmp_path):
    folder = tmp_path / "outputs"
    folder.mkdir()
    growing = GrowingVideo(folder / "id", grows_at_front=False, crf=20)
    growing.add(clip(3), 0).unlink()
    folder.rmdir()
    with pytest.raises(OutputError, match=r"outputs/id_partial_02\.mp4 could not be written: its folder"):
        growing.add(clip(3), 0)
    with pytest.raises(OutputError, match=r"outputs/id\.mp4 could not be written: its folder"):
        growing.finish()


def test_an_old_file_that_cannot_be_removed_is_logged(tmp_path, caplog):
    growing = GrowingVideo(tmp_path / "id", grows_at_front=False, crf=20)
    first = growing.add(clip(3), 0)
    first.unlink()
    (first / "inside").mkdir(parents=True)  # a folder in its place cannot be unlinked
    growing.add(clip(3), 0)
    growing.add(clip(3), 0)
    assert "id_partial_01.mp4 could not be removed" in caplog.text


SEEN = """async ([data, times, levels]) => {
  const video = document.createElement("video"), canvas = document.createElement("canvas").getContext("2d"), seen = [];
  video.src = "data:video/mp4;base64," + data;
  const event = name => new Promise((done, fail) => { video["on" + name] = done; video.onerror = fail; });
  await event("loadeddata");
  for (const [index, time] of times.entries()) {
    const there = event("seeked");
    video.currentTime = time;
    await there;
    let level, tries = 0;
    do {
      await new Promise(done => setTimeout(done, 20));
      canvas.drawImage(video, 0, 0);
      level = canvas.getImageData(9, 9, 1, 1).data[0];
    } while (Math.abs(level - levels[index]) > 4 && ++tries < 1000);
    seen.push(level);
  }
  video.playbackRate = 4;
  video.currentTime = 0;
  const end = event("ended");
  await video.play();
  await end;
  return [video.duration, seen];
}"""
"""Seeks to the times in seconds, plays to the end; the duration, and the red level of the picture at every time.

A busy browser says that it is there before it paints: the expected levels tell how long to look, at most
twenty seconds.
"""


@pytest.mark.browser
def test_a_browser_seeks_to_every_frame_and_plays_to_the_end(chromium, tmp_path):
    ramp = torch.linspace(-0.9, 0.9, 29).view(1, 1, -1, 1, 1).expand(1, 3, 29, HEIGHT, WIDTH)
    cover = io.BytesIO()
    Image.effect_noise((640, 608), 90).convert("RGB").save(cover, "PNG")
    whole = {True: [(24, 29), (16, 29), (8, 21), (0, 13)], False: [(0, 5), (0, 13), (8, 21), (16, 29)]}
    with headless(chromium) as browser:
        page = browser.new_page()
        for front, parts in whole.items():
            growing = GrowingVideo(tmp_path / "id", front, crf=4, tags=Tags("a comment", cover.getvalue()))
            for index, (begin, end) in enumerate(parts):
                growing.add(ramp[:, :, begin:end], 5 if index else 0)
            data = base64.b64encode(growing.finish().read_bytes()).decode()
            order = [*range(29), *reversed(range(0, 29, 3))]
            levels = [float(ramp[0, 0, frame, 0, 0]) * 127.5 + 127.5 for frame in order]
            duration, seen = page.evaluate(SEEN, [data, [(frame + 0.5) / 30 for frame in order], levels])
            assert duration == pytest.approx(29 / 30, abs=0.002)
            assert seen == pytest.approx(levels, abs=4)


@pytest.mark.parametrize("front", [True, False])
@pytest.mark.parametrize("overlap", [3, 0])
def test_a_recalled_edge_holds_no_more_than_itself(tmp_path, front, overlap):
    growing = GrowingVideo(tmp_path / "id", front, crf=51)
    pixels = clip(30)
    pixels_alive, storage = weakref.ref(pixels), pixels.untyped_storage().data_ptr()
    growing.recall(pixels, overlap)
    assert held(growing) == 4 * 3 * (overlap or 30) * HEIGHT * WIDTH
    assert storage not in [tensor.untyped_storage().data_ptr() for tensor in tensors_of(growing)]
    del pixels
    gc.collect()
    assert pixels_alive() is None


def tensors_of(growing):
    return [value for value in vars(growing).values() if isinstance(value, torch.Tensor)]


def test_what_somebody_else_put_beside_a_video_stays(tmp_path):
    growing = GrowingVideo(tmp_path / "id", grows_at_front=False, crf=51)
    growing.add(clip(3), 0)
    for name in ("id_partial_01_slow.mp4", "id_partial_zz.mp4", "id_partial_9.mp4"):
        (tmp_path / name).write_bytes(b"mine")
    again = GrowingVideo(tmp_path / "id", grows_at_front=False, crf=51)
    assert again.reopen(1, 3)
    again.finish()
    again.remove_partials()
    assert sorted(os.listdir(tmp_path)) == [
        "id.mp4",
        "id_partial_01_slow.mp4",
        "id_partial_9.mp4",
        "id_partial_zz.mp4",
    ]


def test_a_pipe_in_place_of_a_file_is_not_gone_on_with(tmp_path):
    os.mkfifo(tmp_path / "id_partial_01.mp4")
    assert not GrowingVideo(tmp_path / "id", grows_at_front=False, crf=51).reopen(1, 3)


def test_nothing_to_finish(tmp_path):
    with pytest.raises(ValueError, match="at least one section"):
        GrowingVideo(Path(tmp_path / "id"), grows_at_front=False, crf=20).finish()


@pytest.mark.parametrize("front", [True, False])
@pytest.mark.parametrize("done", [1, 2, 4])
def test_a_video_goes_on_in_another_process_frame_for_frame(tmp_path, front, done):
    """With brackets in its name, as folders may have them."""
    parts = sections(front)
    whole, first, again = (GrowingVideo(tmp_path / f"{name}[1]", front, crf=20) for name in ("whole", "id", "id"))
    for pixels, overlap in parts:
        whole.add(pixels, overlap)
    for pixels, overlap in parts[:done]:
        first.add(pixels, overlap)
    assert again.reopen(done, first.frames)
    again.recall(*parts[done - 1])
    assert (again.frames, again.sections, again.partial) == (first.frames, first.sections, first.partial)
    assert [path.name for path in tmp_path.glob("id*")] == [first.partial.name]
    for pixels, overlap in parts[done:]:
        again.add(pixels, overlap)
    assert again.finish().read_bytes() == whole.finish().read_bytes()
    assert [path.name for path in tmp_path.glob("id*")] == ["id[1].mp4"]


def test_a_finished_file_needs_no_edge_to_get_its_name(tmp_path):
    growing, again = (GrowingVideo(tmp_path / "id", False, crf=20) for _ in range(2))
    growing.add(clip(6), 0)
    assert again.reopen(1, 6)
    assert again.finish() == tmp_path / "id.mp4"


@pytest.mark.parametrize("damage", [lambda content: content[:-700], lambda content: content[:40], lambda content: b""])
def test_a_file_that_is_not_whole_is_not_gone_on_with(tmp_path, damage):
    growing = GrowingVideo(tmp_path / "id", False, crf=20)
    growing.add(clip(6), 0)
    growing.add(clip(6), 3)
    growing.partial.write_bytes(damage(growing.partial.read_bytes()))
    again = GrowingVideo(tmp_path / "id", False, crf=20)
    assert not again.reopen(2, 9)
    assert not again.reopen(3, 12)
    assert (again.sections, again.frames, again.partial) == (0, 0, None)
    assert again.reopen(1, 6)
    assert not growing.partial.exists()

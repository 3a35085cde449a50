import os
import resource
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_helper.framepack.errors import CancelledError, NumericsError, OutputError
from diffusers_helper.media.frames import rgb_frames, soft_append_bcthw
from diffusers_helper.media.video import GrowingVideo, preview_jpeg, save_bcthw_as_mp4

HEIGHT, WIDTH = 32, 48


def clip(frames, seed=0, batch=1, height=HEIGHT, width=WIDTH):
    """Random pixels, some outside -1..1 as a decoder gives them."""
    return torch.randn(batch, 3, frames, height, width, generator=torch.Generator().manual_seed(seed))


def flat_clip(*colours, frames=4, height=HEIGHT, width=WIDTH):
    """One plain video for each colour (r, g, b in 0..255)."""
    values = torch.tensor(colours, dtype=torch.float32) / 127.5 - 1
    return values[:, :, None, None, None].expand(-1, -1, frames, height, width)


def decoded(path):
    """All frames as RGB, read as BT.709 with limited range."""
    with av.open(path) as container:
        return np.stack(
            [frame.to_ndarray(format="rgb24", src_colorspace="ITU709") for frame in container.decode(video=0)]
        )


def shown(video):
    return np.stack(list(rgb_frames(video)))


def boxes(path):
    """Names of the file's top-level boxes, in order (ISO 14496-12)."""
    data, names, position = path.read_bytes(), [], 0
    while position < len(data):
        names.append(data[position + 4 : position + 8].decode())
        position += int.from_bytes(data[position : position + 4], "big")
    return names


# --- one file


@pytest.mark.parametrize(("fps", "crf"), [(30, 16), (24, 1), (29.97, 30), (25, 0), (30, 52), (30, 100), (30, -3)])
def test_what_is_written_plays_in_browsers(tmp_path, fps, crf):
    path = tmp_path / "video.mp4"
    save_bcthw_as_mp4(clip(5), path, fps=fps, crf=crf)
    with av.open(path) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        frames = list(container.decode(stream))
        assert stream.average_rate == pytest.approx(fps)
        assert container.duration / 1e6 == pytest.approx(5 / fps, abs=1e-3)
        assert (context.name, context.pix_fmt, context.profile) == ("h264", "yuv420p", "High")
        assert (context.width, context.height) == (WIDTH, HEIGHT)
        # 1 is BT.709 for all three; range 1 is limited (ITU-T H.273)
        assert (context.color_primaries, context.color_trc, context.colorspace, context.color_range) == (1, 1, 1, 1)
    assert len(frames) == 5
    assert boxes(path).index("moov") < boxes(path).index("mdat")
    assert os.listdir(tmp_path) == ["video.mp4"]


def test_more_compression_makes_a_smaller_file(tmp_path):
    sizes = []
    for crf in (1, 16, 30, 51):
        save_bcthw_as_mp4(clip(4), tmp_path / "video.mp4", crf=crf)
        sizes.append((tmp_path / "video.mp4").stat().st_size)
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 120, 40)])
def test_colours_survive(tmp_path, colour):
    save_bcthw_as_mp4(flat_clip(colour), tmp_path / "video.mp4", crf=4)
    np.testing.assert_allclose(decoded(tmp_path / "video.mp4"), np.full((4, HEIGHT, WIDTH, 3), colour), atol=4)


def test_frames_come_in_order_and_upright(tmp_path):
    ramp = torch.zeros(1, 3, 6, HEIGHT, WIDTH)
    for index in range(6):
        ramp[:, :, index] = index / 3 - 1
    ramp[:, :, :, :16, :16] = -1  # the top left corner is black
    save_bcthw_as_mp4(ramp, tmp_path / "video.mp4", crf=4)
    np.testing.assert_allclose(decoded(tmp_path / "video.mp4"), shown(ramp), atol=6)


def test_a_batch_stands_side_by_side(tmp_path):
    save_bcthw_as_mp4(flat_clip((255, 0, 0), (0, 0, 255)), tmp_path / "video.mp4", crf=4)
    pixels = decoded(tmp_path / "video.mp4")
    assert pixels.shape == (4, HEIGHT, 2 * WIDTH, 3)
    np.testing.assert_allclose(pixels[0, 5, WIDTH // 2], (255, 0, 0), atol=4)
    np.testing.assert_allclose(pixels[0, 5, WIDTH + WIDTH // 2], (0, 0, 255), atol=4)


@pytest.mark.parametrize(("height", "width"), [(33, 48), (32, 47), (31, 51), (1, 1)])
def test_odd_sides_are_padded_by_one(tmp_path, height, width):
    save_bcthw_as_mp4(flat_clip((200, 120, 40), height=height, width=width), tmp_path / "video.mp4", crf=4)
    pixels = decoded(tmp_path / "video.mp4")
    assert pixels.shape[1:3] == (height + height % 2, width + width % 2)
    np.testing.assert_allclose(pixels[0, -1, -1], (200, 120, 40), atol=4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_taken(tmp_path, dtype):
    save_bcthw_as_mp4(flat_clip((255, 0, 128)).to(dtype), tmp_path / "video.mp4", crf=4)
    np.testing.assert_allclose(decoded(tmp_path / "video.mp4")[0, 5, 5], (255, 0, 128), atol=4)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_nan_and_infinity_stop_the_video(tmp_path, value, dtype):
    video = clip(3).to(dtype)
    video[0, 1, 2, 3, 4] = value
    with pytest.raises(NumericsError, match="NaN or infinite"):
        save_bcthw_as_mp4(video, tmp_path / "video.mp4")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("shape", [(3, 4, 8, 8), (1, 4, 4, 8, 8), (1, 1, 4, 8, 8)])
def test_other_shapes_are_a_value_error(tmp_path, shape):
    with pytest.raises(ValueError, match=r"\(B, 3, T, H, W\)"):
        save_bcthw_as_mp4(torch.zeros(shape), tmp_path / "video.mp4")


# --- what can go wrong on a disk


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "video.mp4"
    path.write_bytes(b"old")
    (tmp_path / "video.mp4.part").symlink_to("/dev/full")
    with pytest.raises(OutputError, match=r"video\.mp4 could not be written: the disk is full"):
        save_bcthw_as_mp4(clip(4), path)
    assert os.listdir(tmp_path) == ["video.mp4"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("missing", [1, 100, 5000, 20_000])
def test_a_file_that_cannot_be_written_to_its_end_is_no_file(tmp_path, missing):
    path = tmp_path / "video.mp4"
    save_bcthw_as_mp4(clip(8), path, crf=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = path.stat().st_size - missing
    path.unlink()
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        with pytest.raises(OutputError, match="File too large"):
            save_bcthw_as_mp4(clip(8), path, crf=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(OutputError, match=r"gone/video\.mp4 could not be written: its folder does not exist"):
        save_bcthw_as_mp4(clip(2), tmp_path / "gone" / "video.mp4")


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="its folder does not exist"):
        save_bcthw_as_mp4(clip(2), tmp_path / "file" / "video.mp4")


def test_writing_can_be_stopped_at_every_frame(tmp_path):
    calls = []

    def stop_at_the_third():
        calls.append(len(calls))
        if len(calls) == 3:
            raise CancelledError("stopped")

    with pytest.raises(CancelledError):
        save_bcthw_as_mp4(clip(9), tmp_path / "video.mp4", check=stop_at_the_third)
    assert len(calls) == 3
    assert os.listdir(tmp_path) == []


# --- a video that grows


def sections(front, count=5):
    """Clips and overlaps as the two variants give them (window 1, 2w latents: 5 frames that overlap by 3)."""
    return [(clip(4 if index == 0 else 6 + (index == count - 1 and front), seed=index), 0 if index == 0 else 3)
            for index in range(count)]  # fmt: skip


def joined(front, parts):
    video = parts[0][0]
    for pixels, overlap in parts[1:]:
        video = soft_append_bcthw(pixels, video, overlap) if front else soft_append_bcthw(video, pixels, overlap)
    return video


@pytest.mark.parametrize("front", [True, False])
def test_a_grown_video_is_that_of_soft_append(tmp_path, front):
    """Bit for bit: a file encoded from the whole float video at once is the same file."""
    growing, parts = GrowingVideo(tmp_path / "id", front, crf=20), sections(front)
    for index, (pixels, overlap) in enumerate(parts):
        path = growing.add(pixels, overlap)
        whole = joined(front, parts[: index + 1])
        save_bcthw_as_mp4(whole, tmp_path / "whole.mp4", crf=20)
        assert path.read_bytes() == (tmp_path / "whole.mp4").read_bytes()
        assert growing.frames == whole.shape[2] == len(decoded(path))
        assert (growing.partial, growing.sections) == (path, index + 1)


@pytest.mark.parametrize("front", [True, False])
def test_cross_fades_may_reach_over_more_than_one_section(tmp_path, front):
    parts = [(clip(4, seed=1), 0), (clip(5, seed=2), 4), (clip(6, seed=3), 4), (clip(4, seed=4), 3), (clip(3), 0)]
    growing = GrowingVideo(tmp_path / "id", front, crf=20)
    for pixels, overlap in parts:
        path = growing.add(pixels, overlap)
    save_bcthw_as_mp4(joined(front, parts), tmp_path / "whole.mp4", crf=20)
    assert path.read_bytes() == (tmp_path / "whole.mp4").read_bytes()


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
    floats = [value for value in vars(growing).values() if isinstance(value, torch.Tensor)]
    assert sum(value.untyped_storage().nbytes() for value in floats) == 4 * 3 * 3 * HEIGHT * WIDTH


def broken(kind, tmp_path, pixels):
    """Arguments of an ``add`` that fails in the given way, and what it raises."""
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
    save_bcthw_as_mp4(joined(False, parts[:3]), tmp_path / "whole.mp4", crf=20)
    assert growing.finish().read_bytes() == (tmp_path / "whole.mp4").read_bytes()


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


def test_nothing_to_finish(tmp_path):
    with pytest.raises(ValueError, match="at least one section"):
        GrowingVideo(Path(tmp_path / "id"), grows_at_front=False, crf=20).finish()


def test_preview_is_a_jpeg():
    pixels = np.full((40, 56, 3), (200, 120, 40), dtype=np.uint8)
    with Image.open(BytesIO(preview_jpeg(pixels))) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (56, 40))
        np.testing.assert_allclose(image.getpixel((9, 9)), (200, 120, 40), atol=4)

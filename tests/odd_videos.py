"""Videos as people have them, made anew: one grey level per frame, and a red mark in the stored top left corner."""

from fractions import Fraction

import av
import numpy as np

WIDTH, HEIGHT = 96, 64
MARK = 16
RED = (255, 0, 0)


def level(number):
    """The grey of a frame: neighbours differ, and so do frames up to 40 apart."""
    return 10 + number * 6 % 240


def picture(number, width=WIDTH, height=HEIGHT):
    pixels = np.full((height, width, 3), level(number), np.uint8)
    pixels[:MARK, :MARK] = RED
    return pixels


def waves(frames, size, seed=0):
    """Pictures that show something: no two alike, none flat."""
    y, x = np.mgrid[: size[1], : size[0]]
    levels = [128 + 100 * np.sin((x + 3 * n) / 9 + seed) * np.cos(y / 7) for n in range(frames)]
    return [np.repeat(each[..., None], 3, 2).astype(np.uint8) for each in levels]


def video(path, frames=30, *, codec="libx264", rate=30, size=(WIDTH, HEIGHT), **more):
    """Write a video.

    `more`: `pix_fmt`; `pts`, the frames' times in ticks of 1/600 s where they are not even; `options` of the encoder;
    `audio` seconds, encoded as `sound`; `turn` degrees (and `hflip`) of the display matrix; `aspect` of the pixels;
    `tags` for the encoder's context; `form` of the file; `pictures` to write instead.
    """
    pts, pix_fmt = more.get("pts"), more.get("pix_fmt", "yuv420p")
    tick = Fraction(1, 600) if pts else 1 / Fraction(rate)
    with av.open(path, "w", format=more.get("form")) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.options = more.get("options", {})
        (stream.width, stream.height), stream.pix_fmt = size, pix_fmt
        stream.codec_context.time_base = tick
        if "aspect" in more:
            stream.codec_context.sample_aspect_ratio = more["aspect"]
        for name, value in more.get("tags", {}).items():
            setattr(stream.codec_context, name, value)
        if "turn" in more:
            stream.set_display_rotation(more["turn"], hflip=more.get("hflip", False))
        sound = container.add_stream(more.get("sound", "aac"), rate=48000, layout="mono") if "audio" in more else None
        for number in range(frames):
            pixels = more["pictures"][number] if "pictures" in more else picture(number, *size)
            kind = "rgb48le" if pixels.dtype == np.uint16 else "rgb24"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=kind)
            frame = frame.reformat(
                format=pix_fmt,
                dst_colorspace=more.get("tags", {}).get("colorspace", 5),
                dst_color_range=1,
            )
            frame.pts, frame.time_base = (pts[number] if pts else number), tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            tone(container, sound, more["audio"])
    return path


def tone(container, stream, seconds):
    samples = (8000 * np.sin(np.arange(int(48000 * seconds)) / 20)).astype(np.int16)
    for start in range(0, len(samples), 1024):
        frame = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def sound_only(path, seconds=1):
    with av.open(path, "w") as container:
        tone(container, container.add_stream("aac", rate=48000, layout="mono"), seconds)
    return path

"""Still pictures to make clips of: drawn by code, or cut from the photographs inside scikit-image and scikit-learn."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from training.clips import signed_distance
from training.motions import SHAPES

log = logging.getLogger(__name__)

TRAINING_PHOTOS = {
    "skimage": (
        "astronaut.png", "brick.png", "camera.png", "clock_motion.png", "coffee.png", "coins.png", "color.png",
        "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png",
        "motorcycle_right.png", "page.png", "retina.jpg", "rocket.jpg",
    ),
    "sklearn": ("china.jpg",),
}  # fmt: skip
HELD_OUT_PHOTOS = {"skimage": ("chelsea.png",), "sklearn": ("flower.jpg",)}
"""Never trained on; nor are the photographs inside gradio, which evaluation uses."""
PACKAGE_FOLDERS = {"skimage": "data", "sklearn": "datasets/images"}
SCENIC = ("astronaut.png", "coffee.png", "motorcycle_left.png", "motorcycle_right.png", "rocket.jpg", "china.jpg")
"""Photographs of things and places, chosen more often than the textures and scans."""
TEXT_PAGES = 24
STOCK_PIXELS = 2**24
WORDS = (
    "THE",
    "light",
    "of",
    "day",
    "falls",
    "on",
    "a",
    "quiet",
    "RIVER",
    "and",
    "every",
    "word",
    "0123456789",
    "&",
    "pack",
)


def load_photos(names: dict[str, tuple[str, ...]]) -> dict[str, Image.Image]:
    """Read the photographs from the installed packages; one that a package's version lacks is logged and left out."""
    photos = {}
    for package, files in names.items():
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise FileNotFoundError(f"Training takes photographs from {package}, which is not installed.")
        for file in files:
            path = Path(spec.origin).parent / PACKAGE_FOLDERS[package] / file
            if path.exists():
                photos[file] = Image.open(path).convert("RGB")
            else:
                log.warning("%s has no %s; going on without it.", package, file)
    return photos


class PictureSource:
    """Draws random pictures on a device.

    Args:
        device: where pictures are made.
        seed: of the source's own generator.
        photos: which photographs to cut from.
        photo_share: part of the pictures that are photographs.
    """

    def __init__(
        self,
        device: torch.device | str,
        seed: int,
        photos: dict[str, tuple[str, ...]] | None = None,
        photo_share: float = 0.4,
    ) -> None:
        self.device = torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.numpy = np.random.default_rng(seed)
        self.photo_share = photo_share
        self._stock: dict[tuple[int, int], Tensor] = {}
        found = load_photos(TRAINING_PHOTOS if photos is None else photos)
        weights = np.array([4.0 if name in SCENIC else 1.0 for name in found])
        self._photo_weights = weights / weights.sum()
        self._photos = [_pyramid(image, self.device) for image in found.values()]
        self._texts = [_pyramid(_text_page(self.numpy), self.device) for _ in range(TEXT_PAGES)]

    def sample(self, count: int, height: int, width: int) -> Tensor:
        """Draw `count` pictures, (count, 3, height, width) float32 in 0..1; a GPU makes many at once."""
        stock = self._stock.pop((height, width), None)
        while stock is None or len(stock) < count:
            many = STOCK_PIXELS // (height * width) if self.device.type == "cuda" else 0
            fresh = self._draw(max(count, many), height, width)
            if many:  # each is handed out twice, the second time mirrored
                fresh = torch.cat([fresh, fresh.flip((0, -1))])
            stock = fresh if stock is None else torch.cat([stock, fresh])
        self._stock[height, width] = stock[count:]
        return stock[:count]

    def _draw(self, count: int, height: int, width: int) -> Tensor:
        painters: tuple[tuple[float, Callable[[int, int, int], Tensor]], ...] = (
            (self.photo_share, self._cut_photos),
            (0.3, self._dead_leaves),
            (0.18, self._noise),
            (0.2, self._shapes),
            (0.1, self._stripes),
            (0.1, self._gradients),
            (0.12, self._cut_texts),
        )
        weights = np.array([weight for weight, _ in painters])
        counts = self.numpy.multinomial(count, weights / weights.sum())
        drawn = [paint(int(n), height, width) for n, (_, paint) in zip(counts, painters, strict=True) if n]
        pictures = torch.cat(drawn)[torch.randperm(count, generator=self.generator, device=self.device)]
        return self._jitter(pictures)

    def cut(self, index: int, height: int, width: int) -> Tensor:
        """The middle of photograph `index` as it is, (1, 3, height, width)."""
        return _cut(self._photos[index], 1.0, 0.5, 0.5, False, height, width)

    def __len__(self) -> int:
        return len(self._photos)

    def _uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator, device=self.device) * (high - low) + low

    def _colours(self, *shape: int) -> Tensor:
        """Random colours (*shape, 3): mostly muted, as in nature."""
        grey = self._uniform(0.05, 0.95, *shape, 1)
        return (grey + self._uniform(-0.35, 0.35, *shape, 3)).clamp(0, 1)

    def _cut_photos(self, count: int, height: int, width: int) -> Tensor:
        chosen = self.numpy.choice(len(self._photos), count, p=self._photo_weights)
        return self._cuts([self._photos[i] for i in chosen], height, width, smallest=0.35)

    def _cut_texts(self, count: int, height: int, width: int) -> Tensor:
        chosen = self.numpy.integers(len(self._texts), size=count)
        return self._cuts([self._texts[i] for i in chosen], height, width, smallest=0.4)

    def _cuts(self, pyramids: list[list[Tensor]], height: int, width: int, smallest: float) -> Tensor:
        draws = self.numpy.uniform(size=(len(pyramids), 4))
        return torch.cat(
            [
                _cut(pyramid, smallest + (1 - smallest) * size, x, y, flip > 0.5, height, width)
                for pyramid, (size, x, y, flip) in zip(pyramids, draws, strict=True)
            ]
        )

    def _gradients(self, count: int, height: int, width: int) -> Tensor:
        rows, columns = _unit_grid(height, width, self.device)
        slope = self._uniform(-1, 1, count, 2)[..., None, None]
        centre = self._uniform(-1.2, 1.2, count, 2)[..., None, None]
        linear = slope[:, 0] * columns + slope[:, 1] * rows
        radial = torch.hypot(columns - centre[:, 0], rows - centre[:, 1]) - 1
        share = self._uniform(0, 1, count)[:, None, None]
        level = (0.5 + 0.5 * torch.lerp(linear, radial, share)).clamp(0, 1)[:, None]
        first, second = self._colours(2, count)[..., None, None]
        return torch.lerp(first, second, level)

    def _noise(self, count: int, height: int, width: int) -> Tensor:
        """Noise whose amplitude falls as a power of the frequency, between cloud and gravel."""
        frequency = torch.hypot(
            torch.fft.fftfreq(height, device=self.device)[:, None] * height,
            torch.fft.rfftfreq(width, device=self.device)[None] * width,
        )
        power = self._uniform(1.1, 2.2, count)[:, None, None, None]
        white = torch.randn(count, 3, height, width, generator=self.generator, device=self.device)
        field = torch.fft.irfft2(torch.fft.rfft2(white) * (frequency + 1.0) ** -power, s=(height, width))
        field = field / field.std(dim=(2, 3), keepdim=True)
        mix = self._uniform(-0.5, 0.5, count, 3, 3) + self._uniform(-1, 1, count, 1, 3)
        spread = self._uniform(0.08, 0.22, count)[:, None, None, None]
        middle = self._colours(count)[..., None, None] * 0.6 + 0.2
        return (middle + spread * torch.einsum("bij,bjhw->bihw", mix, field)).clamp(0, 1)

    def _stripes(self, count: int, height: int, width: int) -> Tensor:
        rows, columns = _unit_grid(height, width, self.device)
        angle, period, phase, edge, checked = self._uniform(0, 1, 5, count)[..., None, None]
        angle = angle * math.pi
        period = 0.125 * 5**period
        along = columns * torch.cos(angle) + rows * torch.sin(angle)
        across = rows * torch.cos(angle) - columns * torch.sin(angle)
        wave = torch.sin(2 * math.pi * (along / period + phase))
        wave = torch.where(checked > 0.6, wave * torch.sin(2 * math.pi * across / period), wave)
        level = (0.5 + 0.5 * torch.tanh(wave * (1 + 5 * edge)))[:, None]
        first, second = self._colours(2, count)[..., None, None]
        return torch.lerp(first, second, level)

    def _shapes(self, count: int, height: int, width: int) -> Tensor:
        """A few large shapes over a gradient or noise."""
        noisy = self._uniform(0, 1, count)[:, None, None, None] < 0.3
        ground = torch.where(noisy, self._noise(count, height, width), self._gradients(count, height, width))
        return self._scatter(ground, number=6, smallest=0.1, largest=0.6)

    def _dead_leaves(self, count: int, height: int, width: int) -> Tensor:
        """Leaves of all sizes that hide each other: the statistics of edges in natural pictures (Lee et al., 2001)."""
        leaves = self._scatter(self._gradients(count, height, width), number=80, smallest=0.09, largest=0.9)
        grain = self._noise(count, height, width) - 0.5
        return (leaves + self._uniform(0, 0.5, count)[:, None, None, None] * grain).clamp(0, 1)

    def _scatter(self, ground: Tensor, number: int, smallest: float, largest: float) -> Tensor:
        """Paint `number` shaded shapes over each picture, radii falling as a power law from `smallest` to `largest`."""
        count, _, height, width = ground.shape
        rows, columns = _unit_grid(height, width, self.device)
        soft = height / 2
        for index in range(number):
            draw = self._uniform(0, 1, 6, count)[..., None, None]
            radius = smallest / (1 - draw[0] * (1 - smallest / largest))
            dx, dy = columns - (2.4 * draw[1] - 1.2) * width / height, rows - (2.4 * draw[2] - 1.2)
            turn, stretch = draw[3] * math.pi, 0.5 + draw[4]
            x = (torch.cos(turn) * dx + torch.sin(turn) * dy) * stretch
            y = (torch.cos(turn) * dy - torch.sin(turn) * dx) / stretch
            distance = signed_distance(SHAPES[index % 3], x, y, radius)
            cover = (0.5 - distance * soft).clamp(0, 1)[:, None]
            shade = (1 + 0.6 * (draw[5] - 0.5) * (x + y) / radius)[:, None].clamp(0.5, 1.5)
            colour = (self._colours(count)[..., None, None] * shade).clamp(0, 1)
            ground = torch.lerp(ground, colour, cover)
        return ground

    def _jitter(self, pictures: Tensor) -> Tensor:
        """Vary sharpness, saturation, contrast and brightness, and mirror half of the pictures."""
        count = len(pictures)
        blurred = F.avg_pool2d(F.pad(pictures, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
        sharpen = self._uniform(-0.4, 0.9, count)[:, None, None, None].clamp(min=0)
        pictures = pictures + sharpen * (pictures - blurred)
        grey = pictures.mean(1, keepdim=True)
        pictures = grey + (pictures - grey) * self._uniform(0.5, 1.3, count)[:, None, None, None]
        middle = pictures.mean((1, 2, 3), keepdim=True)
        pictures = middle + (pictures - middle) * self._uniform(0.75, 1.2, count)[:, None, None, None]
        gain = (
            self._uniform(0.85, 1.12, count, 3)[..., None, None] * self._uniform(0.85, 1.1, count)[:, None, None, None]
        )
        flip = self._uniform(0, 1, count)[:, None, None, None] < 0.5
        return torch.where(flip, pictures.flip(-1), pictures).mul(gain).clamp(0, 1)


def _pyramid(image: Image.Image, device: torch.device) -> list[Tensor]:
    """The picture (1, 3, h, w) and its halvings."""
    level = torch.from_numpy(np.asarray(image, np.float32) / 255).permute(2, 0, 1)[None].to(device)
    levels = [level]
    while min(levels[-1].shape[-2:]) >= 128:
        levels.append(F.avg_pool2d(levels[-1], 2))
    return levels


def _cut(pyramid: list[Tensor], size: float, x: float, y: float, flip: bool, height: int, width: int) -> Tensor:
    """A piece of the picture at (1, 3, height, width).

    `size` is its part of the largest piece of that shape; `x` and `y` say where it lies among the places that it
    could have, 0 to 1.
    """
    full_height, full_width = pyramid[0].shape[-2:]
    piece = size * min(full_height / height, full_width / width)
    level = pyramid[max(0, min(len(pyramid) - 1, round(math.log2(max(piece, 1e-3)))))]
    part_x, part_y = piece * width / full_width, piece * height / full_height
    rows, columns = _unit_grid(height, width, level.device)
    middle_x, middle_y = (2 * x - 1) * (1 - part_x), (2 * y - 1) * (1 - part_y)
    columns = columns * (height / width) * part_x * (-1 if flip else 1) + middle_x
    grid = torch.stack(torch.broadcast_tensors(columns, rows * part_y + middle_y), dim=-1)[None]
    return F.grid_sample(level, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _unit_grid(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows (H, 1) from -1 to 1 and columns (1, W) in the same unit, at pixel centres."""
    rows = (torch.arange(height, device=device) + 0.5) * (2 / height) - 1
    columns = (torch.arange(width, device=device) + 0.5) * (2 / height) - width / height
    return rows[:, None], columns[None, :]


def _text_page(rng: np.random.Generator) -> Image.Image:
    """Lines of words in one colour on another."""
    ground, ink = (tuple(int(v) for v in rng.integers(0, 256, 3)) for _ in range(2))
    page = Image.new("RGB", (512, 512), ground)
    draw = ImageDraw.Draw(page)
    size = int(rng.integers(40, 110))
    font = ImageFont.load_default(size=size)
    for top in range(8, 512, int(size * 1.3)):
        draw.text((int(rng.integers(-40, 40)), top), " ".join(rng.choice(WORDS, 8)), fill=ink, font=font)
    return page

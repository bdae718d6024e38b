"""Dermoscopy-like lesions, drawn instead of photographed: the data source that needs no network.

A case is drawn as light meets it: skin and lesion absorb light by their pigments
(Beer-Lambert: colour = light * exp(-absorbance)), the lamp is uneven, hairs and a ruler lie on
top, the lens darkens the rim, and the sensor adds noise. The mask is the lesion's own geometry,
so hairs, ruler and vignette cannot change it.

Lengths are in units of the image's short side, so one case is the same scene at every size of
the same aspect ratio. The draws' ranges were set by eye and by figures against 150 ISIC 2018
training images: lesion area, skin and lesion colour, and how far Otsu's threshold gets.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline.data.blobs import draw_volume

Field = NDArray[np.float64]  # (height, width), or (height, width, 3) with RGB last
Polyline = NDArray[np.float64]  # (points, 2): x, y in short sides from the image's centre

# Absorbance per unit of pigment in R, G, B: melanin and blood absorb least in red; melanin deep
# in the dermis looks blue-grey, because short wavelengths are scattered back before they reach it.
MELANIN = np.array([0.50, 0.92, 1.18])
BLOOD = np.array([0.12, 0.60, 0.50])
DEEP_MELANIN = np.array([1.00, 0.80, 0.60])

LESION_AREA = (0.04, 0.50)  # fraction of the image
LINE_SUPERSAMPLING = 3  # Pillow draws lines without antialiasing: draw larger, then reduce


def draw_case(
    seed: int, index: int, *, height: int, width: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one synthetic case; it depends on these four arguments alone.

    Seed and index are at least 0; height and width are in pixels, at least 32. Returns the image
    (height, width, 3), uint8 RGB, and the mask (height, width), uint8 in {0, 1}, whose lesion
    covers a fraction of the image within LESION_AREA.
    """
    frame = Frame(height, width)
    # A stream for each part, so that a part drawn otherwise leaves all the others as they were.
    streams = np.random.default_rng([seed, index]).spawn(8)
    outline_rng, skin_rng, pigment_rng, lamp_rng, hair_rng, ruler_rng, lens_rng, noise_rng = streams

    lesion = lesion_outline(outline_rng, frame)
    absorbance = skin(skin_rng, frame) + pigment(pigment_rng, frame, lesion)
    image = lighting(lamp_rng, frame) * np.exp(-absorbance)
    image = lay_over(image, *hairs(hair_rng, frame))
    image = lay_over(image, *ruler(ruler_rng, frame))
    image *= vignette(lens_rng, frame, lesion)[..., None]
    image += sensor_noise(noise_rng, frame)
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8), lesion.mask


def draw_image(
    seed: int, index: int, size: tuple[int, ...]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A case as prepared arrays have it: the image (height, width, 3) and its mask, or a volume
    (depth, height, width, 1) and its. size: height and width, of a volume depth before them."""
    if len(size) == 2:
        return draw_case(seed, index, height=size[0], width=size[1])
    volume, mask = draw_volume(seed, index, depth=size[0], height=size[1], width=size[2])
    return volume[..., None], mask


@dataclass(frozen=True)
class Frame:
    """The picture's size in pixels, and its coordinates in short sides."""

    height: int
    width: int

    @property
    def short_side(self) -> int:
        return min(self.height, self.width)

    def coordinates(self) -> tuple[Field, Field]:
        """x (1, width) and y (height, 1) of the pixels' centres, in short sides from the centre."""
        x = (np.arange(self.width) + 0.5 - self.width / 2) / self.short_side
        y = (np.arange(self.height) + 0.5 - self.height / 2) / self.short_side
        return x[None, :], y[:, None]

    def half_extent(self) -> Field:
        """Half the width and half the height, in short sides."""
        return np.array([self.width, self.height]) / (2 * self.short_side)


class Lesion(NamedTuple):
    """A lesion's geometry; each field is (height, width)."""

    mask: NDArray[np.uint8]  # 1 where depth >= 0
    depth: Field  # about the signed distance to the border in short sides, positive inside
    angle: Field  # radians around the lesion's centre


def smooth_noise(rng: Generator, frame: Frame, cells: int) -> Field:
    """Noise (height, width) of mean about 0, spread about 0.8; `cells` to a short side."""
    rows = max(2, round(cells * frame.height / frame.short_side))
    columns = max(2, round(cells * frame.width / frame.short_side))
    grid = Image.fromarray(rng.standard_normal((rows, columns), dtype=np.float32))
    smooth = grid.resize((frame.width, frame.height), Image.Resampling.BICUBIC)
    return np.asarray(smooth, dtype=np.float64)


def lesion_outline(rng: Generator, frame: Frame) -> Lesion:
    """An ellipse whose radius varies as a Fourier series of the angle, on warped coordinates."""
    smallest, largest = LESION_AREA
    area = smallest + (largest - smallest) * rng.beta(1.3, 2.4)
    # A large lesion is kept near the middle, as the photographer does.
    centre = rng.uniform(-1, 1, 2) * (0.30 - 0.45 * area) * 2 * frame.half_extent()
    x, y = (axis - origin for axis, origin in zip(frame.coordinates(), centre, strict=True))
    roughness = rng.uniform(0.2, 1.0)
    x, y = (
        axis
        + roughness * (0.035 * smooth_noise(rng, frame, 5) + 0.011 * smooth_noise(rng, frame, 16))
        for axis in (x, y)
    )
    tilt, elongation = rng.uniform(0, np.pi), np.sqrt(rng.uniform(1.0, 1.8))
    along = (x * np.cos(tilt) + y * np.sin(tilt)) / elongation
    across = (y * np.cos(tilt) - x * np.sin(tilt)) * elongation
    angle = np.arctan2(across, along)

    relative_radius = np.ones_like(angle)
    for harmonic in range(2, 8):
        amplitude, phase = roughness * 0.16 * rng.normal() / harmonic, rng.uniform(0, 2 * np.pi)
        relative_radius += amplitude * np.cos(harmonic * angle + phase)
    distance = np.hypot(along, across) / np.clip(relative_radius, 0.5, 1.5)

    # The area is drawn first and the border placed to enclose it: never empty, never all.
    depth = np.quantile(distance, area) - distance
    return Lesion((depth >= 0).astype(np.uint8), depth, angle)


def skin(rng: Generator, frame: Frame) -> Field:
    """Absorbance (height, width, 3) of the skin: tone, flush, mottling and freckles."""
    melanin = 0.03 + 1.15 * rng.beta(0.7, 2.5)  # light to dark; most of ISIC is light
    blood = rng.uniform(0.0, 0.35)
    mottling = 0.5 * smooth_noise(rng, frame, 5) + 0.5 * smooth_noise(rng, frame, 40)
    flush = 0.5 * smooth_noise(rng, frame, 4) + 0.5 * smooth_noise(rng, frame, 20)
    freckles = np.clip(smooth_noise(rng, frame, 14) - 1.3, 0, None) * rng.choice([0.0, 0.15, 0.4])
    melanin_map = melanin * (1 + 0.10 * mottling) + 0.02 * mottling + freckles
    blood_map = blood * (1 + rng.uniform(0.1, 0.5) * flush)
    return np.asarray(melanin_map[..., None] * MELANIN + blood_map[..., None] * BLOOD)


def pigment(rng: Generator, frame: Frame, lesion: Lesion) -> Field:
    """Absorbance (height, width, 3) that the lesion adds to the skin's, with a soft border."""
    melanin = np.exp(rng.uniform(np.log(0.25), np.log(1.5)))  # faint to nearly black
    blood = rng.uniform(0.0, 0.3)
    softness = rng.uniform(0.004, 0.028) * np.exp(0.6 * smooth_noise(rng, frame, 4))
    coverage = sigmoid(lesion.depth / softness)
    centre = 1 - np.exp(-np.clip(lesion.depth, 0, None) / 0.06)
    blotches = 0.35 * smooth_noise(rng, frame, 6) + 0.2 * smooth_noise(rng, frame, 18)
    density = 0.75 + rng.uniform(-0.3, 0.6) * centre + blotches
    density += rng.uniform(0.2, 0.5) * dermoscopic_pattern(rng, frame, lesion)
    density = np.clip(density, 0.35, None)
    veil = rng.choice([0.0, 0.6], p=[0.7, 0.3]) * sigmoid(4 * smooth_noise(rng, frame, 4) - 2)
    absorbance = density[..., None] * (melanin * MELANIN + blood * BLOOD)
    absorbance += (melanin * veil * centre)[..., None] * DEEP_MELANIN
    return np.asarray(coverage[..., None] * absorbance)


def dermoscopic_pattern(rng: Generator, frame: Frame, lesion: Lesion) -> Field:
    """One of the patterns that dermoscopy names, (height, width), about -1 to 1."""
    pattern = rng.choice(["network", "globules", "streaks", "structureless"])
    if pattern == "network":  # lines where smooth noise crosses zero: a net around lighter holes
        return np.asarray(0.8 - 1.6 * np.abs(smooth_noise(rng, frame, 40)))
    if pattern == "globules":
        return 2 * sigmoid(6 * smooth_noise(rng, frame, 38) - 4)
    if pattern == "streaks":  # radial lines, strongest at the border
        directions = np.linspace(-np.pi, np.pi, rng.integers(40, 80), endpoint=False)
        strength = rng.normal(0, 1, directions.size)
        rays = np.interp(lesion.angle, directions, strength, period=2 * np.pi)
        return np.asarray(rays * np.exp(-np.abs(lesion.depth) / 0.05))
    return np.zeros((frame.height, frame.width))


def lighting(rng: Generator, frame: Frame) -> Field:
    """The lamp's light (height, width, 3): brightness, colour cast and a linear gradient."""
    x, y = frame.coordinates()
    direction, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 0.18)
    gradient = 1 + slope * (x / x.max() * np.cos(direction) + y / y.max() * np.sin(direction)) / 2
    cast = np.array([1.0, rng.uniform(0.92, 1.0), rng.uniform(0.86, 1.0)])
    return np.asarray(rng.uniform(0.82, 1.05) * gradient[..., None] * cast)


def hairs(rng: Generator, frame: Frame) -> tuple[Field, Field]:
    """Opacity (height, width) and RGB colour (3,) of thin curves; none in half of the cases."""
    most = rng.choice([0, 8, 22], p=[0.5, 0.35, 0.15])  # none, some, a hairy patch
    count = rng.integers(most // 3, most + 1)
    lie = rng.uniform(0, np.pi)  # hairs of one patch of skin lie alike
    curves = [hair(rng, frame, lie + rng.normal(0, 0.5)) for _ in range(count)]
    colour = rng.uniform(0.04, 0.32) * np.array([1.0, 0.8, 0.65])
    return rng.uniform(0.6, 0.95) * drawn_lines(frame, curves, rng.uniform(0.004, 0.009)), colour


def hair(rng: Generator, frame: Frame, direction: float) -> Polyline:
    """A quadratic Bezier curve through a random point, bent to one side."""
    middle = rng.uniform(-1, 1, 2) * frame.half_extent()
    reach = rng.uniform(0.15, 0.6) * np.array([np.cos(direction), np.sin(direction)])
    bend = rng.normal(0, 0.35) * np.array([-reach[1], reach[0]])
    t = np.linspace(0, 1, 16)[:, None]
    start, control, end = middle - reach, middle + 2 * bend, middle + reach
    return np.asarray((1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end)


def ruler(rng: Generator, frame: Frame) -> tuple[Field, Field]:
    """Opacity (height, width) and RGB colour (3,) of a scale near an edge; in 1 of 4 cases."""
    ink = np.full(3, 0.08)
    spacing, tick = rng.uniform(0.02, 0.045), rng.uniform(0.015, 0.04)
    if rng.random() >= 0.25:
        return drawn_lines(frame, [], 0.0), ink
    ticks, tilt = int(rng.integers(10, 21)), rng.normal(0, 0.12)
    side = rng.integers(4)  # 0 bottom, 1 left, 2 top, 3 right
    along = np.array([np.cos(tilt), np.sin(tilt)])
    inward = np.array([along[1], -along[0]])
    distance_to_edge = frame.half_extent()[1 if side % 2 == 0 else 0]
    origin = np.array([rng.uniform(-0.1, 0.1), distance_to_edge - rng.uniform(0.03, 0.1)])
    places = [origin + (number - ticks / 2) * spacing * along for number in range(ticks + 1)]
    lines = [
        np.stack([place, place + tick * (2 if number % 5 == 0 else 1) * inward])
        for number, place in enumerate(places)
    ]
    if rng.random() < 0.6:
        lines.append(np.stack([places[0], places[-1]]))
    turn = side * np.pi / 2
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return 0.85 * drawn_lines(frame, [line @ rotation for line in lines], 0.006), ink


def drawn_lines(frame: Frame, lines: list[Polyline], thickness: float) -> Field:
    """Opacity (height, width) in 0..1 of polylines, `thickness` in short sides."""
    scale = LINE_SUPERSAMPLING
    canvas = Image.new("L", (scale * frame.width, scale * frame.height))
    pen = ImageDraw.Draw(canvas)
    for line in lines:
        pixels = scale * frame.short_side * (line + frame.half_extent())
        pen.line(
            [(float(x), float(y)) for x, y in pixels],
            fill=255,
            width=max(1, round(scale * frame.short_side * thickness)),
        )
    return np.asarray(canvas.reduce(scale), dtype=np.float64) / 255


def lay_over(image: Field, opacity: Field, colour: Field) -> Field:
    """The image (height, width, 3) with a layer of one colour (3,) on it."""
    return image + opacity[..., None] * (colour - image)


def vignette(rng: Generator, frame: Frame, lesion: Lesion) -> Field:
    """Transmission (height, width) of the lens in 0..1: dim corners, or a round field of view."""
    x, y = frame.coordinates()
    radius = np.hypot(x, y)
    half_diagonal = np.hypot(*frame.half_extent())
    dimming = 1 - rng.choice([0.0, 0.15, 0.35]) * (radius / half_diagonal) ** 3
    # The dermatoscope was held so that the lesion is in view.
    view = max(rng.uniform(0.5, 0.66), radius[lesion.mask == 1].max() + 0.03)
    edge = sigmoid((view - radius) / rng.uniform(0.006, 0.03))
    round_field = rng.random() < 0.2
    return np.asarray(dimming * (0.02 + 0.98 * edge if round_field else 1))


def sensor_noise(rng: Generator, frame: Frame) -> Field:
    """Noise (height, width, 3) to add, of up to 4 of 255 grey levels' spread."""
    return rng.normal(0, rng.uniform(1, 4) / 255, (frame.height, frame.width, 3))


def sigmoid(value: Field) -> Field:
    # tanh does not overflow where exp does
    return np.asarray(0.5 + 0.5 * np.tanh(value / 2))

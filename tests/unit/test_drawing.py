"""Pictures: colours that can be told apart, and numbers that say what the maps say."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from semantic_guidance.drawing import DIVERGING, SEQUENTIAL, LegendEntry, heat_map, region_picture
from semantic_guidance.drawing.canvas import LONGEST, SHORTEST, reduced, shown_size, tiled
from semantic_guidance.drawing.palette import NO_WORD, PALETTE, rgb, word_colour
from semantic_guidance.drawing.regions import borders, overlay, widest_place
from semantic_guidance.drawing.text import own_font, shortened, written

# Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency", 2009,
# severity 1.0; acts on linear RGB.
EYES = {
    "normal": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    "protanopia": [
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881],
    ],
}
# Ottosson, "A perceptual color space for image processing", 2020.
TO_CONES = torch.tensor([
    [0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
])
TO_OKLAB = torch.tensor([
    [0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
])


@pytest.fixture(autouse=True)
def in_float64():
    """Not here: pictures are float32."""


def oklab(colours: Tensor, eye: str) -> Tensor:
    """[n, 3] sRGB in 0..1 as that eye sees them."""
    linear = torch.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    seen = (linear @ torch.tensor(EYES[eye]).T).clamp(0, 1)
    return (seen @ TO_CONES.T) ** (1 / 3) @ TO_OKLAB.T


def smallest_distance(colours: Tensor, eye: str) -> float:
    lab = oklab(colours, eye)
    return min((a - b).norm().item() for a, b in itertools.combinations(lab, 2))


@pytest.mark.parametrize("eye", EYES)
def test_the_colours_of_words_can_be_told_apart(eye):
    """In OKLab, where white and black are 1 apart, and two neighbours among 20 even greys 0.053."""
    colours = torch.stack([rgb(colour) for colour in PALETTE])
    with_grey = torch.cat([colours, rgb(NO_WORD)[None]])
    assert smallest_distance(colours, eye) > 0.075
    assert smallest_distance(with_grey, eye) > 0.055


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("scale", [SEQUENTIAL, DIVERGING])
def test_heat_maps_are_ordered_by_lightness(scale, eye):
    """The sequential scale darkens all the way, the diverging one from its middle to both ends."""
    lightness = oklab(scale.colour(torch.linspace(0, 1, 101)), eye)[:, 0]
    if scale is SEQUENTIAL:
        assert (lightness.diff() < 0).all()
    else:
        assert (lightness.diff()[:50] > 0).all() and (lightness.diff()[50:] < 0).all()


def test_more_words_than_colours_get_other_lightness():
    colours = torch.stack([word_colour(number) for number in range(3 * len(PALETTE))])
    assert len(colours.unique(dim=0)) == len(colours)
    torch.testing.assert_close(colours[: len(PALETTE)], torch.stack([rgb(colour) for colour in PALETTE]))


SIZES = [((128, 128), (768, 768)), ((2048, 1024), (512, 1024)), ((800, 900), (900, 800))]


@pytest.mark.parametrize("size, shown", SIZES)
def test_pictures_are_shown_at_a_legible_size(size, shown):
    assert shown_size(*size) == shown
    assert SHORTEST <= max(shown) <= LONGEST


def entries(*shares: float) -> list[LegendEntry]:
    return [LegendEntry(f"word {i}", i, share, 1.0 if share else None) for i, share in enumerate(shares)]


def test_an_overlay_mixes_image_and_colour():
    owner = torch.zeros((64, 96), dtype=torch.long)
    owner[:, 48:] = 1
    image = torch.rand((64, 96, 3), generator=torch.Generator().manual_seed(0))
    colours = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(overlay(owner, colours, image, 0.0), image, atol=0.5 / 255, rtol=0)
    full = overlay(owner, colours, image, 1.0)
    torch.testing.assert_close(full[:, :47], colours[0].expand(64, 47, 3))
    torch.testing.assert_close(full[:, 49:], colours[1].expand(64, 47, 3))
    assert (full[:, 47:49].min() > 0.8)  # a light line between them


def test_borders_lie_on_both_sides_of_a_change():
    owner = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]])
    expected = [[0, 0, 1, 1], [0, 1, 1, 1], [0, 1, 1, 0]]
    assert borders(owner).int().tolist() == expected


def test_a_label_stands_in_the_widest_place_of_its_region():
    region = torch.zeros((256, 256), dtype=torch.bool)
    region[20:24] = True  # a long thin part
    region[100:180, 40:120] = True
    x, y, half = widest_place(region)
    assert abs(x - 80) <= 4 and abs(y - 140) <= 4 and abs(half - 40) <= 4


def test_the_size_of_a_region_picture_depends_on_its_words_alone():
    owner = torch.zeros((16, 16), dtype=torch.long)
    other = torch.randint(0, 3, (16, 16), generator=torch.Generator().manual_seed(0))
    one = region_picture(owner, entries(1.0, 0.0, 0.0), title="Step 1")
    two = region_picture(other, entries(0.3, 0.3, 0.4), title="Step 20")
    assert one.shape == two.shape and one.shape[1] > SHORTEST
    many = region_picture(owner, entries(1.0, *[0.0] * 70))
    assert many.shape[1] > one.shape[1] + 800 and many.shape[0] < one.shape[0]  # more columns; no title


def test_a_heat_map_shows_its_values_in_the_colours_of_its_scale():
    values = torch.tensor([[0.5, 1.0], [1.4, 2.0]])
    picture = heat_map(values, scale=(0.5, 2.0), colours=DIVERGING, smooth=False)
    side = SHORTEST // 2
    inside = picture[28 : 28 + SHORTEST, 28 : 28 + SHORTEST]
    seen = torch.stack([inside[y * side + side // 2, x * side + side // 2] for y in (0, 1) for x in (0, 1)])
    ends = [rgb(DIVERGING.colours[place]) for place in (0, 3, -1)]
    torch.testing.assert_close(seen[[0, 1, 3]], torch.stack(ends), atol=0.5 / 255, rtol=0)


def test_a_factor_and_its_inverse_get_equally_strong_colours():
    places = DIVERGING.place(torch.tensor([0.5, 0.8, 1.0, 1.25, 3.0]), 0.5, 3.0)
    torch.testing.assert_close(places[1] + places[3], torch.tensor(1.0))
    assert places[2] == 0.5 and places[4] == 1.0 and places[0] > 0
    assert DIVERGING.place(torch.tensor([0.0, 1.0]), *DIVERGING.ends(0.0, 1.0)).tolist() == [0.0, 0.5]


@pytest.mark.parametrize("value", [0.9, 1.0, 1.3])
def test_a_map_of_one_value_is_drawn_as_well(value):
    for scale in (SEQUENTIAL, DIVERGING):
        picture = heat_map(torch.full((8, 8), value), colours=scale)
        assert picture.isfinite().all()


def test_a_heat_map_over_an_image_keeps_the_images_proportions():
    image = torch.rand((100, 300, 3), generator=torch.Generator().manual_seed(0))
    wide = heat_map(torch.rand((8, 8)), image, title="cat", scale=(0, 1))
    assert wide.shape[1] > SHORTEST > wide.shape[0]


def test_words_are_cut_to_fit_and_foreign_letters_always_show_something():
    font = own_font(20)
    assert shortened("cat", font, 100) == "cat"
    cut = shortened("photorealistic-hyperdetailed", font, 100)
    assert cut.endswith("...") and font.getlength(cut) <= 100
    assert written("cat", 20) == ("cat", font)
    assert written("\ue000", 20)[0] in ("\ue000", "\\ue000")  # a letter of private use, which fonts lack as a rule


def test_tiles_lie_row_by_row():
    pictures = torch.arange(5.0)[:, None, None].expand(5, 2, 3)
    sheet = tiled(pictures)
    assert sheet[::2, ::3].tolist() == [[0, 1], [2, 3], [4, 0]] or sheet[::2, ::3].tolist() == [[0, 1, 2], [3, 4, 0]]
    assert tiled(torch.rand(21, 60, 104, 3)).shape == (5 * 60, 5 * 104, 3)


def test_a_reduced_picture_keeps_its_proportions_and_its_limit():
    picture = torch.rand(300, 500, 3)
    assert reduced(picture, picture.nbytes) is picture
    small = reduced(picture, picture.nbytes // 4)
    assert small.nbytes <= picture.nbytes / 4
    assert small.shape[0] / small.shape[1] == pytest.approx(0.6, abs=0.01)

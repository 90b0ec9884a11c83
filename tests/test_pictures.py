import numpy as np
import pytest
from PIL import Image, ImageFont

from llava.pictures import CARD, COARSE, GAP, PAGE, TRUTH, Card, Panel, fit, overlay, sheet, wrap

GREY = (100, 100, 100)


def grey(width=40, height=20):
    return Image.new("RGB", (width, height), GREY)


def left_half(width=40, height=20):
    mask = np.zeros((height, width), dtype=bool)
    mask[:, : width // 2] = True
    return mask


def test_the_overlay_tints_the_mask_and_nothing_else():
    image = grey()
    drawn = np.array(overlay(image, left_half(), colour=(200, 0, 0), strength=0.5))
    assert drawn[10, 10].tolist() == [150, 50, 50]
    assert (drawn[:, 20:] == 100).all()
    assert np.array(image)[10, 10].tolist() == list(GREY)


def test_the_overlay_outlines_the_mask():
    drawn = np.array(overlay(grey(), left_half(), colour=(200, 0, 0)))
    assert drawn[10, 19].tolist() == [200, 0, 0]
    assert drawn[0, 5].tolist() == [200, 0, 0]


def test_an_empty_mask_leaves_the_image_as_it_is():
    image = grey()
    assert overlay(image, np.zeros((20, 40), dtype=bool)).tobytes() == image.tobytes()


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"mask is \(40, 20\), the image \(20, 40\)"):
        overlay(grey(), left_half().T)


@pytest.mark.parametrize("size_wh", [(40, 20), (20, 40), (400, 200), (1, 300)])
def test_a_panel_fits_its_room_and_keeps_its_proportions(size_wh):
    panel = Panel(Image.new("RGB", size_wh), "", np.ones(size_wh[::-1], dtype=bool))
    width, height = fit(panel, 100).size
    assert max(width, height) == 100
    assert width / height == pytest.approx(size_wh[0] / size_wh[1], rel=0.01) or min(width, height) == 1


def test_the_mask_of_a_scaled_panel_lies_where_it_lay():
    drawn = np.array(fit(Panel(grey(), "", left_half(), (200, 0, 0)), 200))
    red = (drawn[:, :, 0] > 120) & (drawn[:, :, 2] < 80)
    assert red[:, :98].all()
    assert not red[:, 103:].any()


def card(words="red dog", panels=4, size_wh=(40, 20)):
    mask = np.ones(size_wh[::-1], dtype=bool)
    return Card(words, tuple(Panel(grey(*size_wh), f"panel {n}", mask, TRUTH) for n in range(panels)))


def test_a_sheet_puts_cards_into_columns():
    one, two, three = (sheet([card()] * number, columns=2, side=60) for number in (1, 2, 3))
    assert one.width < two.width == three.width
    assert one.height == two.height < three.height


def test_a_sheet_has_room_for_the_tallest_card_of_each_row():
    flat, tall = card(size_wh=(40, 20)), card(size_wh=(20, 40))
    heights = [sheet(cards, side=80).height for cards in ([flat, flat], [flat, tall], [tall, tall])]
    assert heights[0] < heights[1] == heights[2]


def test_a_sheet_shows_every_panel_and_its_mark():
    drawn = np.array(sheet([Card("x", (Panel(grey(), "a", None, COARSE), Panel(grey(), "b", None, TRUTH)))]))
    assert (drawn == COARSE).all(axis=2).sum() == (drawn == TRUTH).all(axis=2).sum() == 11 * 11
    assert (drawn == GREY).all(axis=2).sum() == 2 * 208 * 104
    assert drawn[0, 0].tolist() == list(PAGE)
    assert drawn[GAP + 3, GAP + 3].tolist() == list(CARD)


def test_the_same_cards_give_the_same_picture():
    assert sheet([card()] * 3).tobytes() == sheet([card()] * 3).tobytes()


def test_a_card_without_words_is_drawn():
    assert sheet([card(words="")]).height < sheet([card()]).height


@pytest.mark.parametrize("cards", [[], [Card("x", ())]])
def test_a_sheet_of_nothing_is_refused(cards):
    with pytest.raises(ValueError, match="at least one card"):
        sheet(cards)


WORDS = "the man in the red shirt who stands left of the tall white horse"


@pytest.mark.parametrize("width", [60, 120, 200, 1000])
@pytest.mark.parametrize("max_lines", [1, 2, 5])
def test_wrapped_lines_fit_their_width(width, max_lines):
    font = ImageFont.load_default(16)
    lines = wrap(WORDS, font, width, max_lines=max_lines)
    assert len(lines) <= max_lines
    assert all(font.getlength(line) <= width for line in lines)
    if not lines[-1].endswith("…"):
        assert " ".join(lines) == WORDS


def test_a_word_longer_than_the_line_is_shortened():
    font = ImageFont.load_default(16)
    (line,) = wrap("w" * 200, font, 100, max_lines=1)
    assert line.startswith("www")
    assert line.endswith("w…")
    assert font.getlength(line) <= 100


def test_no_words_are_no_lines():
    assert wrap("  ", ImageFont.load_default(16), 100, max_lines=2) == []

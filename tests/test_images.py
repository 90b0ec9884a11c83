"""Image files in every mode, damaged ones, and one reading for training and evaluation."""

import numpy as np
import pytest
from PIL import Image

from llava.data.images import load_image
from llava.files import short_path
from llava.train.dataset import image_size, open_image


def test_a_photograph_is_turned_upright_when_asked(tmp_path):
    turned = Image.new("RGB", (32, 24))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "phone.jpg", exif=exif)
    assert load_image(tmp_path / "phone.jpg", turn_upright=True).size == (24, 32)
    assert load_image(tmp_path / "phone.jpg").size == (32, 24)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16", "1"])
def test_every_kind_of_image_becomes_rgb(tmp_path, mode):
    Image.new(mode, (5, 4)).save(tmp_path / "x.png")
    assert (load_image(tmp_path / "x.png").mode, load_image(tmp_path / "x.png").size) == ("RGB", (5, 4))


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_grey_of_16_bits_keeps_its_shades(tmp_path, name):
    shades = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(shades).save(tmp_path / name)
    assert pixels_of(load_image(tmp_path / name)) == [0, 0, 127, 255]
    assert pixels_of(load_image(tmp_path / name, turn_upright=True)) == [0, 0, 127, 255]


def test_training_reads_the_same_pixels(tmp_path):
    Image.fromarray(np.arange(0, 65536, 999, dtype=np.uint16)[None]).save(tmp_path / "x.png")
    assert pixels_of(open_image(tmp_path / "x.png")) == pixels_of(load_image(tmp_path / "x.png"))
    assert image_size(tmp_path / "x.png") == (66, 1)


def test_an_image_that_is_too_large_to_read_is_told(tmp_path, monkeypatch):
    Image.new("L", (40, 40)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for read in (load_image, open_image, image_size):
        with pytest.raises(ValueError, match=r"x\.png is too large \(Image size \(1600 pixels\)"):
            read(tmp_path / "x.png")


@pytest.mark.parametrize(("values", "shades"), [([0, 7, 255], [0, 7, 255]), ([0, 257, 65535], [0, 1, 255])])
def test_grey_of_32_bits_has_the_range_that_its_values_fill(tmp_path, values, shades):
    Image.fromarray(np.array([values], dtype=np.int32)).save(tmp_path / "x.tif")
    assert pixels_of(load_image(tmp_path / "x.tif")) == shades


@pytest.mark.parametrize("values", [np.float32([[0.5]]), np.int32([[65536]]), np.int32([[-1]])])
def test_numbers_that_are_no_colours_are_refused(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "x.tif")
    with pytest.raises(
        ValueError, match=r"x\.tif has pixels of mode '[FI]', which name no white; save it with"
    ):
        load_image(tmp_path / "x.tif")


def pixels_of(image):
    """First row of an image that is grey in all three colours."""
    row = np.array(image)[0]
    assert (row == row[:, :1]).all()
    return row[:, 0].tolist()


def test_a_file_that_is_no_image_is_told(tmp_path):
    (tmp_path / "x.jpg").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match=r"x\.jpg is not an image that Pillow can read"):
        load_image(tmp_path / "x.jpg")


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp"])
def test_a_cut_image_is_told(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"is damaged or cut off|is not an image"):
        load_image(tmp_path / name)


def test_paths_below_the_root_are_kept_short(tmp_path):
    assert short_path(tmp_path / "images" / "a.png", str(tmp_path)) == "images/a.png"
    assert short_path(tmp_path / "a.png", str(tmp_path / "other")) == (tmp_path / "a.png").as_posix()
    assert short_path(tmp_path / "a.png", "") == (tmp_path / "a.png").as_posix()

"""What `segmentation.json` may say: right files load, wrong ones are refused in words."""

import json

import numpy as np
import pytest

from llava.settings import SegmentationSettings


def load(folder, content):
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    (folder / "segmentation.json").write_bytes(text.encode() if isinstance(text, str) else text)
    return SegmentationSettings.load(folder)


def test_saved_settings_load_as_they_were(tmp_path):
    settings = SegmentationSettings(codec="bricks", grid_hw=(12, 16), brick_tail=False, training={"seed": 3})
    settings.save(tmp_path)
    assert SegmentationSettings.load(tmp_path) == settings
    assert load(tmp_path, {"grid_hw": [12, 16]}) == SegmentationSettings(grid_hw=(12, 16))
    assert SegmentationSettings(grid_hw=(np.int64(3), np.int64(4))).grid_hw == (3, 4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"grid_hw": 16}, "grid_hw 16: two sides"),
        ({"grid_hw": "16"}, "grid_hw '16': two sides"),
        ({"grid_hw": "16x16"}, "grid_hw '16x16': two sides"),
        ({"grid_hw": None}, "grid_hw None: two sides"),
        ({"grid_hw": [16]}, r"grid_hw \[16\]: two sides"),
        ({"grid_hw": [16, 0]}, r"grid_hw \[16, 0\]: two sides"),
        ({"grid_hw": [16.7, 16]}, r"grid_hw \[16.7, 16\]: two sides, both whole numbers"),
        ({"grid_hw": ["a", 3]}, "two sides"),
        ({"image_side": "336"}, "image_side '336': needed is a whole number"),
        ({"image_side": 336.5}, "image_side 336.5: needed is a whole number"),
        ({"image_side": -1}, "image_side -1: pixels, or 0"),
        ({"brick_tail": "no"}, "brick_tail 'no': needed is true or false"),
        ({"brick_tail": 0}, "brick_tail 0: needed is true or false"),
        ({"prompt": None}, "prompt None: needed is a name"),
        ({"training": None}, "training None: needed is an object"),
        ({"scores": []}, r"scores \[\]: needed is an object"),
        ({"codec": ["rrle"]}, r"codec \['rrle'\]: known are rrle"),
        ({"upsample": "cubic", "grid_hw": 3}, "upsample 'cubic'.*; grid_hw 3"),
        ({"grid": 16}, r"unknown fields \['grid'\]; known are"),
        ([{"grid_hw": 16}], r"holds \[\{'grid_hw': 16\}\]; needed is an object"),
        (5, "holds 5; needed is an object"),
        ("{", "is not valid JSON"),
        (b"\xff\xfe{}", "is not valid JSON"),
    ],
)
def test_a_wrong_field_is_refused_with_the_file_and_what_is_needed(fields, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        load(tmp_path, fields)
    assert str(tmp_path / "segmentation.json") in str(error.value)

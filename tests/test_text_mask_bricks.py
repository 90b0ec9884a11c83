"""Box-wise answers become masks and boxes in pixels; which codec is read stands in the settings."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import tiny_llava, tiny_settings
from test_text_mask import Scripted

from llava.codec.boxes import box_edges, mask_from_box
from llava.codec.boxwise import block_of, box_answer, write_block
from llava.eval import run_llava
from llava.model.checkpoint import load_checkpoint
from llava.model.mask_text import BUSY_BLOCKS, BoxWise, ImageWise, mask_text
from llava.model.new_tokens import add_brick_tokens, make_room, start_rows
from llava.model.text_mask import TextMaskSegmenter, answer_budget
from llava.settings import BRICKS, CODECS
from llava.types import Prediction, Query

SIZE_HW = (40, 60)
GRID = (8, 8)
NOTHING = "<ref>cat</ref><box></box><seg></seg>"


def brick_settings(**changes):
    return tiny_settings(codec=BRICKS, grid_hw=GRID, system="text4seg++", **changes)


def disc(y, x, radius):
    rows, columns = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


LEFT, RIGHT = block_of("red disc", disc(20, 15, 10), GRID), block_of("red disc", disc(22, 45, 8), GRID)


def text_of(block, settings):
    return write_block(block, order=settings.brick_order, tail=settings.brick_tail)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoint folder of a tiny random LLaVA with bricks."""
    path = tmp_path_factory.mktemp("bricks")
    model, processor = tiny_llava()
    added = add_brick_tokens(processor.tokenizer)
    make_room(model, processor.tokenizer)
    start_rows(model, processor.tokenizer, added)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    brick_settings().save(path)
    return path


@pytest.fixture(scope="module")
def checkpoint(folder):
    return load_checkpoint(folder, device="cpu")


@pytest.fixture
def scripted(checkpoint):
    """Function that makes a segmenter whose model writes the given answers."""

    def make(*answers, settings=None, **options):
        model = Scripted(checkpoint.processor.tokenizer, [f"{answer}</s>" for answer in answers])
        changed = replace(checkpoint, model=model, settings=settings or checkpoint.settings)
        return TextMaskSegmenter(changed, **options)

    return make


@pytest.mark.parametrize("order", ["raster", "snake", "hilbert"])
@pytest.mark.parametrize("upsample", ["bilinear", "nearest"])
def test_blocks_become_one_mask_and_the_box_around_them(scripted, picture, order, upsample):
    settings = brick_settings(brick_order=order, upsample=upsample)
    answer = box_answer("Here they are:", [text_of(block, settings) for block in (LEFT, RIGHT)])
    (found,) = scripted(answer, settings=settings).segment([Query([picture(60, 40)], ["red disc"])])
    masks = [mask_from_box(block.cells, block.box, SIZE_HW, method=upsample) for block in (LEFT, RIGHT)]
    assert found.text == answer and found.faults == () and found.absent.tolist() == [False]
    assert np.array_equal(found.masks[0, 0], masks[0] | masks[1])
    assert found.labels == {"red disc": int((masks[0] | masks[1]).sum())}
    left, right = (box_edges(block.box, SIZE_HW) for block in (LEFT, RIGHT))
    assert found.boxes == ((left[0], min(left[1], right[1]), right[2], max(left[3], right[3])),)
    # The box of what was drawn lies in the box that was written.
    columns = np.flatnonzero(found.masks[0, 0].any(axis=0))
    assert found.boxes[0][0] - 1 < columns.min() and columns.max() < found.boxes[0][2] + 1
    assert found.confidence is None


def test_each_target_has_its_own_box_or_none(scripted, picture):
    settings = brick_settings()
    answers = [box_answer("Sure:", [text_of(LEFT, settings)]), f"No:\n{NOTHING}", "I see no horse."]
    query = Query([picture(60, 40)], ["red disc", "cat", "horse"])
    (found,) = scripted(*answers).segment([query])
    assert found.boxes == (box_edges(LEFT.box, SIZE_HW), None, None)
    assert found.absent.tolist() == [False, True, False]
    assert found.masks.any(axis=(1, 2, 3)).tolist() == [True, False, False]
    assert list(found.labels) == ["red disc"]
    assert found.faults == ("'horse': no_mask: the answer has no <seg>",)


def test_broken_blocks_are_read_as_far_as_they_go(scripted, picture):
    text = text_of(LEFT, brick_settings())
    query = Query([picture(60, 40)], ["red disc"])
    (cut,) = scripted(text[: text.rindex("<f")]).segment([query])
    (junk,) = scripted("<seg><f3><f999></box><ref>").segment([query])
    assert cut.masks.any() and cut.boxes[0] is not None and cut.faults
    assert junk.masks.shape == (1, 1, *SIZE_HW) and junk.faults
    (short,) = scripted(text, max_new_tokens=9).segment([query])
    assert short.faults[0].startswith("truncated: the answer has no end within 9 tokens")


def test_image_wise_answers_have_no_boxes(picture, tiny_llava_folder):
    segmenter = TextMaskSegmenter(load_checkpoint(tiny_llava_folder, device="cpu"), max_new_tokens=3)
    assert segmenter.segment([Query([picture(9, 9)], ["x"])])[0].boxes is None


def test_the_codec_of_the_settings_chooses_how_answers_are_read():
    assert {type(mask_text(tiny_settings(codec=codec))) for codec in CODECS} == {ImageWise}
    form = mask_text(brick_settings(brick_order="snake", brick_tail=True), upsample="nearest")
    assert type(form) is BoxWise and form.upsample == "nearest"
    snake = form.read(box_answer("", [write_block(LEFT, order="snake", tail=True)]))
    assert snake.faults == () and np.array_equal(snake.blocks[0].cells, LEFT.cells)
    with pytest.raises(ValueError, match="unknown upsample 'cubic'; known: bilinear, nearest"):
        mask_text(brick_settings(), upsample="cubic")


def test_a_long_answer_has_room_for_several_objects(scripted):
    segmenter = scripted()
    tokenizer = segmenter.checkpoint.processor.tokenizer
    one = len(tokenizer(text_of(LEFT, brick_settings()), add_special_tokens=False).input_ids)
    assert segmenter.max_new_tokens == answer_budget(segmenter.checkpoint) > BUSY_BLOCKS * one
    read = mask_text(brick_settings()).read(mask_text(brick_settings()).longest())
    assert read.faults == () and len(read.blocks) == BUSY_BLOCKS


def test_wrong_boxes_are_refused():
    mask = np.zeros((2, 1, 4, 4), bool)
    with pytest.raises(ValueError, match="1 boxes for 2 targets"):
        Prediction(mask, np.zeros(2, bool), "", boxes=(None,))


@pytest.mark.parametrize("decoding", ["plain", "fast"])
def test_run_llava_needs_nothing_but_the_folder(folder, tmp_path, picture, capsys, decoding):
    if decoding != "plain":
        pytest.importorskip("llguidance")
    picture(60, 40).save(tmp_path / "photo.png")
    command = ["--model-path", folder, "--image-file", tmp_path / "photo.png", "--query", "red disc"]
    command += ["--out", tmp_path / "out", "--decoding", decoding, "--device", "cpu"]
    run_llava.main([str(one) for one in command])
    said = capsys.readouterr().out
    assert said.startswith("Answer: ") and (tmp_path / "out" / "photo_mask.png").is_file()


def test_run_llava_tells_the_box_of_the_answer():
    mask = np.ones((1, 1, 4, 8), bool)
    lines = run_llava.describe(Prediction(mask, np.array([False]), "Yes.", boxes=((0.0, 1.25, 7.6, 4.0),)))
    assert "Box in the answer: (0.0, 1.2) to (7.6, 4.0) pixels." in lines
    for boxes in (None, (None,)):
        lines = run_llava.describe(Prediction(mask, np.array([False]), "Yes.", boxes=boxes))
        assert not any("Box" in line for line in lines)


def test_decoding_modes_answer_and_leave_no_fault(checkpoint, picture):
    pytest.importorskip("llguidance")
    torch.manual_seed(0)
    query = Query([picture(60, 40)], ["red disc"])
    texts = set()
    for mode in ("constrained", "forced", "fast"):
        (found,) = TextMaskSegmenter(checkpoint, decoding=mode, max_new_tokens=20).segment([query])
        texts.add(found.text)
        assert all("no_mask" in fault or "truncated" in fault for fault in found.faults)
        assert found.confidence.shape == (1, *GRID)
    assert len(texts) == 1

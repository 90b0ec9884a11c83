"""A checkpoint folder becomes the system that its settings name."""

import pytest

from llava.model.segmenter import SYSTEMS, load_segmenter
from llava.model.text_mask import TextMaskSegmenter
from llava.settings import SYSTEMS as NAMED
from llava.types import Query


def test_the_table_holds_every_system_that_settings_may_name():
    assert set(SYSTEMS) == set(NAMED)


def test_a_folder_becomes_a_segmenter_with_its_options(tiny_llava_folder, picture):
    segmenter = load_segmenter(tiny_llava_folder, device="cpu", max_new_tokens=4, upsample="nearest")
    assert isinstance(segmenter, TextMaskSegmenter)
    (prediction,) = segmenter.segment([Query([picture(30, 20)], ["red square"])])
    assert prediction.masks.shape == (1, 1, 20, 30)
    assert "truncated: the answer has no end within 4 tokens" in prediction.faults


def test_an_adapter_becomes_a_segmenter_on_its_base(tiny_llava_folder, tmp_path, picture):
    from conftest import tiny_settings
    from peft import LoraConfig, get_peft_model

    from llava.model.checkpoint import load_base, save_adapter

    base = load_base(tiny_llava_folder)
    adapted = get_peft_model(base.model, LoraConfig(r=2, target_modules=r".*language_model.*\.q_proj"))
    save_adapter(adapted, base.processor, tiny_settings(), tmp_path)
    query = Query([picture(30, 20)], ["red square"])
    answers = [
        load_segmenter(folder, base=base_folder, device="cpu", max_new_tokens=8).segment([query])[0].text
        for folder, base_folder in (
            (tiny_llava_folder, None),
            (tmp_path, None),
            (tmp_path, tiny_llava_folder),
        )
    ]
    assert len(set(answers)) == 1


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="checkpoint folder"):
        load_segmenter(tmp_path / "none")

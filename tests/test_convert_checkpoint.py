"""The converter writes plain folders, and original folders are taken by the other commands as they are."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_sam_config, tiny_settings
from original_folders import (
    by_hand,
    logits,
    merged_by_hand,
    write_json,
    write_llama,
    write_lora,
    write_projector,
    write_tower,
    write_whole,
)
from test_original_sam import original_tensors
from transformers import SamModel

from llava.eval.run_llava import main as run_llava
from llava.model import hub
from llava.model.checkpoint import load_base, load_checkpoint, load_processor
from llava.model.original_sam import SIZES
from llava.model.refine import SamRefiner
from llava.train.resolve import read_base

SCRIPT = Path(__file__).parent.parent / "scripts" / "convert_checkpoint.py"
TRAINED = ["--grid", "4", "--prompt", "plain_v1"]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Folder with tiny original checkpoints; treat it as read-only."""
    shelf = tmp_path_factory.mktemp("shelf")
    model = by_hand()
    write_tower(shelf / "clip", model)
    write_whole(shelf / "whole", model, shelf / "clip", with_tower=False)
    write_llama(shelf / "llama", model)
    write_projector(shelf / "projector", model, shelf / "clip", shelf / "llama")
    write_lora(shelf / "lora", model, shelf / "clip", shelf / "whole")
    return shelf


@pytest.fixture
def convert():
    """Function that runs the command."""
    main = runpy.run_path(str(SCRIPT))["main"]
    return lambda *words: main([str(word) for word in words])


def test_a_whole_folder_becomes_a_plain_one_with_its_settings(shelf, tmp_path, convert, capsys):
    convert("--from", shelf / "whole", "--to", tmp_path / "new", *TRAINED)
    assert capsys.readouterr().out.splitlines()[-1] == f"written to {tmp_path / 'new'}"
    found = load_checkpoint(tmp_path / "new")
    assert torch.equal(logits(found.model), logits(by_hand()))
    assert found.settings == tiny_settings(training={"converted_from": str(shelf / "whole")})
    assert json.loads((tmp_path / "new" / "config.json").read_text())["model_type"] == "llava"
    ids = load_processor(shelf / "whole").tokenizer("USER: <image>\nred").input_ids
    assert found.processor.tokenizer("USER: <image>\nred").input_ids == ids


def test_a_lora_becomes_the_merged_model(shelf, tmp_path, convert):
    convert("--from", shelf / "lora", "--to", tmp_path / "new", *TRAINED)
    found = load_checkpoint(tmp_path / "new").model
    assert not any("lora" in name for name, _ in found.named_parameters())
    assert (logits(found) - logits(merged_by_hand(by_hand()))).abs().max() < 1e-4  # sums in another order


def test_a_projector_over_its_language_model_becomes_a_base_to_train_from(shelf, tmp_path, convert):
    convert("--from", shelf / "projector", "--to", tmp_path / "new", "--base-only")
    assert not (tmp_path / "new" / "segmentation.json").exists()
    base = load_base(tmp_path / "new")
    assert base.settings is None
    assert torch.equal(logits(base.model), logits(by_hand()))


def test_a_sam_file_becomes_a_folder(tmp_path, convert, monkeypatch, picture):
    monkeypatch.setitem(SIZES, "tiny", tiny_sam_config())
    torch.manual_seed(0)
    torch.save(original_tensors(SamModel(tiny_sam_config())), tmp_path / "sam.pth")
    convert("--from", tmp_path / "sam.pth", "--to", tmp_path / "new")
    image, masks = picture(48, 32), np.ones((1, 32, 48), bool)
    by_folder, by_file = SamRefiner(tmp_path / "new"), SamRefiner(tmp_path / "sam.pth")
    assert np.array_equal(by_folder.refine(image, masks).masks, by_file.refine(image, masks).masks)
    with pytest.raises(SystemExit, match="read as SAM, which has no grid_hw"):
        convert("--from", tmp_path / "sam.pth", "--to", tmp_path / "other", "--grid", "4")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], r"nothing says with which grid .*; give --grid 16"),
        (["--grid", "4", "--base-only"], "--base-only writes no segmentation.json; leave grid_hw out"),
        (["--grid", "4", "--prompt", "none_v9"], "prompt 'none_v9'; known"),
        (["--grid", "4", "--image-side", "48"], "image_side 48, the vision tower needs 24"),
        (["--grid", "4", "--base", "somewhere"], "leave the base model somewhere out"),
    ],
)
def test_wrong_words_end_with_one_line_and_write_nothing(shelf, tmp_path, convert, words, message):
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        convert("--from", shelf / "whole", "--to", tmp_path / "new", *words)
    assert not (tmp_path / "new").exists()


def test_wrong_places_end_with_one_line(shelf, tmp_path, convert, tiny_llava_folder):
    with pytest.raises(SystemExit, match="is not empty; give a new folder"):
        convert("--from", shelf / "whole", "--to", shelf / "whole", *TRAINED)
    for source in (tiny_llava_folder, tmp_path / "none"):
        with pytest.raises(SystemExit, match="no folder or hub name in the layout of the original"):
            convert("--from", source, "--to", tmp_path / "new", *TRAINED)
    with pytest.raises(SystemExit):
        convert("--from", shelf / "whole", "--to", tmp_path / "new", "--grid", "4x")


def test_an_original_folder_is_asked_only_when_something_says_its_grid(shelf, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"does not say with which grid.*convert_checkpoint\.py"):
        load_checkpoint(shelf / "whole")
    folder = write_whole(tmp_path / "own", by_hand(), shelf / "clip", with_tower=False)
    tiny_settings().save(folder)
    found = load_checkpoint(folder)
    assert torch.equal(logits(found.model), logits(by_hand())) and found.settings == tiny_settings()
    lora = write_lora(tmp_path / "lora", by_hand(), shelf / "clip", "moved/away")
    tiny_settings().save(lora)
    merged = logits(merged_by_hand(by_hand()))
    assert (logits(load_checkpoint(lora, base=shelf / "whole").model) - merged).abs().max() < 1e-4
    with pytest.raises(FileNotFoundError, match=r"moved/away.*--model-base"):
        load_checkpoint(lora)


def test_a_training_starts_from_an_original_folder(shelf):
    known = read_base(str(shelf / "whole"))
    assert (known.image_side, known.max_positions, known.settings) == (24, 512, None)
    base = load_base(shelf / "whole")
    assert base.model.name_or_path == str(shelf / "whole")
    assert torch.equal(logits(base.model), logits(by_hand()))
    with pytest.raises(
        ValueError, match=r"is an adapter; make a whole model of it first.*convert_checkpoint"
    ):
        load_base(shelf / "lora")
    with pytest.raises(ValueError, match="is an adapter; make a whole model"):
        read_base(str(shelf / "lora"))


def test_a_published_name_needs_no_further_flags(shelf, tmp_path, monkeypatch, picture, capsys):
    """As the public weights: on the hub, without settings, its config naming a CLIP of its authors."""
    name = "someone/published-p4"
    fetched = write_whole(tmp_path / "cache", by_hand(), "./pre_trained/clip", with_tower=False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, **options: str(fetched))
    fields = json.loads((fetched / "config.json").read_text())
    monkeypatch.setattr(
        "transformers.PretrainedConfig.get_config_dict",
        lambda path, **options: (
            (fields, {}) if path == name else (json.loads(Path(path, "config.json").read_text()), {})
        ),
    )
    monkeypatch.setitem(hub.KNOWN, name, hub.Known(tiny_settings(), str(shelf / "clip")))
    picture(40, 30).save(tmp_path / "photo.png")
    words = ["--model-path", name, "--image-file", tmp_path / "photo.png", "--query", "the red square"]
    run_llava([str(word) for word in [*words, "--out", tmp_path / "out"]])
    assert "Answer:" in capsys.readouterr().out
    assert (tmp_path / "out" / "photo_mask.png").is_file()
    assert read_base(name).settings == tiny_settings()
    monkeypatch.delitem(hub.KNOWN, name)
    with pytest.raises(FileNotFoundError, match="does not say with which grid"):
        load_checkpoint(name)


def test_the_public_p24_weights_are_known_and_the_way_to_them_is_told_offline():
    name = "lmc22/text4seg-llava-7b-p24"
    settings = hub.KNOWN[name].settings
    assert (settings.grid_hw, settings.codec, settings.image_side) == ((24, 24), "rrle", 336)
    assert (settings.prompt, settings.interpolation) == ("text4seg_v1", "bicubic")
    with pytest.raises(
        FileNotFoundError, match=rf"nor fetched from the hub .*hf download {name} --local-dir"
    ):
        load_checkpoint(name)
    assert hub.known(f"{name}-mine") is None and hub.known("text4seg-llava-7b-p24") is None


def test_a_folder_is_never_taken_for_a_published_name(tmp_path, monkeypatch, shelf):
    monkeypatch.chdir(tmp_path)
    folder = Path("lmc22/text4seg-llava-7b-p24")
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {"mm_projector_type": "mlp2x_gelu"})
    with pytest.raises(FileNotFoundError, match="does not say with which grid"):
        hub.find_settings(folder)

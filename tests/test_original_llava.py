"""Checkpoints in the layout of the original LLaVA code become the very same model, or an error."""

import json
import os
import shutil
from pathlib import Path

import pytest
import sentencepiece
import torch
from original_folders import (
    IMAGE_ID,
    PIECES,
    ROWS,
    by_hand,
    logits,
    merged_by_hand,
    original_fields,
    projector_tensors,
    write_json,
    write_llama,
    write_lora,
    write_projector,
    write_tower,
    write_whole,
)
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlavaProcessor

from llava.data.prompt import render
from llava.model.original_folder import find_original
from llava.model.original_llava import load_original, original_config, original_processor
from llava.model.original_tokenizer import original_tokenizer


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Folder with a tiny checkpoint of every kind; treat it as read-only."""
    shelf = tmp_path_factory.mktemp("originals")
    model = by_hand()
    write_tower(shelf / "clip", model)
    write_whole(shelf / "whole", model, shelf / "clip")
    write_whole(shelf / "parts", model, shelf / "clip", with_tower=False, parts=3, model_type="llava")
    write_llama(shelf / "llama", model)
    write_projector(shelf / "projector", model, shelf / "clip", shelf / "llama")
    write_lora(shelf / "lora", model, shelf / "clip", shelf / "llama")
    return shelf


@pytest.fixture
def copy(shelf, tmp_path):
    """Function that copies a folder of the shelf for a test to spoil."""
    return lambda name: shutil.copytree(shelf / name, tmp_path / name)


def load(path, **options):
    original = find_original(path, **options)
    return load_original(original, dtype=torch.float32, attention="sdpa")


@pytest.mark.parametrize("kind", ["whole", "parts", "projector"])
def test_every_kind_gives_the_logits_of_the_tensors_put_by_hand(shelf, kind):
    model = load(shelf / kind)
    assert torch.equal(logits(model), logits(by_hand()))
    assert model.config.text_config.vocab_size == ROWS and not model.training
    assert model.config.image_token_id == IMAGE_ID == PIECES


def test_a_lora_over_the_language_model_adds_up_to_the_merged_weights(shelf):
    model = load(shelf / "lora")
    expected = logits(merged_by_hand(by_hand()))
    assert (logits(model) - expected).abs().max() < 1e-4  # sums in another order
    assert (logits(by_hand()) - expected).abs().max() > 0.1
    layers = [name for name, _ in model.named_modules() if name.endswith("lora_B")]
    assert len(layers) == 6 and all("language_model" in name for name in layers)


def test_a_lora_takes_any_form_of_its_base(shelf, tmp_path):
    expected = logits(load(shelf / "lora"))
    model = load(shelf / "whole")
    model.save_pretrained(tmp_path / "hf")
    original_processor(find_original(shelf / "whole")).save_pretrained(tmp_path / "hf")
    for base in (shelf / "whole", shelf / "parts", shelf / "projector", tmp_path / "hf"):
        assert torch.equal(logits(load(shelf / "lora", base=base)), expected)


def test_padding_rows_never_have_the_largest_logit(shelf):
    found = logits(load(shelf / "whole"))
    assert (found.argmax(dim=-1) < PIECES).all()
    assert torch.allclose(found[:, PIECES:], found[:, :PIECES].mean(dim=-1, keepdim=True), atol=1e-5)


def test_the_ids_of_a_prompt_are_those_of_the_original_tokenizer(shelf, tmp_path):
    processor = original_processor(find_original(shelf / "whole"))
    reference = sentencepiece.SentencePieceProcessor(model_file=str(shelf / "whole" / "tokenizer.model"))
    before, behind = "USER: ", "\nsegment the red square ASSISTANT: Sure:\n<seg>others *4\n</seg>"
    expected = [*reference.encode(before), IMAGE_ID, *reference.encode(behind)]
    processor.tokenizer.save_pretrained(tmp_path)
    for tokenizer in (processor.tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        assert tokenizer(f"{before}<image>{behind}", add_special_tokens=False).input_ids == expected
        assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token) == (1, 2, "<unk>")
    assert isinstance(processor, LlavaProcessor) and processor.num_additional_image_tokens == 1
    assert type(processor.image_processor).__name__ == "CLIPImageProcessorPil"


@pytest.mark.real_data
@pytest.mark.skipif("TEXT4SEG_REAL_DATA" not in os.environ, reason="TEXT4SEG_REAL_DATA is not set")
def test_llamas_own_tokenizer_gives_the_ids_that_the_original_code_trains_on():
    folder = Path(os.environ["TEXT4SEG_REAL_DATA"]) / "tokenizers" / "llama2"
    reference = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    (question, _), (answer, _) = render(
        "text4seg_v1",
        [
            (
                "<image>\nPlease segment only the left dog.",
                "Sure:\n<seg>others *24\n others *9| dog *15\n</seg>",
            )
        ],
    )
    before, behind = (question + answer.removesuffix("</s>")).split("<image>")
    tokenizer = original_tokenizer(folder)
    found = tokenizer(question + answer, add_special_tokens=False).input_ids
    assert found == [*reference.encode(before), 32000, *reference.encode(behind), 2]
    assert reference.id_to_piece(found[found.index(32000) + 1]) == "▁"
    assert tokenizer.decode(found[-9:], skip_special_tokens=True).endswith("</seg>")


def test_sentencepiece_is_asked_for_where_it_is_missing(shelf, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install sentencepiece"):
        original_processor(find_original(shelf / "whole"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.mm_projector.0.weight": None}, r"1 missing: model.multi_modal_projector.linear_1.weight\."),
        ({"model.layers.1.self_attn.q_proj.weight": None}, r"1 missing: .*layers\.1\.self_attn\.q_proj"),
        ({"model.image_newline": torch.ones(3)}, r"1 unexpected: model\.image_newline"),
        ({"model.mm_projector.4.bias": torch.ones(3)}, r"1 unexpected: model\.mm_projector\.4\.bias"),
        ({"model.mm_projector.2.bias": torch.ones(3)}, r"linear_2\.bias is \(3,\), needed \(32,\)"),
        ({"lm_head.weight": torch.ones(400, 32)}, r"lm_head\.weight is \(400, 32\), needed \(384, 32\)"),
    ],
)
def test_a_missing_a_left_over_and_a_misshapen_tensor_are_named(copy, change, message):
    folder = copy("parts")
    for file in folder.glob("*.bin"):
        tensors = torch.load(file)
        changed = {name: change.get(name, tensor) for name, tensor in tensors.items()}
        if file.name.startswith("pytorch_model-00001"):
            changed |= change
        torch.save({name: tensor for name, tensor in changed.items() if tensor is not None}, file)
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_a_lora_of_another_model_is_refused_and_never_stays_at_zero(copy):
    folder = copy("lora")
    tensors = torch.load(folder / "adapter_model.bin")
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    torch.save({key: value for key, value in tensors.items() if key != name}, folder / "adapter_model.bin")
    with pytest.raises(
        ValueError, match=r"1 missing: .*language_model\.layers\.0\.self_attn\.q_proj\.lora_B"
    ):
        load(folder)
    torch.save(
        {key.replace("layers.1", "layers.7"): value for key, value in tensors.items()},
        folder / "adapter_model.bin",
    )
    with pytest.raises(ValueError, match=r"6 unexpected: .*language_model\.layers\.7"):
        load(folder)
    torch.save({"base_model.model.model.norm.weight": torch.ones(32)}, folder / "adapter_model.bin")
    with pytest.raises(ValueError, match="holds no LoRA tensors but"):
        load(folder)


@pytest.mark.parametrize(
    ("kind", "file"), [("lora", "non_lora_trainables.bin"), ("projector", "mm_projector.bin")]
)
def test_a_part_without_its_projector_is_refused(copy, kind, file):
    folder = copy(kind)
    torch.save({"model.other": torch.ones(2)}, folder / file)
    with pytest.raises(ValueError, match=r"holds no mm_projector but model\.other"):
        load(folder)
    tensors = projector_tensors(by_hand())
    tensors["model.mm_projector.0.weight"] = torch.ones(5, 5)
    torch.save(tensors, folder / file)
    with pytest.raises(ValueError, match=r"linear_1\.weight is \(5, 5\), needed \(32, 32\)"):
        load(folder)
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=file if kind == "lora" else "neither a whole model nor"):
        load(folder)


class _Code:
    def __reduce__(self):
        return print, ("this pickle ran",)


def test_a_pickle_that_would_run_code_is_not_opened(copy, capsys):
    folder = copy("projector")
    torch.save({"model.mm_projector.0.weight": _Code()}, folder / "mm_projector.bin")
    with pytest.raises(ValueError, match="holds more than tensors"):
        load(folder)
    assert "this pickle ran" not in capsys.readouterr().out
    (folder / "mm_projector.bin").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(ValueError, match="damaged"):
        load(folder)
    torch.save({"state_dict": {}}, folder / "mm_projector.bin")
    with pytest.raises(ValueError, match="state_dict hold no tensors"):
        load(folder)
    torch.save([1], folder / "mm_projector.bin")
    with pytest.raises(ValueError, match="holds a list"):
        load(folder)


def test_files_of_the_old_pickle_format_are_read(copy):
    folder = copy("projector")
    torch.save(
        projector_tensors(by_hand()), folder / "mm_projector.bin", _use_new_zipfile_serialization=False
    )
    assert torch.equal(logits(load(folder)), logits(by_hand()))


def test_a_missing_part_of_a_sharded_model_is_named(copy):
    folder = copy("parts")
    (folder / "pytorch_model-00002-of-00003.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"pytorch_model-00002-of-00003\.bin not found"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mm_projector_type": "linear"}, "only 'mlp2x_gelu'"),
        ({"mm_patch_merge_type": "spatial_unpad"}, "it is LLaVA-1.6"),
        ({"mm_use_im_start_end": True}, "tokens around the image"),
        ({"model_type": "llava_mpt"}, "only Llama's is known"),
    ],
)
def test_relatives_of_llava_1_5_are_refused_before_their_weights_are_read(tmp_path, change, message):
    write_json(tmp_path / "config.json", original_fields(by_hand(), "somewhere", **change))
    (tmp_path / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(ValueError, match=message):
        find_original(tmp_path)


def test_bases_that_do_not_fit_are_named(shelf, copy, tmp_path):
    with pytest.raises(ValueError, match="leave the base model"):
        find_original(shelf / "whole", base=shelf / "llama")
    with pytest.raises(FileNotFoundError, match=r"/away, the base of .* not found.*--base"):
        find_original(shelf / "lora", base=tmp_path / "away")
    with pytest.raises(ValueError, match="is an adapter itself"):
        find_original(shelf / "lora", base=shelf / "lora")
    with pytest.raises(ValueError, match="has model_type 'clip_vision_model'"):
        find_original(shelf / "lora", base=shelf / "clip")
    folder = copy("projector")
    fields = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {k: v for k, v in fields.items() if k != "_name_or_path"})
    with pytest.raises(ValueError, match="names no base model"):
        find_original(folder)


def test_a_vision_tower_that_is_not_there_is_named_and_can_be_given(shelf, copy):
    folder = copy("parts")
    fields = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", fields | {"mm_vision_tower": "./pre_trained/clip"})
    with pytest.raises(FileNotFoundError, match=r"\./pre_trained/clip is not here.*--vision-tower"):
        original_config(find_original(folder))
    found = load(folder, vision_tower=str(shelf / "clip"))
    assert torch.equal(logits(found), logits(by_hand()))
    with pytest.raises(ValueError, match="model_type 'llama', needed is a CLIP"):
        load(folder, vision_tower=str(shelf / "llama"))


@pytest.mark.parametrize("side", [224, 336])
def test_a_published_tower_is_told_by_its_shapes_where_its_name_leads_nowhere(shelf, tmp_path, side):
    folder, mark = tmp_path / "whole", "model.vision_tower.vision_tower.vision_model.embeddings."
    shutil.copytree(shelf / "whole", folder)
    shapes = {"patch_embedding": (1024, 3, 14, 14), "position_embedding": ((side // 14) ** 2 + 1, 1024)}
    tensors = {f"{mark}{name}.weight": torch.zeros(shape) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    found = find_original(folder, vision_tower="./pre_trained/clip")
    assert original_config(found).vision_config.image_size == side
    assert original_processor(found).image_processor.crop_size["height"] == side


def test_folders_of_transformers_and_of_this_project_are_no_originals(tiny_llava_folder, shelf, tmp_path):
    for path in (tiny_llava_folder, shelf / "llama", tmp_path, tmp_path / "none", "someone/unknown"):
        assert find_original(path) is None

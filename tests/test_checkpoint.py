"""Checkpoints load whole or not at all, and come back as they were saved."""

import json
import runpy
import shutil
from pathlib import Path

import pytest
import torch
from conftest import tiny_llava, tiny_settings
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from llava.model import weights
from llava.model.checkpoint import load_base, load_checkpoint, merge, save_adapter
from llava.settings import SegmentationSettings

TARGETS = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
LLAMA_KEYS = "base_model.model.model.layers."


@pytest.fixture(scope="module")
def trained(tiny_llava_folder, tmp_path_factory):
    """(adapter folder, model that was saved): LoRA and projector moved away from their start."""
    base = load_base(tiny_llava_folder)
    model = get_peft_model(base.model, LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "multi_modal_projector" in name:
                parameter.normal_(0, 0.2)
    folder = tmp_path_factory.mktemp("adapter")
    save_adapter(model, base.processor, tiny_settings(training={"seed": 1}), folder)
    return folder, model.eval()


@pytest.fixture
def copy(trained, tiny_llava_folder, tmp_path):
    """Copies of the plain and the adapter folder that a test may spoil."""
    plain, adapter = tmp_path / "plain", tmp_path / "adapter"
    shutil.copytree(tiny_llava_folder, plain)
    shutil.copytree(trained[0], adapter)
    return plain, adapter


def ask(model, processor):
    """Logits of one image and text, from fixed pixels."""
    pixels = torch.linspace(-1, 1, 3 * 24 * 24).reshape(1, 3, 24, 24)
    ids = processor.tokenizer("USER: <image>\nred square? ASSISTANT:").input_ids
    at = ids.index(processor.image_token_id)
    ids = torch.tensor([ids[:at] + [processor.image_token_id] * 16 + ids[at + 1 :]])
    with torch.no_grad():
        logits = model(input_ids=ids, pixel_values=pixels).logits
        tokens = model.generate(
            input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids), max_new_tokens=20
        )
    return logits, tokens.tolist()


def change_weights(file: Path, change):
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def test_a_plain_folder_gives_the_saved_model_and_settings(tiny_llava_folder):
    checkpoint = load_checkpoint(tiny_llava_folder)
    model, processor = tiny_llava()
    assert torch.equal(ask(checkpoint.model, checkpoint.processor)[0], ask(model, processor)[0])
    assert checkpoint.settings == tiny_settings()
    assert type(checkpoint.processor.image_processor).__name__.endswith("Pil")
    assert not checkpoint.model.training


def test_a_saved_adapter_loads_to_identical_logits(trained):
    folder, model = trained
    loaded = load_checkpoint(folder)
    expected, tokens = ask(model, loaded.processor)
    found, found_tokens = ask(loaded.model, loaded.processor)
    assert (expected - found).abs().max() <= 1e-6
    assert found_tokens == tokens
    assert loaded.settings.training == {"seed": 1}
    untrained = ask(load_base(loaded.model.get_base_model().name_or_path).model, loaded.processor)[0]
    assert (expected - untrained).abs().max() > 0.1


def test_a_merged_adapter_answers_as_before(trained, tmp_path):
    folder, model = trained
    merge(folder, tmp_path / "merged")
    merged = load_checkpoint(tmp_path / "merged")
    expected, tokens = ask(model, merged.processor)
    found, found_tokens = ask(merged.model, merged.processor)
    assert (expected - found).abs().max() < 1e-4  # sums in another order
    assert found_tokens == tokens
    assert merged.settings == load_checkpoint(folder).settings
    with pytest.raises(ValueError, match="is not empty"):
        merge(folder, tmp_path / "merged")
    with pytest.raises(ValueError, match="nothing to merge"):
        merge(tmp_path / "merged", tmp_path / "again")


def test_the_merge_command_writes_a_folder_and_names_mistakes_in_one_line(trained, tmp_path, capsys):
    script = Path(__file__).parent.parent / "scripts" / "merge_lora_weights.py"
    main = runpy.run_path(str(script))["main"]
    main(["--model-path", str(trained[0]), "--save-path", str(tmp_path / "out")])
    assert capsys.readouterr().out == f"whole model written to {tmp_path / 'out'}\n"
    assert load_checkpoint(tmp_path / "out").settings.training == {"seed": 1}
    with pytest.raises(SystemExit, match=r"^error: checkpoint folder"):
        main(["--model-path", str(tmp_path / "none"), "--save-path", str(tmp_path / "other")])


def test_the_projector_stands_in_its_own_file(trained):
    folder, model = trained
    saved = load_file(folder / "projector.safetensors")
    here = model.get_base_model().model.multi_modal_projector.state_dict()
    assert sorted(saved) == sorted(here)
    assert all(torch.equal(saved[name], here[name]) for name in saved)


def test_gathered_tensors_are_saved_in_place_of_the_models_own(trained, tmp_path):
    folder, model = trained
    gathered = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    processor = load_checkpoint(folder).processor
    save_adapter(model, processor, tiny_settings(), tmp_path, state_dict=gathered)
    for file in ("projector.safetensors", "adapter_model.safetensors"):
        old, new = load_file(folder / file), load_file(tmp_path / file)
        assert old.keys() == new.keys()
        assert all(torch.equal(new[name], old[name] + 1) for name in old)


def test_the_base_is_found_beside_a_moved_adapter(copy):
    plain, adapter = copy
    config = adapter / "adapter_config.json"
    fields = json.loads(config.read_text())
    assert Path(fields["base_model_name_or_path"]).is_absolute()
    config.write_text(json.dumps(fields | {"base_model_name_or_path": "../plain"}))
    assert load_checkpoint(adapter).path == adapter
    shutil.rmtree(plain)
    with pytest.raises(FileNotFoundError, match=r"\.\./plain not found.*--model-base"):
        load_checkpoint(adapter)


def test_a_folder_without_segmentation_json_is_refused(copy):
    for folder in copy:
        (folder / "segmentation.json").unlink()
        with pytest.raises(FileNotFoundError, match=r"segmentation\.json not found"):
            load_checkpoint(folder)
    assert load_base(copy[0]).settings is None


def test_a_missing_a_left_over_and_a_misshapen_weight_are_named(copy):
    plain, _ = copy

    def spoil(tensors):
        tensors["multi_modal_projector.linear_3.weight"] = tensors.pop(
            "multi_modal_projector.linear_1.weight"
        )
        tensors["multi_modal_projector.linear_2.bias"] = torch.zeros(7)

    change_weights(plain / "model.safetensors", spoil)
    with pytest.raises(ValueError, match="does not fit Llava") as caught:
        load_checkpoint(plain)
    assert "1 missing: model.multi_modal_projector.linear_1.weight;" in str(caught.value)
    assert "1 unexpected: " in str(caught.value)
    assert "multi_modal_projector.linear_3.weight" in str(caught.value)
    assert "multi_modal_projector.linear_2.bias is (7,), needed (32,)" in str(caught.value)


@pytest.mark.parametrize(
    ("file", "error", "message"),
    [
        ("model.safetensors", FileNotFoundError, "cannot be read"),
        ("config.json", FileNotFoundError, r"config\.json not found"),
        ("processor_config.json", FileNotFoundError, "the processor"),
        ("tokenizer.json", FileNotFoundError, "the processor"),
    ],
)
def test_a_missing_file_of_a_plain_folder_is_named(copy, file, error, message):
    (copy[0] / file).unlink()
    with pytest.raises(error, match=message):
        load_checkpoint(copy[0])


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "projector.safetensors"])
def test_a_missing_or_cut_file_of_an_adapter_is_named(copy, file):
    weights_file = copy[1] / file
    weights_file.write_bytes(weights_file.read_bytes()[:500])
    with pytest.raises(ValueError, match=rf"{file} is damaged or cut off"):
        load_checkpoint(copy[1])
    weights_file.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{file} not found"):
        load_checkpoint(copy[1])


def test_a_cut_off_model_file_is_named(copy):
    file = copy[0] / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ValueError, match="damaged or cut off"):
        load_checkpoint(copy[0])


def test_an_adapter_of_the_original_key_layout_is_refused_with_its_keys(copy):
    def rename(tensors):
        for name in list(tensors):
            tensors[name.replace("model.model.language_model.layers", "model.model.layers")] = tensors.pop(
                name
            )

    change_weights(copy[1] / "adapter_model.safetensors", rename)
    with pytest.raises(
        ValueError, match=r"28 missing: base_model\.model.model.language_model.layers.0"
    ) as caught:
        load_checkpoint(copy[1])
    assert f"28 unexpected: {LLAMA_KEYS}0." in str(caught.value)


def test_an_adapter_of_another_rank_or_without_its_modules_is_refused(copy):
    config = copy[1] / "adapter_config.json"
    fields = json.loads(config.read_text())
    config.write_text(json.dumps(fields | {"r": 2}))
    with pytest.raises(
        ValueError, match=r"28 of another shape: .*lora_A.weight is \(4, 32\), needed \(2, 32\)"
    ):
        load_checkpoint(copy[1])
    config.write_text(json.dumps(fields | {"target_modules": ["no_such_layer"]}))
    with pytest.raises(ValueError, match="no_such_layer"):
        load_checkpoint(copy[1])


def test_a_projector_of_another_model_is_refused(copy):
    change_weights(copy[1] / "projector.safetensors", lambda tensors: tensors.pop("linear_2.bias"))
    with pytest.raises(ValueError, match=r"projector\.safetensors does not fit .* 1 missing: linear_2\.bias"):
        load_checkpoint(copy[1])


def test_a_projector_outside_its_place_is_not_saved(tiny_llava_folder, tmp_path):
    base = load_base(tiny_llava_folder)
    config = LoraConfig(r=2, target_modules=TARGETS, modules_to_save=["multi_modal_projector"])
    with pytest.raises(ValueError, match="train its weights in place"):
        save_adapter(get_peft_model(base.model, config), base.processor, tiny_settings(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_save_leaves_the_old_adapter_as_it_was(copy, trained, monkeypatch):
    _, adapter = copy
    before = {file.name: file.read_bytes() for file in adapter.iterdir()}
    processor = load_checkpoint(adapter).processor

    def full_disk(self, folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SegmentationSettings, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_adapter(trained[1], processor, tiny_settings(), adapter)
    assert {file.name: file.read_bytes() for file in adapter.iterdir()} == before


def test_a_kill_among_the_files_leaves_a_folder_that_is_refused(copy, trained, monkeypatch):
    _, adapter = copy
    processor = load_checkpoint(adapter).processor
    move = Path.replace

    def killed(self, target):
        if target == adapter / "projector.safetensors":
            raise KeyboardInterrupt
        return move(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_adapter(trained[1], processor, tiny_settings(), adapter)
    with pytest.raises(FileNotFoundError, match=r"segmentation\.json not found"):
        load_checkpoint(adapter)


def test_what_a_kill_left_goes_with_the_next_save(copy, trained):
    _, adapter = copy
    (adapter / ".writing").mkdir()
    (adapter / ".writing" / "model.safetensors").write_bytes(b"half of a model")
    names = sorted(file.name for file in adapter.iterdir() if file.is_file())
    save_adapter(trained[1], load_checkpoint(adapter).processor, tiny_settings(), adapter)
    assert sorted(file.name for file in adapter.iterdir()) == names


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("segmentation.json", {"image_side": 48}, "image_side 48, the vision tower needs 24"),
        ("segmentation.json", {"prompt": "v7"}, "prompt 'v7'; known: text4seg_v1"),
        ("config.json", {"image_token_index": 5, "image_token_id": 5}, "<image> is token 3 in the tokenizer"),
        ("config.json", {"model_type": "clip"}, "model_type is 'clip', needed is one of llava, llava_next"),
        ("config.json", {"mm_projector_type": "linear"}, "only 'mlp2x_gelu'"),
        ("processor_config.json", {"num_additional_image_tokens": 0}, "15 image tokens, .* 16 features"),
    ],
)
def test_parts_that_disagree_are_refused(copy, file, change, message):
    path = copy[0] / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        load_checkpoint(copy[0])


def test_wrong_places_get_clear_errors(copy, tmp_path):
    plain, adapter = copy
    with pytest.raises(FileNotFoundError, match=r"checkpoint folder .* not found"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"model folder .* not found"):
        load_base(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is an adapter; merge it first"):
        load_base(adapter)
    with pytest.raises(ValueError, match="not an adapter; leave the base model"):
        load_checkpoint(plain, base=plain)
    with pytest.raises(FileNotFoundError, match="someone/unknown: cannot be read"):
        load_base("someone/unknown")


def test_dtype_and_attention_follow_device_and_installation(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert weights.choose_dtype(cpu) == torch.float32
    for supported, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation, s=supported: s)
        assert weights.choose_dtype(gpu) == dtype
    monkeypatch.setattr(weights, "is_flash_attn_2_available", lambda: False)
    assert weights.choose_attention("auto", gpu, torch.bfloat16) == "sdpa"
    with pytest.raises(ValueError, match="flash_attention_2 is not installed"):
        weights.choose_attention("flash_attention_2", gpu, torch.bfloat16)
    monkeypatch.setattr(weights, "is_flash_attn_2_available", lambda: True)
    assert weights.choose_attention("auto", gpu, torch.bfloat16) == "flash_attention_2"
    assert weights.choose_attention("auto", gpu, torch.float32) == "sdpa"
    assert weights.choose_attention("auto", cpu, torch.bfloat16) == "sdpa"
    assert weights.choose_attention("eager", cpu, torch.float32) == "eager"
    with pytest.raises(ValueError, match="unknown attention 'fast'; known: auto, sdpa"):
        weights.choose_attention("fast", cpu, torch.float32)


def test_the_dtype_asked_for_is_the_dtype_of_the_model(tiny_llava_folder):
    for asked, given in (
        (torch.bfloat16, torch.bfloat16),
        ("float16", torch.float16),
        ("auto", torch.float32),
    ):
        assert load_checkpoint(tiny_llava_folder, device="cpu", dtype=asked).model.dtype == given
    with pytest.raises(ValueError, match="unknown dtype 'fp16'; known: float32, float16, bfloat16, auto"):
        load_checkpoint(tiny_llava_folder, dtype="fp16")


@pytest.mark.parametrize("device", ["tpu", "cuda:63"])
def test_a_device_that_is_not_here_is_told_with_those_that_are(device):
    with pytest.raises(ValueError, match=rf"device '{device}' is not here; this machine has cpu"):
        load_checkpoint(
            Path(__file__).parents[1] / "playground/checkpoints/tiny-llava-refshapes", device=device
        )

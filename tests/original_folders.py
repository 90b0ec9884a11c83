"""Tiny checkpoints in the layouts of other programs, renamed by hand from the classes of transformers."""

import io
import json
from functools import cache
from pathlib import Path

import sentencepiece
import torch
from conftest import CORPUS, TINY_PATCH, TINY_SIDE, tiny_llava
from safetensors.torch import save_file
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionModel,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

PIECES = 330
ROWS = 384
IMAGE_ID = PIECES
LORA_LEAVES = ("q_proj", "v_proj", "down_proj")


def write_tokenizer(folder: Path):
    """tokenizer.model as Llama's: byte fallback, no `<image>`; tokenizer_config.json as Vicuna's."""
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    fields = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "pad_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))


@cache
def sentencepiece_model():
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=written,
        model_type="bpe",
        vocab_size=PIECES,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return written.getvalue()


@cache
def config():
    """Configuration of `tiny_llava` with the vocabulary of an original folder, padded."""
    fields = tiny_llava()[0].config.to_dict()
    fields["text_config"] |= {"vocab_size": ROWS}
    return LlavaConfig(**fields | {"image_token_index": IMAGE_ID, "image_token_id": IMAGE_ID})


def by_hand():
    """The model that an original folder must become: its tensors put by hand into the classes."""
    fields = config()
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(fields).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.1)
        for table in (model.model.language_model.embed_tokens.weight, model.lm_head.weight):
            table[PIECES:] = table[:PIECES].mean(dim=0)
    return model


def original_tensors(model, tower=True):
    """State dict of `LlavaLlamaForCausalLM` with the weights of `model`."""
    language, clip = model.model.language_model.state_dict(), model.model.vision_tower.state_dict()
    projector = model.model.multi_modal_projector
    tensors = {f"model.{name}": tensor for name, tensor in language.items()}
    tensors["model.embed_tokens.weight"] = language["embed_tokens.weight"][:PIECES]
    tensors["lm_head.weight"] = model.lm_head.weight[:PIECES]
    for number, linear in (("0", projector.linear_1), ("2", projector.linear_2)):
        for kind in ("weight", "bias"):
            tensors[f"model.mm_projector.{number}.{kind}"] = getattr(linear, kind)
    if tower:
        mark = "model.vision_tower.vision_tower.vision_model."
        tensors |= {mark + name.removeprefix("vision_model."): tensor for name, tensor in clip.items()}
        tensors[f"{mark}embeddings.position_ids"] = torch.arange(17)[None]
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def original_fields(model, tower, **changes):
    """config.json of such a folder."""
    text = model.config.text_config
    names = "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads".split()
    names += "max_position_embeddings rms_norm_eps hidden_act bos_token_id eos_token_id".split()
    fields = {name: getattr(text, name) for name in names}
    fields |= {"architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava_llama", "vocab_size": PIECES}
    fields |= {"rope_theta": 10000.0, "rope_scaling": None, "torch_dtype": "float16", "pad_token_id": 0}
    fields |= {"mm_projector_type": "mlp2x_gelu", "mm_vision_tower": str(tower), "mm_hidden_size": 32}
    fields |= {"mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "use_mm_proj": True}
    fields |= {"mm_patch_merge_type": "flat", "image_aspect_ratio": "anyres", "mm_use_im_start_end": False}
    return fields | changes


def write_json(path: Path, fields):
    path.write_text(json.dumps(fields))


def write_tower(folder: Path, model):
    """The CLIP as a folder of its own, with the names and the text half that OpenAI's has on the hub."""
    tower = CLIPVisionModel(model.config.vision_config)
    here, given = tower.state_dict(), model.model.vision_tower.state_dict()
    tower.load_state_dict(
        {name: given[name if name in given else name.removeprefix("vision_model.")] for name in here}
    )
    tower.save_pretrained(folder)
    sides = {"height": TINY_SIDE, "width": TINY_SIDE}
    CLIPImageProcessorPil(size={"shortest_edge": TINY_SIDE}, crop_size=sides).save_pretrained(folder)
    assert model.config.vision_config.patch_size == TINY_PATCH


def write_whole(folder: Path, model, tower, *, with_tower=True, parts=1, **changes):
    """An original folder: one safetensors file, or several .bin parts with their index."""
    folder.mkdir()
    write_tokenizer(folder)
    write_json(folder / "config.json", original_fields(model, tower, **changes))
    tensors = original_tensors(model, with_tower)
    if parts == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    places = {}
    for part in range(parts):
        name = f"pytorch_model-{part + 1:05}-of-{parts:05}.bin"
        held = dict(list(tensors.items())[part::parts])
        torch.save(held, folder / name)
        places |= dict.fromkeys(held, name)
    write_json(folder / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": places})
    return folder


def write_llama(folder: Path, model):
    """The language model alone, as Vicuna is published."""
    fields = model.config.text_config.to_dict() | {"vocab_size": PIECES}
    llama = LlamaForCausalLM(type(model.config.text_config)(**fields))
    tensors = original_tensors(model, tower=False)
    llama.load_state_dict({name: tensors[name] for name in llama.state_dict()})
    llama.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def projector_tensors(model, mark="model.mm_projector."):
    return {
        f"{mark}{number}.{kind}": getattr(linear, kind).detach().clone()
        for number, linear in (
            ("0", model.model.multi_modal_projector.linear_1),
            ("2", model.model.multi_modal_projector.linear_2),
        )
        for kind in ("weight", "bias")
    }


def write_projector(folder: Path, model, tower, base):
    """What stage 1 of LLaVA leaves: the projector and a config."""
    folder.mkdir()
    write_json(folder / "config.json", original_fields(model, tower, _name_or_path=str(base)))
    torch.save(projector_tensors(model), folder / "mm_projector.bin")
    return folder


def lora_tensors(model, rank=2, seed=3):
    """Random LoRA of the language model by the original's names."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in model.model.language_model.named_modules():
        if name.endswith(LORA_LEAVES):
            rows, columns = module.weight.shape
            start = f"base_model.model.model.{name}"
            tensors[f"{start}.lora_A.weight"] = torch.randn(rank, columns, generator=generator) / 5
            tensors[f"{start}.lora_B.weight"] = torch.randn(rows, rank, generator=generator) / 5
    return tensors


def write_lora(folder: Path, model, tower, base):
    """A LoRA folder: adapter, config, and the projector among the other trained tensors."""
    folder.mkdir()
    write_json(folder / "config.json", original_fields(model, tower))
    fields = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 6, "lora_dropout": 0.05}
    fields |= {"bias": "none", "target_modules": list(LORA_LEAVES), "inference_mode": True}
    write_json(folder / "adapter_config.json", fields | {"base_model_name_or_path": str(base)})
    torch.save(lora_tensors(model), folder / "adapter_model.bin")
    trained = projector_tensors(model, "base_model.model.model.mm_projector.")
    torch.save(trained, folder / "non_lora_trainables.bin")
    return folder


def merged_by_hand(model):
    """`model` with the LoRA of `write_lora` added to its weights, alpha 6 over rank 2."""
    tensors = lora_tensors(model)
    with torch.no_grad():
        for name, module in model.model.language_model.named_modules():
            start = f"base_model.model.model.{name}"
            if f"{start}.lora_A.weight" in tensors:
                module.weight += 3 * tensors[f"{start}.lora_B.weight"] @ tensors[f"{start}.lora_A.weight"]
    return model


def logits(model):
    """Logits (22, 384) of fixed pixels and ids, `<image>` among them."""
    pixels = torch.linspace(-1, 1, 3 * TINY_SIDE * TINY_SIDE).reshape(1, 3, TINY_SIDE, TINY_SIDE)
    ids = torch.tensor([[1, 20, 30] + [IMAGE_ID] * 16 + [40, 50, 60]])
    with torch.no_grad():
        return model(input_ids=ids, pixel_values=pixels).logits[0]

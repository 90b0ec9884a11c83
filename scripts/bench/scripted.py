"""A LLaVA with random weights that writes given answers: real computation, scripted choices.

What a pass costs does not depend on the weights, but which passes there are depends on the answer. Here every
pass computes all that it computes in a trained model of the size, and then its scores are replaced by ones
that want the next token of the script.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from llava.constants import IMAGE_TOKEN
from llava.model.checkpoint import Checkpoint
from llava.model.original_tokenizer import original_tokenizer
from llava.model.weights import choose_attention
from llava.settings import SegmentationSettings

IMAGE_SIDE, PATCH = 336, 14


class Size(NamedTuple):
    """Widths of a language model and its vision tower, and how many layers they have."""

    hidden: int
    inner: int
    layers: int
    heads: int
    vision_hidden: int
    vision_layers: int


SIZES = {
    "7b": Size(4096, 11008, 32, 32, 1024, 24),
    "small": Size(768, 2048, 6, 12, 192, 2),
    "tiny": Size(32, 64, 2, 2, 32, 1),
}
"""LLaVA-1.5-7B, one that a CPU computes in bearable time, and one for tests."""


def random_llava(
    size: Size,
    tokenizer: Any,  # noqa: ANN401
    *,
    device: torch.device,
    dtype: torch.dtype | str,
    attn: str = "auto",
) -> tuple[Any, Any]:
    """(model, processor) of LLaVA-1.5 with random weights.

    Args:
        size: of the parts.
        tokenizer: with `<image>`; the vocabulary is padded to a multiple of 64, as the converted one is.
        device: where the weights are drawn.
        dtype: of the weights.
        attn: attention implementation, see `llava.model.weights.ATTENTIONS`.
    """
    sides = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIDE}, crop_size=sides),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=size.vision_hidden,
            intermediate_size=4 * size.vision_hidden,
            num_hidden_layers=size.vision_layers,
            num_attention_heads=max(size.vision_hidden // 64, 1),
            image_size=IMAGE_SIDE,
            patch_size=PATCH,
        ),
        text_config=LlamaConfig(
            hidden_size=size.hidden,
            intermediate_size=size.inner,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            vocab_size=-(-len(tokenizer) // 64) * 64,
            max_position_embeddings=4096,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        vision_feature_layer=-1 if size.vision_layers < 2 else -2,
    )
    torch.manual_seed(0)
    with device:
        model = LlavaForConditionalGeneration._from_config(
            config, dtype=dtype, attn_implementation=choose_attention(attn, device, dtype)
        )
    return model.eval(), processor


class Script:
    """Makes a model write one answer at a time.

    Places are counted by the length of the cache, from which rejected guesses are cut off. A pass that fills
    the whole cache reads a prompt, perhaps with a guess behind, whose scores alone are asked for.

    Args:
        model: gets a hook that replaces its scores.
    """

    def __init__(self, model: Any) -> None:  # noqa: ANN401
        self._answer: list[int] = []
        self._prompt = 0
        model.register_forward_hook(self._replace, with_kwargs=True)

    def set(self, answer: Sequence[int]) -> None:
        """Take the tokens of the next answer, the end included."""
        self._answer = list(answer)

    def _replace(self, _model: Any, _args: Any, given: dict[str, Any], output: Any) -> Any:  # noqa: ANN401
        """Scores of 1 at the token of the script that follows each place, of 0 elsewhere."""
        scores, length = output.logits, output.past_key_values.get_seq_length()
        if len(scores) != 1:
            raise ValueError(f"{len(scores)} answers in a pass; a script is for one, ask with --batch 1")
        if given["input_ids"].shape[1] == length:
            self._prompt = length - scores.shape[1] + 1
        places = range(length - scores.shape[1] + 1 - self._prompt, length + 1 - self._prompt)
        wanted = [self._answer[min(place, len(self._answer) - 1)] for place in places]
        scores.zero_()
        scores[0, range(len(wanted)), wanted] = 1.0
        return output


def scripted(
    size: str, tokenizer: Path, side: int, *, device: torch.device, dtype: torch.dtype | str
) -> tuple[Checkpoint, Script]:
    """Checkpoint of a model of a size and the script that it follows.

    Args:
        size: a key of `SIZES`.
        tokenizer: folder of the tokenizer of Llama.
        side: side of the grid.
        device: of the model.
        dtype: of the model.
    """
    model, processor = random_llava(SIZES[size], original_tokenizer(tokenizer), device=device, dtype=dtype)
    settings = SegmentationSettings(grid_hw=(side, side))
    return Checkpoint(model, processor, settings, Path(f"LLaVA-1.5 {size}, random weights")), Script(model)

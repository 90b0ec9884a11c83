"""Greedy answers of a model in training, judged on the val split."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from rounds import draw_expression
from tiny_llava import Llava
from transformers import LlavaProcessor

from llava.data.prompt import render
from llava.data.questions import EVAL_QUESTION, fill, normalise_expression
from llava.data.refshapes.split import render as render_scene
from llava.data.refshapes.split import scene_rng
from llava.data.tokens import pixel_values, tokenize
from llava.model.mask_text import mask_text
from llava.settings import SegmentationSettings


class ValSplit:
    """Questions about val scenes and their true masks, to judge greedy answers."""

    def __init__(self, count: int, seed: int) -> None:
        self.items = []
        for index in range(count):
            scene, pixels = render_scene(seed, "val", index)
            expression = draw_expression(scene, scene_rng(seed, "val", index, purpose=9))
            mask = np.zeros(scene.size_hw, dtype=bool)
            for target in expression.targets:
                mask |= scene.masks[target]
            self.items.append((Image.fromarray(pixels), expression, mask))

    def judge(
        self, model: Llava, processor: LlavaProcessor, settings: SegmentationSettings
    ) -> dict[str, float]:
        """Coarse cIoU and gIoU over targeted questions, N-acc, and the share of answers with faults."""
        form = mask_text(settings)
        inter = union = faults = absent = right = 0
        ious = []
        pad = processor.tokenizer.pad_token_id
        for start in range(0, len(self.items), 50):
            part = self.items[start : start + 50]
            prompts = []
            for _, expression, _ in part:
                text = fill(EVAL_QUESTION, normalise_expression(expression.text))
                prompts.append(tokenize(render(settings.prompt, [(f"<image>\n{text}", None)]), processor)[0])
            longest = max(map(len, prompts))
            ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts])
            images = pixel_values([image for image, _, _ in part], processor, settings)
            out = model.generate(
                input_ids=ids,
                attention_mask=(ids != pad).long(),
                pixel_values=images,
                do_sample=False,
                max_new_tokens=220,
            )
            texts = processor.tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True)
            for text, (_, expression, truth) in zip(texts, part, strict=True):
                answer = form.read(text)
                faults += bool(answer.faults)
                found = form.mask(answer, truth.shape)
                if not expression.targets:
                    absent += 1
                    right += not found.any()
                    continue
                both, either = (found & truth).sum(), (found | truth).sum()
                inter, union = inter + both, union + either
                ious.append(both / max(either, 1))
        return {
            "ciou": round(float(inter / max(union, 1)), 4),
            "giou": round(float(np.mean(ious)), 4),
            "n_acc": round(right / max(absent, 1), 4),
            "invalid": round(faults / len(self.items), 4),
        }

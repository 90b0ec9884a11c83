import torch

from llava.constants import IGNORE_INDEX
from llava.train.batch import Collator


def test_a_batch_is_padded_on_the_right_and_padding_is_not_learnt():
    rows = [{"input_ids": torch.tensor(row), "labels": torch.tensor(row)} for row in ([5, 6, 7], [8])]
    rows[0]["pixel_values"] = torch.zeros(1, 3, 4, 4)
    batch = Collator(pad_id=0)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["labels"].tolist() == [[5, 6, 7], [8, IGNORE_INDEX, IGNORE_INDEX]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["pixel_values"].shape == (1, 3, 4, 4)

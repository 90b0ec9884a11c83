"""Real tokenizers from the folder named by TEXT4SEG_REAL_DATA, for tests marked real_data."""

import base64
import functools
import os
from pathlib import Path

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
"""How Qwen2 cuts a text into words (tokenizer.json of Qwen/Qwen2-7B)."""


def tokenizer_folder(name: str) -> Path:
    return Path(os.environ["TEXT4SEG_REAL_DATA"]) / "tokenizers" / name


@functools.cache
def llama2():
    """Fast tokenizer of Llama 2, 32000 pieces and `<image>`."""
    from llava.model.original_tokenizer import original_tokenizer

    return original_tokenizer(tokenizer_folder("llama2"))


def byte_letters():
    """Letter that stands for each byte in a byte-level vocabulary: itself where it prints."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]


@functools.cache
def qwen():
    """Fast tokenizer of Qwen2 from its byte ranks: neighbours join in the order of their union's rank."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letter = byte_letters()
    lines = (tokenizer_folder("qwen") / "qwen.tiktoken").read_bytes().splitlines()
    words = ["".join(letter[byte] for byte in base64.b64decode(line.split()[0])) for line in lines]
    ids = {word: rank for rank, word in enumerate(words)}
    merges = [
        (word[:cut], word[cut:])
        for word in words
        for cut in range(1, len(word))
        if word[:cut] in ids and word[cut:] in ids
    ]
    tokenizer = Tokenizer(models.BPE(ids, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )

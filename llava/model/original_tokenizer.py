"""Tokenizers of original LLaVA folders: often a sentencepiece file alone, always without `<image>`."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

from transformers import LlamaTokenizer, PreTrainedTokenizerFast

from llava.constants import IMAGE_TOKEN

SENTENCEPIECE_FILE = "tokenizer.model"
FAST_FILE = "tokenizer.json"
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds the files of a tokenizer."""
    return (folder / SENTENCEPIECE_FILE).is_file() or (folder / FAST_FILE).is_file()


def original_tokenizer(folder: Path) -> Any:  # noqa: ANN401
    """Fast tokenizer of a folder, with `<image>` as its last token where it has none.

    The original code cuts a prompt at `<image>` and tokenizes both parts by themselves, so that the second
    begins with the space that Llama's tokenizer puts in front of every text. A fast tokenizer from the
    sentencepiece file does the same behind a special token when its space is put "always" in front, which is
    the form chosen here: one question about an image then has the very ids that the weights were trained on.
    In later rounds the word behind `</s>` gets such a space too, which the original leaves out.

    Args:
        folder: with tokenizer.model or tokenizer.json; the first is preferred, since it leaves no doubt.

    Raises:
        FileNotFoundError: neither is there.
        ValueError: tokenizer.model needs the package sentencepiece, or cannot be read.
    """
    if not has_tokenizer(folder):
        raise FileNotFoundError(
            f"{folder} holds neither {SENTENCEPIECE_FILE} nor {FAST_FILE}; copy the tokenizer of its base"
        )
    readable = importlib.util.find_spec("sentencepiece") is not None
    if (folder / SENTENCEPIECE_FILE).is_file() and readable:
        tokenizer = _from_sentencepiece(folder)
    elif (folder / FAST_FILE).is_file():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    else:
        raise ValueError(
            f"{folder / SENTENCEPIECE_FILE} is a sentencepiece file; pip install sentencepiece to read it"
        )
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
    return tokenizer


def _from_sentencepiece(folder: Path) -> PreTrainedTokenizerFast:
    """The sentencepiece model as a plain fast tokenizer, which is saved and read again as it is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # of the bindings that sentencepiece is built on
            read = LlamaTokenizer.from_pretrained(folder, legacy=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{folder / SENTENCEPIECE_FILE} cannot be read ({error}); copy it again") from error
    special = {name: getattr(read, name) for name in _SPECIAL if getattr(read, name) is not None}
    return PreTrainedTokenizerFast(
        tokenizer_object=read.backend_tokenizer, clean_up_tokenization_spaces=False, **special
    )

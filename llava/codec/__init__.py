"""Mask to text and back: numpy only."""

from llava.codec.answer import Answer, mask_answer, read_answer
from llava.codec.from_rle import rle_to_grid, run_lengths
from llava.codec.grid import grid_to_mask, mask_to_grid, sample_centres
from llava.codec.labels import clean_label
from llava.codec.runs import FAULTS, Decoded, Fault, decode, encode

__all__ = [
    "FAULTS",
    "Answer",
    "Decoded",
    "Fault",
    "clean_label",
    "decode",
    "encode",
    "grid_to_mask",
    "mask_answer",
    "mask_to_grid",
    "read_answer",
    "rle_to_grid",
    "run_lengths",
    "sample_centres",
]

"""Mask to text and back: numpy only."""

from llava.codec.answer import Answer, mask_answer, read_answer
from llava.codec.boxes import Box, box_edges, mask_from_box, mask_in_box, quantise_box, tight_box
from llava.codec.boxwise import Block, BoxAnswer, block_of, box_answer, read_boxes, write_block
from llava.codec.bricks import decode_bricks, encode_bricks
from llava.codec.from_rle import rle_to_grid, run_lengths
from llava.codec.grid import grid_to_mask, mask_to_grid, sample_centres
from llava.codec.labels import clean_label, clean_reference
from llava.codec.runs import FAULTS, Decoded, Fault, decode, encode

__all__ = [
    "FAULTS",
    "Answer",
    "Block",
    "Box",
    "BoxAnswer",
    "Decoded",
    "Fault",
    "block_of",
    "box_answer",
    "box_edges",
    "clean_label",
    "clean_reference",
    "decode",
    "decode_bricks",
    "encode",
    "encode_bricks",
    "grid_to_mask",
    "mask_answer",
    "mask_from_box",
    "mask_in_box",
    "mask_to_grid",
    "quantise_box",
    "read_answer",
    "read_boxes",
    "rle_to_grid",
    "run_lengths",
    "sample_centres",
    "tight_box",
    "write_block",
]

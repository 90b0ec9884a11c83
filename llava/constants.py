"""Literals shared by every part, each with its origin."""

BACKGROUND = "others"
"""Label of every cell that belongs to no named region (Text4Seg, arXiv 2410.09855)."""

SEG_OPEN = "<seg>"
SEG_CLOSE = "</seg>"
"""Tags around a mask text. Plain text, no added special tokens (Text4Seg)."""

IMAGE_TOKEN = "<image>"
"""Place of the image in a LLaVA conversation."""

IGNORE_INDEX = -100
"""Label value that the cross-entropy of transformers leaves out."""

SEGMENTATION_FILE = "segmentation.json"
"""What a checkpoint is: system, codec, grid, prompt. Written beside its weights."""

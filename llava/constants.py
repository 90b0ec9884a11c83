"""Literals shared by every part, each with its origin."""

BACKGROUND = "others"
"""Label of every cell that belongs to no named region (Text4Seg, arXiv 2410.09855)."""

SEG_OPEN = "<seg>"
SEG_CLOSE = "</seg>"
"""Tags around a mask text. Plain text, no added special tokens (Text4Seg)."""

REF_OPEN, REF_CLOSE = "<ref>", "</ref>"
BOX_OPEN, BOX_CLOSE = "<box>", "</box>"
"""Tags around the words and the box of a box-wise mask (Text4Seg++, arXiv 2509.06321)."""

LONGEST_BRICK = 63
"""Most cells of one brick (Text4Seg++)."""

FOREGROUND_BRICKS = tuple(f"<f{cells}>" for cells in range(1, LONGEST_BRICK + 1))
BACKGROUND_BRICKS = tuple(f"<b{cells}>" for cells in range(1, LONGEST_BRICK + 1))
"""Semantic bricks: a run of 1 to 63 cells inside or outside. Their spelling is ours, the paper gives none."""

BRICK_TAGS = (REF_OPEN, REF_CLOSE, BOX_OPEN, BOX_CLOSE, SEG_OPEN, SEG_CLOSE)
BRICK_TOKENS = (*BRICK_TAGS, *FOREGROUND_BRICKS, *BACKGROUND_BRICKS)
"""What box-wise masks add to a tokenizer, in this order, as ordinary tokens: 6 tags and 126 bricks."""

IMAGE_TOKEN = "<image>"
"""Place of the image in a LLaVA conversation."""

IGNORE_INDEX = -100
"""Label value that the cross-entropy of transformers leaves out."""

SEGMENTATION_FILE = "segmentation.json"
"""What a checkpoint is: system, codec, grid, prompt. Written beside its weights."""

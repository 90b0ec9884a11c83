"""RefShapes on disk: exactly the files of RefCOCO (REFER) and of gRefCOCO.

    ROOT/images/refshapes/train_000000.jpg …
    ROOT/refshapes/instances.json, refs(unc).p          one object per ref, up to three sentences
    ROOT/grefshapes/instances.json, grefs(unc).json     several targets and no target as well

The two datasets share their images. testA names objects by their look, testB by comparison with others.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from tqdm import tqdm

from llava.data.refshapes.phrases import (
    COMPARISONS,
    KIND_WEIGHTS,
    LOOKS,
    Expression,
    sample_absent,
    sample_several,
    sample_single,
)
from llava.data.refshapes.scene import NEW_SHAPES, SHAPES, Scene
from llava.data.refshapes.split import SPLIT_CODES, render, scene_rng
from llava.files import atomic_path, write_text_atomic

SPLIT_KINDS = {
    "train": tuple(KIND_WEIGHTS),
    "val": tuple(KIND_WEIGHTS),
    "testA": LOOKS,
    "testB": COMPARISONS,
}
"""Kinds of expressions in each split of `refshapes`."""

SENTENCES = 3
"""Most sentences of one ref."""

JPEG_QUALITY = 92

IDS_PER_SCENE = 100
"""Ids of a scene's annotations, refs and sentences start at its number times this."""

WORDING, GENERAL_WORDING = 1, 2
"""Purposes of the random streams that draw the sentences of the two datasets."""


@dataclass
class _Files:
    """Records of the files of one dataset."""

    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    refs: list[dict[str, Any]] = field(default_factory=list)
    general_refs: list[dict[str, Any]] = field(default_factory=list)


def write_refshapes(
    root: Path,
    counts: Mapping[str, int],
    *,
    seed: int = 0,
    shapes: tuple[str, ...] = SHAPES,
    workers: int = 1,
) -> dict[str, int]:
    """Draw the benchmark and write both datasets.

    Args:
        root: folder that receives `images`, `refshapes` and `grefshapes`.
        counts: scenes of each split, for example {"train": 1000, "val": 100}.
        seed: everything follows from it; scene i of a split does not depend on the counts.
        shapes: shapes that the scenes show.
        workers: processes that draw.

    Returns:
        Number of scenes, objects and sentences written, by name.

    Raises:
        ValueError: unknown split or shape, or a negative count.
    """
    _check(counts, shapes)
    root = Path(root)
    folder = root / "images" / "refshapes"
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(split, index) for split in SPLIT_CODES for index in range(counts.get(split, 0))]
    files = _Files()
    work = partial(_write_scene, folder=folder, seed=seed, shapes=shapes)
    with ProcessPoolExecutor(workers) as pool:
        drawn = pool.map(work, jobs, chunksize=16)
        for records in tqdm(drawn, total=len(jobs), desc="RefShapes", unit="scene"):
            files.images.append(records["image"])
            files.annotations += records["annotations"]
            files.refs += records["refs"]
            files.general_refs += records["general_refs"]
    _write_files(root, files, shapes)
    sentences = sum(len(ref["sentences"]) for ref in files.refs)
    general = sum(len(ref["sentences"]) for ref in files.general_refs)
    return {
        "scenes": len(jobs),
        "objects": len(files.annotations),
        "refshapes sentences": sentences,
        "grefshapes sentences": general,
    }


def _check(counts: Mapping[str, int], shapes: tuple[str, ...]) -> None:
    unknown = [split for split in counts if split not in SPLIT_CODES]
    if unknown or any(count < 0 for count in counts.values()) or not sum(counts.values()):
        raise ValueError(
            f"counts {dict(counts)}: give scenes for some of {', '.join(SPLIT_CODES)}, none negative"
        )
    known = SHAPES + NEW_SHAPES
    if not shapes or any(shape not in known for shape in shapes):
        raise ValueError(f"shapes {', '.join(shapes) or '(none)'}: known are {', '.join(known)}")


def _write_scene(job: tuple[str, int], *, folder: Path, seed: int, shapes: tuple[str, ...]) -> dict[str, Any]:
    """Draw one scene, save its picture, return its records."""
    split, index = job
    scene, pixels = render(seed, split, index, shapes)
    number = list(SPLIT_CODES).index(split) * 1_000_000 + index
    file_name = f"{split}_{index:06d}.jpg"
    with atomic_path(folder / file_name) as temporary:
        Image.fromarray(pixels).save(temporary, quality=JPEG_QUALITY, subsampling=0)
    height, width = scene.size_hw
    image = {"id": number, "file_name": file_name, "height": height, "width": width}
    base = number * IDS_PER_SCENE
    ref = {"image_id": number, "file_name": f"{split}_{index:06d}_0.jpg", "split": split}
    single = _single_expressions(scene, split, scene_rng(seed, split, index, WORDING))
    general = _general_expressions(scene, scene_rng(seed, split, index, GENERAL_WORDING), shapes)
    return {
        "image": image,
        "annotations": [_annotation(scene, k, number, base + k) for k in range(len(scene.items))],
        "refs": [
            {
                **ref,
                **_ref_fields(base + 10 * k, expressions),
                "ann_id": base + k,
                "category_id": _category(scene, k),
            }
            for k, expressions in enumerate(single)
            if expressions
        ],
        "general_refs": [
            {
                **ref,
                **_ref_fields(base + 10 * k, [expression]),
                "ann_id": [base + target for target in expression.targets] or [-1],
                "category_id": [_category(scene, target) for target in expression.targets] or [-1],
                "no_target": not expression.targets,
            }
            for k, expression in enumerate(general)
        ],
    }


def _single_expressions(scene: Scene, split: str, rng: np.random.Generator) -> list[list[Expression]]:
    """Sentences of every object, of the kinds of the split."""
    return [
        sample_single(scene, k, rng, count=SENTENCES, kinds=SPLIT_KINDS[split])
        for k in range(len(scene.items))
    ]


def _general_expressions(scene: Scene, rng: np.random.Generator, shapes: tuple[str, ...]) -> list[Expression]:
    """Two single targets, up to two of several targets, two of no target."""
    chosen = rng.choice(len(scene.items), min(2, len(scene.items)), replace=False)
    expressions = [found for k in chosen for found in sample_single(scene, int(k), rng, count=1)]
    expressions += [found for found in (sample_several(scene, rng) for _ in range(2)) if found]
    expressions += [sample_absent(scene, rng, shapes) for _ in range(2)]
    return list({expression.text: expression for expression in expressions}.values())


def _category(scene: Scene, index: int) -> int:
    return (SHAPES + NEW_SHAPES).index(scene.items[index].shape) + 1


def _ref_fields(first_id: int, expressions: list[Expression]) -> dict[str, Any]:
    """Ids and sentences of one ref; the kind of a sentence stands in its `group`."""
    sentences = [
        {
            "sent_id": first_id + k,
            "sent": expression.text,
            "raw": expression.text,
            "tokens": expression.text.split(),
            "group": expression.kind,
        }
        for k, expression in enumerate(expressions)
    ]
    return {"ref_id": first_id, "sent_ids": [s["sent_id"] for s in sentences], "sentences": sentences}


def _annotation(scene: Scene, index: int, image_id: int, ann_id: int) -> dict[str, Any]:
    """COCO annotation of an object's visible part, in the RLE-list form of REFER."""
    mask = scene.masks[index].astype(np.uint8)
    rle = coco_mask.encode(np.asfortranarray(mask))
    x, y, width, height = cv2.boundingRect(mask)
    return {
        "id": ann_id,
        "image_id": image_id,
        "category_id": _category(scene, index),
        "iscrowd": 0,
        "area": int(mask.sum()),
        "bbox": [float(x), float(y), float(width), float(height)],
        "segmentation": [{"size": list(scene.size_hw), "counts": rle["counts"].decode("ascii")}],
    }


def _write_files(root: Path, files: _Files, shapes: tuple[str, ...]) -> None:
    instances = {
        "info": {"description": f"RefShapes, generated; shapes: {', '.join(shapes)}"},
        "licenses": [],
        "images": files.images,
        "annotations": files.annotations,
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(SHAPES + NEW_SHAPES)],
    }
    for dataset in ("refshapes", "grefshapes"):
        write_text_atomic(root / dataset / "instances.json", json.dumps(instances))
    with atomic_path(root / "refshapes" / "refs(unc).p") as temporary:
        temporary.write_bytes(pickle.dumps(files.refs, protocol=2))
    write_text_atomic(root / "grefshapes" / "grefs(unc).json", json.dumps(files.general_refs))

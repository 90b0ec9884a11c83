"""Drawn datasets in REFER layout for tests: two 20 x 30 images, a handful of annotations."""

import json
import pickle

from PIL import Image

SIZE_HW = (20, 30)
SQUARE = [2, 2, 10, 2, 10, 10, 2, 10]
"""Polygon that covers rows 2-9 and columns 2-9: 64 pixels."""


def annotation(ann_id, segmentation, *, image_id=1, **more):
    record = {
        "id": ann_id,
        "image_id": image_id,
        "segmentation": segmentation,
        "iscrowd": 0,
        "category_id": 1,
    }
    return {**record, "bbox": [2.0, 2.0, 8.0, 8.0], **more}


def ref(ref_id, ann_id, sentences, *, image_id=1, split="val", **more):
    listed = [
        {"tokens": text.split(), "raw": text.upper(), "sent": text, "sent_id": 10 * ref_id + number}
        for number, text in enumerate(sentences)
    ]
    record = {"ref_id": ref_id, "ann_id": ann_id, "image_id": image_id, "split": split, "sentences": listed}
    return {**record, "file_name": f"COCO_train2014_00000000000{image_id}_16.jpg", **more}


def images():
    return [
        {"id": number, "file_name": f"COCO_train2014_00000000000{number}.jpg", "height": 20, "width": 30}
        for number in (1, 2)
    ]


def write_dataset(root, refs, annotations, *, dataset="refcoco", refs_name="refs(unc).p"):
    """Write refs, instances.json and the images; return the root."""
    folder = root / dataset
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / refs_name
    if path.suffix == ".p":
        path.write_bytes(pickle.dumps(refs, 2))
    else:
        path.write_text(json.dumps(refs))
    (folder / "instances.json").write_text(json.dumps({"images": images(), "annotations": annotations}))
    pictures = root / "images" / "mscoco" / "images" / "train2014"
    pictures.mkdir(parents=True, exist_ok=True)
    for image in images():
        Image.new("RGB", (SIZE_HW[1], SIZE_HW[0]), (90, 120, 60)).save(pictures / image["file_name"])
    return root

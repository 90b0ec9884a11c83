"""One drawn folder for every dataset that a create_*.py builds, in the layout its reader knows."""

import json
import shutil

import test_reader_conversations as conversations
import test_reader_dcube as dcube
import test_reader_earthreason as earthreason
import test_reader_muse as muse
import test_reader_own as own
import test_reader_panoptic as panoptic
import test_reader_parts as parts
import test_reader_pix2cap as pix2cap
import test_reader_reasonseg as reasonseg
import test_reader_semantic as semantic
from PIL import Image
from refer_folder import SQUARE, annotation, ref, write_dataset

from llava.data.rle import encode_mask

SHIFTED = [value + 10 for value in SQUARE]


def refer(root, *, dataset="refcoco", refs_name="refs(unc).p", refs=None, annotations=None):
    """A REFER set: a ref of image 1 and one of image 2 in train."""
    refs = refs or [ref(1, 5, ["left dog"], split="train"), ref(3, 7, ["cat"], split="train", image_id=2)]
    annotations = annotations or [annotation(5, [SQUARE]), annotation(7, [SQUARE], image_id=2)]
    return write_dataset(root, refs, annotations, dataset=dataset, refs_name=refs_name)


def grefcoco(root):
    refs = [
        ref(1, [5, 6], ["both dogs"], split="train", no_target=False),
        ref(2, [-1], ["a cow"], split="train", no_target=True),
        ref(3, [5], [], split="train", no_target=False),
    ]
    both = [annotation(5, [SQUARE]), annotation(6, [SHIFTED])]
    return refer(root, dataset="grefcoco", refs_name="grefs(unc).json", refs=refs, annotations=both)


def refzom(root):
    refs = [ref(1, [5], ["a dog"], split="train", source="one"), ref(2, [], ["a cow"], split="train")]
    refs[1]["source"] = "zero"
    return refer(root, dataset="refzom", refs_name="refs(final).p", refs=refs)


def rrsisd(root):
    tall = encode_mask(parts.box(2, 2, 10, 10))
    refs = [ref(7, 5, ["the harbour on the left"], image_id=2, split="train")]
    refer(root, dataset="rrsisd", refs=refs, annotations=[annotation(5, [tall], image_id=2)])
    (root / "images/rrsisd").mkdir(parents=True)
    shutil.move(root / "images/mscoco/images/train2014", root / "images/rrsisd/JPEGImages")
    return root


def earth(root):
    earthreason.write(root, "7")
    shutil.move(root / "earthreason/val", root / "earthreason/train")
    return root


def paco(root):
    mug = [parts.annotation(10, 1, parts.box(0, 0, 16, 16)), parts.annotation(12, 7, parts.box(2, 6, 12, 14))]
    return parts.write_paco(root, mug)


def label_map(name):
    """Function that writes two classes of a dataset with label maps."""
    return lambda root: semantic.write(root, name, semantic.labels(1, 2))


def llava(root):
    records = [conversations.with_image(), conversations.record("Hi", "Ho")]
    (root / "coco/train2017").mkdir(parents=True)
    Image.new("RGB", (30, 20)).save(root / "coco/train2017/000000000009.jpg")
    return conversations.write(root / "llava_v1_5_mix665k.json", records)


FOLDERS = {
    "create_refcoco": refer,
    "create_grefercoco": grefcoco,
    "create_ref_zom": refzom,
    "create_rrsisd": rrsisd,
    "create_reasonseg": lambda root: reasonseg.write(
        root, {"a": reasonseg.record([reasonseg.shape("target", reasonseg.SQUARE)], is_sentence=True)}
    ),
    "create_muse": lambda root: muse.write(root, [muse.record(["What is hot?"], [[muse.CUP, muse.POT]])]),
    "create_earthreason": earth,
    "create_d_cube": lambda root: dcube.write(root, dcube.tables()),
    "create_pix2cap": lambda root: pix2cap.write(root, [pix2cap.annotation(pix2cap.GOOD)]),
    "create_cocostuff": label_map("cocostuff"),
    "create_ade20k": label_map("ade20k"),
    "create_ade20k847": label_map("ade20k847"),
    "create_voc20": label_map("voc20"),
    "create_pascal_context": label_map("pc59"),
    "create_mapillary": label_map("mapillary"),
    "create_paco_lvis": paco,
    "create_pascal_part": lambda root: parts.write_mat(root, "2008_000008", [parts.DOG]),
    "create_coco_panoptic": lambda root: panoptic.write(root, [panoptic.annotation()]),
    "create_llava": llava,
    "create_own": lambda root: own.write(root, own.ROWS),
}
"""Command -> function that writes its dataset's train split (D-cube: all) under a root."""


def held_out_refs(root, image_id, *, dataset="refcoco"):
    """A RefCOCO whose val split shows one COCO image; its images and annotations are not needed."""
    folder = root / dataset
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "refs(unc).json").write_text(json.dumps([ref(1, 5, ["dog"], image_id=image_id)]))

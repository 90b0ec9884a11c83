"""PACO-LVIS and PASCAL-Part. No real file is at hand: they are drawn from the published schemas.

The MATLAB files are written by scipy with the fields that two published readers take; the part codes are
those that a published listing of the real files has.
"""

import json
import pickle

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from llava.data.annotated import collect, part_phrase
from llava.data.problems import Problems
from llava.data.readers.parts import INFOS, part_phrases, plain_part_name
from llava.data.readers.pascal_mat import PARTS, part_of_code
from llava.data.rle import decode_rle, encode_mask

PACO, PASCAL = INFOS
CATEGORIES = [
    {"id": 1, "name": "mug", "supercategory": "OBJECT"},
    {"id": 2, "name": "car_(automobile)", "supercategory": "OBJECT"},
    {"id": 7, "name": "mug:handle", "supercategory": "PART"},
    {"id": 8, "name": "mouse_(computer_equipment):left_button", "supercategory": "PART"},
]


def box(top, left, bottom, right):
    """Bool mask (20, 30) of a rectangle."""
    mask = np.zeros((20, 30), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def annotation(ann_id, category, mask, *, image_id=1, **changes):
    segmentation = encode_mask(mask) if isinstance(mask, np.ndarray) else mask
    record = {"id": ann_id, "image_id": image_id, "category_id": category, "segmentation": segmentation}
    return {**record, "obj_ann_id": ann_id, "attribute_ids": [], "bbox": [0, 0, 1, 1], "area": 1, **changes}


def write_paco(root, annotations, *, images=(1,), categories=CATEGORIES, size_hw=(20, 30)):
    (root / "paco_lvis/annotations").mkdir(parents=True, exist_ok=True)
    (root / "coco/train2017").mkdir(parents=True, exist_ok=True)
    listed = []
    for number in images:
        name = f"train2017/{number:012d}.jpg"
        Image.new("RGB", (30, 20)).save(root / "coco" / name)
        listed.append({"id": number, "file_name": name, "height": size_hw[0], "width": size_hw[1]})
    content = {"images": listed, "annotations": annotations, "categories": categories}
    (root / "paco_lvis/annotations/paco_lvis_v1_train.json").write_text(json.dumps(content))
    return root


def read(info, root, problems=None, split="train"):
    return list(info.read(root, split, problems or Problems()))


def test_objects_and_parts_of_one_class_are_one_target_in_each_image(tmp_path):
    mugs = [annotation(10, 1, box(0, 0, 8, 8)), annotation(11, 1, box(10, 0, 18, 8))]
    handles = [annotation(12, 7, box(2, 6, 5, 8)), annotation(13, 7, box(12, 6, 15, 8))]
    mug, handle, button = read(
        PACO, write_paco(tmp_path, [*mugs, *handles, annotation(14, 8, box(0, 20, 4, 24))])
    )
    assert (mug.id, handle.id) == ("paco_lvis|train|1.mug|0", "paco_lvis|train|1.mug:handle|0")
    assert (mug.expression, mug.part_of) == ("mug", "")
    assert (handle.expression, handle.part_of) == ("handle", "mug")
    assert (button.expression, button.part_of) == ("left button", "mouse")
    assert np.array_equal(decode_rle(mug.mask), box(0, 0, 8, 8) | box(10, 0, 18, 8))
    assert np.array_equal(decode_rle(handle.mask), box(2, 6, 5, 8) | box(12, 6, 15, 8))
    assert (handle.image_id, handle.size_hw, handle.boxes_xyxy) == (1, (20, 30), ((6.0, 2.0, 8.0, 15.0),))
    assert PACO.classes == () and PACO.coco_images


def test_polygons_are_read_like_run_lengths(tmp_path):
    root = write_paco(tmp_path, [annotation(10, 1, [[2, 2, 10, 2, 10, 10, 2, 10]])])
    assert np.array_equal(decode_rle(read(PACO, root)[0].mask), box(2, 2, 10, 10))


def test_an_image_gathers_its_objects_and_parts(tmp_path):
    root = write_paco(tmp_path, [annotation(10, 1, box(0, 0, 8, 8)), annotation(12, 7, box(2, 6, 5, 8))])
    (image,) = collect(read(PACO, root), PACO, root)
    assert image.image == "coco/train2017/000000000001.jpg"
    assert [(target.names, target.part_of) for target in image.targets] == [
        (("mug",), ""),
        (("handle",), "mug"),
    ]


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"segmentation": [[0, 0, 1, 1, 2]]}, "odd polygon", r"annotation 11: a polygon has 5 numbers"),
        (
            {"segmentation": [[0, 0, 900, 0, 9, 9]]},
            "polygon outside the image",
            "annotation 11: a polygon has a",
        ),
        (
            {"segmentation": encode_mask(np.ones((4, 4), dtype=bool))},
            "damaged segmentation",
            "annotation 11: an RLE",
        ),
        ({"category_id": 5}, "unknown class", "annotation 11: category 5 is not in the file"),
        ({"image_id": 4}, "unknown image", "annotation 11: image 4 is not in the file"),
        ({"id": 10}, "id that stands twice", "annotation 10: the annotation is listed twice"),
    ],
)
def test_a_wrong_annotation_is_named_or_counted(tmp_path, change, kind, message):
    wrong = {**annotation(11, 7, box(2, 6, 5, 8)), **change}
    root = write_paco(tmp_path, [annotation(10, 1, box(0, 0, 8, 8)), wrong])
    with pytest.raises(ValueError, match=message):
        read(PACO, root)
    problems = Problems("skip")
    assert [sample.expression for sample in read(PACO, root, problems)] == ["mug"]
    assert dict(problems.counts) == {kind: 1}


def test_a_class_with_one_wrong_annotation_is_left_out_of_its_image(tmp_path):
    right, wrong = annotation(10, 1, box(0, 0, 8, 8)), annotation(11, 1, [[0, 0, 1]])
    other = annotation(12, 1, box(0, 0, 8, 8), image_id=2)
    root = write_paco(tmp_path, [right, wrong, other], images=(1, 2))
    assert [sample.image_id for sample in read(PACO, root, Problems("skip"))] == [2]


def test_an_annotation_without_a_pixel_is_noted(tmp_path):
    problems = Problems()
    root = write_paco(tmp_path, [annotation(10, 1, box(0, 0, 0, 0)), annotation(11, 7, box(0, 0, 2, 2))])
    assert [sample.expression for sample in read(PACO, root, problems)] == ["handle"]
    assert dict(problems.counts) == {"classes without a pixel": 1}


def test_images_that_are_missing_or_of_another_size_are_told(tmp_path):
    root = write_paco(tmp_path / "a", [annotation(10, 1, box(0, 0, 8, 8))])
    (root / "coco/train2017/000000000001.jpg").unlink()
    with pytest.raises(ValueError, match=r"image 1: image .*000000000001\.jpg is missing"):
        read(PACO, root)
    root = write_paco(tmp_path / "b", [], size_hw=(30, 20))
    with pytest.raises(ValueError, match=r"image 1: the annotation states \(height, width\) \(30, 20\)"):
        read(PACO, root)
    root = write_paco(tmp_path / "c", [], images=(1, 1))
    with pytest.raises(ValueError, match="image 1: the image is listed twice"):
        read(PACO, root)


@pytest.mark.parametrize(
    ("category", "name"),
    [
        ("trash_can", "trash can"),
        ("tape_(sticky_cloth_or_paper)", "tape"),
        ("drum_(musical_instrument):rim", "drum:rim"),
        ("bus:license plate", "bus:license plate"),
    ],
)
def test_category_names_become_plain_words(category, name):
    assert plain_part_name(category) == name


def entry(code, mask, parts):
    """One object of a MATLAB file."""
    listed = np.empty(len(parts), dtype=[("part_name", object), ("mask", object)])
    for place, (name, part) in enumerate(parts):
        listed[place] = (name, part.astype(np.uint8))
    return code, 0, mask.astype(np.uint8), listed if parts else np.empty((0, 0))


def write_mat(root, stem, objects, *, split="train", **saving):
    folder, voc = root / "pascal_part/Annotations_Part", root / "VOCdevkit/VOC2010"
    for each in (folder, voc / "JPEGImages", voc / "ImageSets/Main"):
        each.mkdir(parents=True, exist_ok=True)
    fields = [("class", object), ("class_ind", object), ("mask", object), ("parts", object)]
    listed = np.empty(len(objects), dtype=fields)
    for place, one in enumerate(objects):
        listed[place] = one
    savemat(folder / f"{stem}.mat", {"anno": {"imname": stem, "objects": listed}}, **saving)
    Image.new("RGB", (30, 20)).save(voc / f"JPEGImages/{stem}.jpg")
    with (voc / f"ImageSets/Main/{split}.txt").open("a") as listing:
        listing.write(f"{stem}\n")
    return root


DOG = entry(
    "dog",
    box(0, 0, 16, 16),
    [("head", box(0, 0, 6, 6)), ("lfleg", box(10, 0, 16, 2)), ("rbleg", box(10, 8, 16, 10))],
)


def test_matlab_files_give_whole_objects_and_parts_with_merged_sides(tmp_path):
    root = write_mat(tmp_path, "2008_000008", [DOG, entry("pottedplant", box(0, 20, 9, 29), [])])
    samples = {(sample.expression, sample.part_of): sample for sample in read(PASCAL, root)}
    assert list(samples) == [("dog", ""), ("head", "dog"), ("leg", "dog"), ("potted plant", "")]
    assert np.array_equal(decode_rle(samples["leg", "dog"].mask), box(10, 0, 16, 2) | box(10, 8, 16, 10))
    assert np.array_equal(decode_rle(samples["dog", ""].mask), box(0, 0, 16, 16))
    assert samples["leg", "dog"].id == "pascal_part|train|2008000008.dog:leg|0"
    assert samples["leg", "dog"].image_path.name == "2008_000008.jpg"


def test_parts_outside_the_classes_are_noted_and_cost_nothing_else(tmp_path):
    car = entry("car", box(0, 0, 9, 9), [("leftside", box(0, 0, 9, 9)), ("wheel_3", box(7, 2, 9, 4))])
    problems = Problems()
    samples = read(PASCAL, write_mat(tmp_path, "2008_000001", [car]), problems)
    assert [sample.expression for sample in samples] == ["car", "wheel"]
    assert dict(problems.counts) == {"parts outside the 93 classes": 1}


def test_matlab_files_that_cannot_be_used_are_named_or_counted(tmp_path):
    root = write_mat(tmp_path, "2008_000001", [DOG])
    for stem in ("2008_000002", "2008_000003", "2008_000004"):
        write_mat(root, stem, [DOG])
    folder = root / "pascal_part/Annotations_Part"
    (folder / "2008_000002.mat").write_bytes(b"MATLAB, but cut")
    (folder / "2008_000003.mat").unlink()
    Image.new("RGB", (20, 30)).save(root / "VOCdevkit/VOC2010/JPEGImages/2008_000004.jpg")
    with pytest.raises(ValueError, match=r"2008_000002\.mat: cannot be read"):
        read(PASCAL, root)
    problems = Problems("skip")
    assert {sample.image_id for sample in read(PASCAL, root, problems)} == {2008000001}
    assert dict(problems.counts) == {
        "damaged annotation": 1,
        "missing annotation": 1,
        "image of another size": 1,
    }


def test_a_compressed_matlab_file_with_a_garbled_byte_is_counted_wherever_it_stands(tmp_path):
    write_mat(tmp_path, "2008_000001", [DOG], do_compression=True)
    path = tmp_path / "pascal_part/Annotations_Part/2008_000001.mat"
    assert len(read(PASCAL, tmp_path)) == 3
    content = path.read_bytes()
    causes = []
    for place in range(140, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        problems = Problems("skip")
        read(PASCAL, tmp_path, problems)
        causes.append(str(problems))
    assert sum("while decompressing data" in cause for cause in causes) > 3


def test_masks_of_several_sizes_in_one_file_are_refused(tmp_path):
    odd = entry("cat", np.ones((5, 5), dtype=bool), [])
    with pytest.raises(ValueError, match=r"its masks have the sizes \[\(5, 5\), \(20, 30\)\]"):
        read(PASCAL, write_mat(tmp_path, "2008_000001", [DOG, odd]))


def test_both_forms_of_pascal_part_give_the_same_parts(tmp_path):
    mats = write_mat(tmp_path / "mats", "2008_000008", [DOG])
    coco = write_mat(tmp_path / "coco", "2008_000008", [DOG])
    head, leg = box(0, 0, 6, 6), box(10, 0, 16, 2)
    parts = [annotation(0, 49, head), annotation(1, 50, leg), annotation(2, 50, box(10, 8, 16, 10))]
    content = {
        "images": [{"id": 2008000008, "file_name": "any/2008_000008.jpg", "height": 20, "width": 30}],
        "annotations": [{**part, "image_id": 2008000008} for part in parts],
        "categories": [{"id": 49, "name": "dog:head"}, {"id": 50, "name": "dog:leg"}],
    }
    (coco / "pascal_part/train.json").write_text(json.dumps(content))
    from_mats = [(each.id, each.mask) for each in read(PASCAL, mats) if each.part_of]
    assert [(each.id, each.mask) for each in read(PASCAL, coco)] == from_mats
    assert len(from_mats) == 2


REAL_CODES = {
    "cow": "head lear rear torso neck lflleg lfuleg rfuleg lbuleg tail leye muzzle lhorn rhorn",
    "person": "llarm luarm llleg luleg leye mouth hair nose neck rear lhand rfoot torso head",
    "car": "bliplate fliplate rightmirror window_2 wheel_4 door_1 headlight_6",
    "motorbike": "fwheel bwheel handlebar saddle headlight_3",
    "bird": "reye beak lwing lleg lfoot tail torso",
    "cat": "lfpa rbpa lbleg nose",
    "aeroplane": "body lwing wheel_8 tail",
    "pottedplant": "pot plant",
    "bottle": "body cap",
}


@pytest.mark.parametrize("whole", REAL_CODES)
def test_codes_of_the_real_files_have_a_class(whole):
    assert all(part_of_code(whole, code) in PARTS for code in REAL_CODES[whole].split())


@pytest.mark.parametrize(
    ("whole", "code"),
    [
        ("bicycle", "chainwheel"),
        ("person", "lebrow"),
        ("horse", "lfho"),
        ("car", "backside"),
        ("train", "head"),
        ("train", "hrightside"),
        ("tvmonitor", "screen"),
        ("aeroplane", "engine_1"),
    ],
)
def test_codes_outside_the_classes_have_none(whole, code):
    assert part_of_code(whole, code) is None


def test_absent_parts_are_named_with_their_object():
    assert len(part_phrases("pascal_part")) == len(PARTS) == 93
    assert "license plate of the bus" in PASCAL.classes
    assert PASCAL.classes[0] == part_phrase("body", "aeroplane")


@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_missing_files_and_unknown_splits_say_what_to_do(tmp_path, info):
    with pytest.raises(FileNotFoundError, match=r"train\.json not found .*check_data"):
        read(info, tmp_path)
    with pytest.raises(ValueError, match=f"unknown split 'all' for {info.name}; known: train, val"):
        read(info, tmp_path, split="all")


@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_table_entries_can_be_sent_to_other_processes(info):
    assert pickle.loads(pickle.dumps(info)) == info

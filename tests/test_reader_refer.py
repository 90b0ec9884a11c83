"""REFER-like sets through `read_dataset`: wrong records told or left out, Ref-ZOM and RRSIS-D.

The two have no real sample at hand: their files are drawn here from the schemas that the loaders of DMMI,
GSVA and RMSIN read.
"""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refer_folder import SIZE_HW, SQUARE, annotation, ref, write_dataset

from llava.data import readers
from llava.data.problems import Problems
from llava.data.readers import DATASETS, read_dataset
from llava.data.readers.info import FAMILIES
from llava.data.rle import decode_rle, empty_rle, encode_mask

GOOD = ref(1, 5, ["dog"])
PICTURES = "images/mscoco/images/train2014"


def write(tmp_path, refs, annotations):
    return write_dataset(tmp_path, [GOOD, *refs], [annotation(5, [SQUARE]), *annotations])


def skipped(root, spec="refcoco|val"):
    problems = Problems("skip")
    return [sample.expression for sample in read_dataset(root, spec, problems)], problems


def square_mask():
    mask = np.zeros(SIZE_HW, dtype=bool)
    mask[2:10, 2:10] = True
    return mask


def shifted(pixels):
    return [value + pixels for value in SQUARE]


WRONG = {
    "ref without image record": ([ref(2, 5, ["cat"], image_id=9)], [], "has no image 9, which ref 2"),
    "ref without annotation": ([ref(2, 8, ["cat"])], [], "has no annotation 8, which ref 2"),
    "no target or a target": ([ref(2, 5, ["cat"], no_target=True)], [], "ref 2 says no_target True"),
    "id that stands twice": ([ref(1, 5, ["cat"])], [], "id refcoco|unc|val|1|10 stands twice"),
    "odd polygon": (
        [ref(2, 6, ["cat"])],
        [annotation(6, [[*SQUARE, 1]])],
        "annotation 6 (ref 2 of refs(unc).p): a polygon has 9 numbers, needed pairs",
    ),
    "polygon outside the image": (
        [ref(2, 6, ["cat"])],
        [annotation(6, [shifted(24)])],
        "a polygon has a corner at x 34, the image reaches from 0 to 30",
    ),
    "polygon of other things than numbers": (
        [ref(2, 6, ["cat"])],
        [annotation(6, [[1, 2, 3, 4, 5, None]])],
        "a polygon holds None",
    ),
    "mixed encodings": (
        [ref(2, 6, ["cat"])],
        [annotation(6, [SQUARE, encode_mask(square_mask())])],
        "mixes polygons and run lengths",
    ),
    "damaged segmentation": (
        [ref(2, 6, ["cat"])],
        [annotation(6, {"size": [20, 31], "counts": [620]})],
        "states the size (20, 31)",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_ref_stops_with_file_and_record_or_is_left_out_and_counted(tmp_path, kind):
    refs, annotations, message = WRONG[kind]
    root = write(tmp_path, refs, annotations)
    with pytest.raises(ValueError) as caught:
        list(read_dataset(root, "refcoco|val", Problems()))
    assert message in str(caught.value)
    assert "refs(unc).p" in str(caught.value)
    assert "--on-error skip" in str(caught.value)
    read, problems = skipped(root)
    assert read == ["dog"]
    assert dict(problems.counts) == {kind: 1}


def test_a_segmentation_that_is_no_list_is_damaged(tmp_path):
    root = write(tmp_path, [ref(2, 6, ["cat"])], [annotation(6, "polygon")])
    read, problems = skipped(root)
    assert read == ["dog"]
    assert "a segmentation is 'polygon'" in str(problems)


@pytest.mark.parametrize("damage", ["missing", "empty", "other size", "no image"])
def test_an_image_that_cannot_be_used_is_told_or_left_out(tmp_path, damage):
    root = write(tmp_path, [ref(2, 6, ["cat"], image_id=2)], [annotation(6, [SQUARE], image_id=2)])
    image = root / PICTURES / "COCO_train2014_000000000002.jpg"
    image.unlink()
    if damage == "empty":
        image.touch()
    elif damage == "no image":
        image.write_text("<html>not found</html>")
    elif damage == "other size":
        Image.new("RGB", (20, 30)).save(image)
    kind = {"other size": "image of another size", "no image": "damaged image"}.get(damage, "missing image")
    with pytest.raises(ValueError, match=f"ref 2: .*{image.name}"):
        list(read_dataset(root, "refcoco|val", Problems()))
    read, problems = skipped(root)
    assert read == ["dog"]
    assert dict(problems.counts) == {kind: 1}


def test_what_the_rules_leave_out_is_counted_and_never_stops(tmp_path):
    refs = [ref(2, 5, []), ref(3, 5, ["cat", " "]), ref(4, 6, ["cow"])]
    root = write(tmp_path, refs, [annotation(6, [SQUARE, [1, 2, 3, 4]])])
    problems = Problems("stop")
    read = list(read_dataset(root, "refcoco|val", problems))
    assert [sample.expression for sample in read] == ["dog", "cat", "cow"]
    assert np.array_equal(decode_rle(read[-1].mask), square_mask())
    assert dict(problems.counts) == {
        "refs without sentences": 1,
        "sentences without words": 1,
        "polygons that enclose nothing": 1,
    }


def test_a_corner_just_outside_the_image_is_a_loose_click(tmp_path):
    root = write(tmp_path, [ref(2, 6, ["cat"])], [annotation(6, [[-1, 2, 32, 2, 32, 10, -1, 10]])])
    samples = list(read_dataset(root, "refcoco|val", Problems()))
    assert decode_rle(samples[1].mask)[2:10].all()


def test_crowd_regions_in_run_lengths_belong_to_the_mask(tmp_path):
    crowd = annotation(6, {"size": [20, 30], "counts": [0, 20, 580]}, iscrowd=1)
    root = write(tmp_path, [ref(2, 6, ["people"])], [crowd])
    mask = decode_rle(list(read_dataset(root, "refcoco|val", Problems()))[1].mask)
    assert mask[:, 0].all()
    assert mask.sum() == 20


def test_a_split_by_is_handed_on(tmp_path):
    root = write(tmp_path, [], [])
    shutil.copy(root / "refcoco/refs(unc).p", root / "refcoco/refs(google).p")
    (sample,) = read_dataset(root, "refcoco | google|val", Problems())
    assert sample.id == "refcoco|google|val|1|10"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("refcoc|val", "unknown dataset 'refcoc'; known: refcoco, "),
        ("refcoco", "give dataset|split"),
        ("refcoco|testC", "unknown split 'testC' for refcoco|unc; known: train, val, testA, testB"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(tmp_path, spec, message):
    with pytest.raises(ValueError) as caught:
        list(read_dataset(tmp_path, spec, Problems()))
    assert message in str(caught.value)


def test_missing_files_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"refcoco/refs\(unc\)\.p not found .*check_data\.py"):
        list(read_dataset(tmp_path, "refcoco|val", Problems("skip")))


def test_every_entry_of_the_table_is_complete():
    assert len(DATASETS) >= 20
    assert {info.family for info in DATASETS.values()} == set(FAMILIES)
    for name, info in DATASETS.items():
        assert info.name == name
        assert info.splits and info.needs and info.page, name
        assert info.classes or info.family != "semantic", name


def test_no_dataset_hides_another_of_the_same_name():
    entries = [info.name for module in readers._MODULES for info in module.INFOS]
    assert sorted(entries) == sorted(DATASETS)


@pytest.mark.parametrize("name", DATASETS)
def test_every_dataset_lists_its_splits_and_says_what_is_missing(tmp_path, name):
    with pytest.raises(ValueError, match=r"unknown split 'nowhere'.* known: "):
        list(read_dataset(tmp_path, f"{name}|nowhere", Problems()))
    for split in DATASETS[name].splits:
        with pytest.raises(FileNotFoundError, match=r"check_data\.py"):
            list(read_dataset(tmp_path, f"{name}|{split}", Problems("skip")))


def test_a_pickle_and_its_json_form_read_the_same(tmp_path):
    root = write(tmp_path, [], [])
    before = list(read_dataset(root, "refcoco|val", Problems()))
    path = root / "refcoco/refs(unc).p"
    (root / "refcoco/refs(unc).json").write_text(json.dumps(pickle.loads(path.read_bytes())))
    path.unlink()
    assert list(read_dataset(root, "refcoco|val", Problems())) == before


# Ref-ZOM


def zom(tmp_path, refs, *, folder="refzom", name="Ref_ZOM.p"):
    second = [value + 10 for value in SQUARE]
    root = write_dataset(
        tmp_path,
        refs,
        [annotation(5, [SQUARE]), annotation(6, [second], bbox=[12, 12, 8, 8])],
        dataset=folder,
        refs_name=name,
    )
    return root


def test_ref_zom_has_no_one_and_many_targets(tmp_path):
    refs = [
        ref(1, [], ["a unicorn"], split="test", source="zero"),
        ref(2, [5], ["a dog"], split="test", source="one"),
        ref(3, [5, 6], ["two dogs"], split="test", source="many"),
        ref(4, [5], ["a dog in another image"], split="test", source="zero"),
    ]
    samples = list(read_dataset(zom(tmp_path, refs), "refzom|test", Problems()))
    assert [sample.group for sample in samples] == ["zero", "one", "many", "zero"]
    assert [sample.no_target for sample in samples] == [True, False, False, True]
    assert [len(sample.boxes_xyxy) for sample in samples] == [0, 1, 2, 0]
    assert samples[3].mask == empty_rle(SIZE_HW)
    assert decode_rle(samples[2].mask).sum() == 128
    assert samples[1].id == "refzom|final|test|2|20"


def test_a_ref_zom_ref_with_targets_by_word_but_not_by_number_is_wrong(tmp_path):
    root = zom(tmp_path, [ref(1, [], ["dogs"], split="test", source="many")])
    with pytest.raises(ValueError, match="ref 1 says source many and names the annotations"):
        list(read_dataset(root, "refzom|test", Problems()))


@pytest.mark.parametrize(
    ("folder", "name"),
    [("ref-zom", "refs(final).p"), ("refzom", "refs(final).json"), ("ref-zom", "Ref-ZOM(final).p")],
)
def test_ref_zom_is_found_under_the_names_of_its_users(tmp_path, folder, name):
    root = zom(tmp_path, [ref(2, [5], ["a dog"], split="train", source="one")], folder=folder, name=name)
    assert len(list(read_dataset(root, "refzom|train", Problems()))) == 1


def test_ref_zom_takes_images_from_both_coco_folders(tmp_path):
    refs = [ref(1, [5], ["a"], split="test", source="one")]
    root = zom(tmp_path, [*refs, ref(2, [7], ["b"], image_id=2, split="test", source="one")])
    instances = json.loads((root / "refzom/instances.json").read_text())
    instances["annotations"].append(annotation(7, [SQUARE], image_id=2))
    instances["images"][1]["file_name"] = "COCO_val2014_000000000002.jpg"
    (root / "refzom/instances.json").write_text(json.dumps(instances))
    other = root / "images/mscoco/images/val2014"
    other.mkdir()
    name = "COCO_train2014_000000000002.jpg"
    shutil.move(root / PICTURES / name, other / "COCO_val2014_000000000002.jpg")
    paths = [sample.image_path for sample in read_dataset(root, "refzom|test", Problems())]
    assert [path.parent.name for path in paths] == ["train2014", "val2014"]
    assert all(path.is_file() for path in paths)


# RRSIS-D


def test_rrsis_d_masks_are_one_rle_in_a_list_and_images_go_by_their_id(tmp_path):
    tall = encode_mask(square_mask())
    refs = [ref(7, 5, ["the harbour on the left"], image_id=2, split="test")]
    root = write_dataset(tmp_path, refs, [annotation(5, [tall], image_id=2)], dataset="rrsisd")
    (root / "images/rrsisd").mkdir(parents=True)
    shutil.move(root / PICTURES, root / "images/rrsisd/JPEGImages")
    (sample,) = read_dataset(root, "rrsisd|test", Problems())
    assert sample.id == "rrsisd|unc|test|7|70"
    assert sample.image_path.name == "COCO_train2014_000000000002.jpg"
    assert sample.mask == tall


# real data


@pytest.mark.real_data
@pytest.mark.skipif("TEXT4SEG_REAL_DATA" not in os.environ, reason="TEXT4SEG_REAL_DATA is not set")
@pytest.mark.parametrize("spec", ["refcoco|val", "refcoco|testB", "refcoco+|testA", "refcocog|google|val"])
def test_real_splits_read_the_same_with_every_check(spec):
    from llava.data.readers.refer import read_refer

    root = Path(os.environ["TEXT4SEG_REAL_DATA"]) / "refcoco_mini"
    problems = Problems()
    assert list(read_dataset(root, spec, problems)) == read_refer(root, spec)
    assert not problems.counts


def test_the_classes_of_the_targets_are_told_each_once_where_the_file_names_them(tmp_path):
    more = [annotation(6, [SQUARE], category_id=2), annotation(7, [SQUARE]), annotation(8, [SQUARE])]
    root = write(tmp_path, [ref(2, [7, 6, 8], ["all"])], more)
    assert {one.category for one in read_dataset(root, "refcoco|val", Problems("stop"))} == {""}
    path = root / "refcoco" / "instances.json"
    classes = [{"id": 1, "name": "dog"}, {"id": 2, "name": "zebra"}, {"id": 3}]
    path.write_text(json.dumps({**json.loads(path.read_text()), "categories": classes}))
    found = [one.category for one in read_dataset(root, "refcoco|val", Problems("stop"))]
    assert found == ["dog", "dog, zebra"]

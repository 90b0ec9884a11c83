import os
import pickle
from pathlib import Path

import pytest
from refer_folder import ref

from llava.data.annotated import AnnotatedImage, Target
from llava.data.held_out import FAMILY, HeldOut, LeakFilter, coco_image_id, held_out_images


def write_refs(root, dataset, name, refs):
    folder = root / dataset
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(pickle.dumps(refs, 2))


def image(name, targets=2):
    found = tuple(Target(f"t{number}", ("dog",), None) for number in range(targets))
    return AnnotatedImage(name, "cocostuff", "semantic", name, (4, 4), found)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("images/train2014/COCO_train2014_000000581857.jpg", 581857),
        ("COCO_train2014_000000581857_16.jpg", 581857),
        ("coco/train2017/000000000025.jpg", 25),
        ("000000000025.png", 25),
        ("vg/VG_100K/000025.jpg", None),
        ("0000000000251.jpg", None),
        ("plane.jpg", None),
    ],
)
def test_a_coco_file_name_states_its_image(name, expected):
    assert coco_image_id(name) == expected


def test_every_split_but_train_of_every_split_by_is_held_out(tmp_path):
    splits = [("train", 1), ("val", 2), ("testA", 3), ("testB", 4)]
    write_refs(tmp_path, "refcoco", "refs(unc).p", [ref(i, i, ["a"], image_id=i, split=s) for s, i in splits])
    write_refs(tmp_path, "refcocog", "refs(google).p", [ref(1, 1, ["a"], image_id=9, split="val")])
    write_refs(tmp_path, "refcocog", "refs(umd).p", [ref(1, 1, ["a"], image_id=9, split="train")])
    held_out = held_out_images(tmp_path)
    assert held_out.ids == {2, 3, 4, 9}
    assert held_out.splits == {
        "refcoco|unc|val": 1,
        "refcoco|unc|testA": 1,
        "refcoco|unc|testB": 1,
        "refcocog|google|val": 1,
    }


def test_a_dataset_without_refs_is_named_in_a_warning(tmp_path, caplog):
    write_refs(tmp_path, "refcoco", "refs(unc).p", [ref(1, 1, ["a"])])
    held_out = held_out_images(tmp_path)
    assert held_out.missing == ("refcoco+", "refcocog", "grefcoco", "refzom")
    assert set(held_out.missing) | {"refcoco"} == set(FAMILY)
    assert "no refs file of refcoco+, refcocog, grefcoco, refzom" in caplog.text
    assert "NOT known, as their files are missing: refcoco+" in str(held_out)


@pytest.mark.parametrize("refs", [{"a": 1}, [{"image_id": 3}]])
def test_a_damaged_refs_file_is_named(tmp_path, refs):
    write_refs(tmp_path, "refcoco+", "refs(unc).p", refs)
    with pytest.raises(ValueError, match=r"refs\(unc\)\.p.*download it again"):
        held_out_images(tmp_path)


def test_the_filter_counts_what_it_keeps_out():
    leak = LeakFilter(HeldOut(frozenset({25}), {"refcoco|unc|val": 1}))
    names = ["train2017/000000000025.jpg", "train2017/000000000030.jpg", "tower.png", ""]
    assert [found.image for found in leak(map(image, names))] == names[1:]
    assert (leak.images, leak.targets) == (1, 2)
    assert leak.facts()["left_out_images"] == 1 and leak.facts()["splits"] == {"refcoco|unc|val": 1}
    assert "1 images with 2 targets" in str(leak)


@pytest.mark.real_data
@pytest.mark.skipif("TEXT4SEG_REAL_DATA" not in os.environ, reason="TEXT4SEG_REAL_DATA is not set")
def test_real_splits_hold_out_their_images():
    real_data = Path(os.environ["TEXT4SEG_REAL_DATA"])
    held_out = held_out_images(real_data / "refcoco_mini")
    assert {name.split("|")[0] for name in held_out.splits} == {"refcoco", "refcoco+", "refcocog"}
    pictures = real_data / "refcoco_mini" / "images" / "mscoco" / "images" / "train2014"
    covered = [path for path in pictures.glob("*.jpg") if held_out.covers(path)]
    assert len(covered) == len(held_out.ids) == 40

"""Objects of a target that datasets tell apart: read, stored and given back."""

import numpy as np
import pytest
import test_reader_dcube as dcube
import test_reader_parts as parts
from refer_folder import SIZE_HW, SQUARE, annotation, ref, write_dataset
from test_reader_own import LEFT, RIGHT, pixels_of, row, save
from test_reader_own import write as write_own
from test_reader_panoptic import DOG_A, DOG_B, ids
from test_reader_panoptic import annotation as panoptic_annotation
from test_reader_panoptic import write as write_panoptic

from llava.data.annotated import collect
from llava.data.problems import Problems
from llava.data.readers import DATASETS, read_dataset
from llava.data.rle import decode_rle, merge_rles
from llava.data.store import open_store, write_store


def read(root, spec):
    return list(read_dataset(root, spec, Problems()))


def painted(place, size_hw):
    mask = np.zeros(size_hw, dtype=bool)
    mask[place] = True
    return mask


def grefcoco(root):
    """A ref of two dogs, one of a dog, one of nothing."""
    refs = [
        ref(1, [5, 6], ["both dogs", "the dogs"], no_target=False),
        ref(2, [6], ["one dog"], no_target=False),
        ref(3, [-1], ["a cat"], no_target=True),
    ]
    shifted = [value + 5 for value in SQUARE]
    annotations = [annotation(5, [SQUARE]), annotation(6, [shifted])]
    return write_dataset(root, refs, annotations, dataset="grefcoco", refs_name="grefs(unc).json")


def test_a_ref_of_several_annotations_has_the_mask_of_each(tmp_path):
    both, again, one, none = read(grefcoco(tmp_path), "grefcoco|val")
    first, second = painted(np.s_[2:10, 2:10], SIZE_HW), painted(np.s_[7:15, 7:15], SIZE_HW)
    assert [decode_rle(mask).tolist() for mask in both.instances] == [first.tolist(), second.tolist()]
    assert np.array_equal(decode_rle(both.mask), first | second)
    assert again.instances is both.instances
    assert one.instances == none.instances == ()


def test_things_have_a_mask_for_each_segment_and_stuff_has_none(tmp_path):
    dog, wall = read(write_panoptic(tmp_path, [panoptic_annotation()]), "coco_panoptic|train")
    assert [decode_rle(mask).tolist() for mask in dog.instances] == [
        (ids() == number).tolist() for number in (DOG_A, DOG_B)
    ]
    assert wall.instances == ()


def test_stuff_of_several_segments_stays_one_region(tmp_path):
    segments = [
        {"id": number, "category_id": 199, "area": int((ids() == number).sum())}
        for number in np.unique(ids()).tolist()
        if number
    ]
    (wall,) = read(write_panoptic(tmp_path, [panoptic_annotation(segments)]), "coco_panoptic|train")
    assert wall.instances == ()
    assert np.array_equal(decode_rle(wall.mask), ids() > 0)


def test_rows_and_numbers_of_ones_own_table_are_objects(tmp_path):
    rows = [
        row("a.jpg", "both cups", "all.png", value="1 7"),
        row("a.jpg", "the cups", "left.png"),
        row("a.jpg", "the cups", "right.png"),
        row("a.jpg", "the left cup", "left.png"),
    ]
    root = write_own(tmp_path, rows)
    save(root / "masks/right.png", pixels_of((255, RIGHT)))
    by_number, by_row, one = read(root, "own|train")
    for sample in (by_number, by_row):
        objects = [decode_rle(mask).tolist() for mask in sample.instances]
        assert objects == [painted(place, (30, 40)).tolist() for place in (LEFT, RIGHT)]
    assert one.instances == ()


def test_objects_that_fit_a_description_are_told_apart(tmp_path):
    both, *others = read(dcube.write(tmp_path, dcube.tables()), "dcube|full")
    assert [decode_rle(mask).tolist() for mask in both.instances] == [
        dcube.rows(0, 5).tolist(),
        dcube.rows(3, 8).tolist(),
    ]
    assert all(other.instances == () for other in others)


def test_objects_and_parts_of_one_class_are_told_apart(tmp_path):
    places = [(0, 0, 8, 8), (10, 0, 18, 8)]
    mugs = [parts.annotation(10 + k, 1, parts.box(*place)) for k, place in enumerate(places)]
    handles = [parts.annotation(12, 7, parts.box(2, 6, 5, 8)), parts.annotation(13, 7, [])]
    mug, handle = read(parts.write_paco(tmp_path, [*mugs, *handles]), "paco_lvis|train")
    assert [decode_rle(mask).tolist() for mask in mug.instances] == [
        parts.box(*place).tolist() for place in places
    ]
    assert handle.instances == ()


def test_legs_of_a_matlab_file_are_told_apart(tmp_path):
    root = parts.write_mat(tmp_path, "2008_000008", [parts.DOG])
    leg = next(each for each in read(root, "pascal_part|train") if each.expression == "leg")
    assert [decode_rle(mask).tolist() for mask in leg.instances] == [
        parts.box(10, 0, 16, 2).tolist(),
        parts.box(10, 8, 16, 10).tolist(),
    ]


@pytest.mark.parametrize(
    ("write", "spec"),
    [
        (grefcoco, "grefcoco|val"),
        (lambda root: write_panoptic(root, [panoptic_annotation()]), "coco_panoptic|train"),
        (lambda root: parts.write_mat(root, "2008_000008", [parts.DOG]), "pascal_part|train"),
    ],
)
def test_the_store_keeps_them_and_together_they_are_the_target(tmp_path, write, spec):
    root = write(tmp_path / "data")
    images = list(collect(read(root, spec), DATASETS[spec.partition("|")[0]], root))
    write_store(images, tmp_path / "store", about={})
    stored, _ = open_store(tmp_path / "store")[0]
    assert stored == images[0]
    several = [target for target in stored.targets if target.instances]
    assert len(several) == 1
    for target in several:
        assert merge_rles(list(target.instances), stored.size_hw) == target.mask

import json
import logging
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from refer_folder import SIZE_HW, SQUARE, annotation, images, ref, write_dataset

from llava.data.readers.refer import REFER_DATASETS, find_image_folder, parse_spec, read_refer
from llava.data.rle import decode_rle, empty_rle, encode_mask, merge_rles, rle_area, rle_box_xyxy, union_rle

EXPECTED_SQUARE = np.zeros(SIZE_HW, dtype=bool)
EXPECTED_SQUARE[2:10, 2:10] = True


def read_mask(tmp_path, segmentation, **more):
    root = write_dataset(tmp_path, [ref(1, 5, ["dog"])], [annotation(5, segmentation, **more)])
    (sample,) = read_refer(root, "refcoco|unc|val")
    return decode_rle(sample.mask)


def uncompressed(mask):
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat.astype(int), [1 - int(flat[-1])]])))
    counts = np.diff(np.concatenate([[0], edges])).tolist()
    return {"size": list(mask.shape), "counts": counts}


# specs


def test_a_spec_of_two_parts_takes_the_usual_split_by():
    assert str(parse_spec("refcoco|testA")) == "refcoco|unc|testA"
    assert str(parse_spec("refcocog|test")) == "refcocog|umd|test"
    assert parse_spec(" refcocog | google | val ") == ("refcocog", "google", "val")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("refcoc|val", "unknown dataset 'refcoc'; known: refcoco, refcoco\\+, refcocog, refclef, grefcoco"),
        ("refcoco|umd|val", "unknown split_by 'umd' for refcoco; known: unc, google"),
        ("refcoco|testC", "unknown split 'testC' for refcoco\\|unc; known: train, val, testA, testB$"),
        ("refcocog|testA", "unknown split 'testA' for refcocog\\|umd; known: train, val, test$"),
        ("refcoco", "give dataset\\|split"),
        ("a|b|c|d", "give dataset\\|split"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(tmp_path, spec, message):
    with pytest.raises(ValueError, match=message):
        read_refer(tmp_path, spec)


def test_every_dataset_reads_its_usual_split_by():
    for name, source in REFER_DATASETS.items():
        assert source.split_by in source.splits, name
        assert "train" in source.splits[source.split_by], name


# samples


def test_one_ref_gives_one_sample_for_each_sentence(tmp_path):
    refs = [
        ref(7, 5, ["left dog", "Brown dog"]),
        ref(8, 6, ["cat"], image_id=2),
        ref(9, 6, ["x"], split="train"),
    ]
    root = write_dataset(tmp_path, refs, [annotation(5, [SQUARE]), annotation(6, [SQUARE], image_id=2)])
    samples = read_refer(root, "refcoco|val")
    assert [sample.id for sample in samples] == [
        "refcoco|unc|val|7|70",
        "refcoco|unc|val|7|71",
        "refcoco|unc|val|8|80",
    ]
    assert [sample.expression for sample in samples] == ["left dog", "Brown dog", "cat"]
    assert [sample.image_id for sample in samples] == [1, 1, 2]
    assert samples[0].size_hw == SIZE_HW
    assert samples[0].boxes_xyxy == ((2.0, 2.0, 10.0, 10.0),)
    assert samples[0].mask is samples[1].mask
    assert not samples[0].no_target
    assert np.array_equal(decode_rle(samples[0].mask), EXPECTED_SQUARE)
    json.dumps(samples[0].mask)


def test_the_numbered_file_name_of_a_ref_is_ignored(tmp_path):
    root = write_dataset(tmp_path, [ref(1, 5, ["dog"])], [annotation(5, [SQUARE])])
    (sample,) = read_refer(root, "refcoco|val")
    assert sample.image_path == root / "images/mscoco/images/train2014/COCO_train2014_000000000001.jpg"
    assert sample.image_path.is_file()


def test_pickle_and_json_give_the_same_samples(tmp_path):
    refs = [ref(1, 5, ["dog", "the dog"])]
    one = write_dataset(tmp_path / "a", refs, [annotation(5, [SQUARE])])
    two = write_dataset(tmp_path / "b", refs, [annotation(5, [SQUARE])], refs_name="refs(unc).json")
    first, second = read_refer(one, "refcoco|val"), read_refer(two, "refcoco|val")
    assert [(s.id, s.mask, s.expression) for s in first] == [(s.id, s.mask, s.expression) for s in second]


def test_the_group_of_a_generated_ref_is_kept(tmp_path):
    root = write_dataset(tmp_path, [ref(1, 5, ["dog"], group="colour")], [annotation(5, [SQUARE])])
    assert read_refer(root, "refcoco|val")[0].group == "colour"


def test_refclef_parts_named_together_belong_to_each(tmp_path):
    refs = [
        ref(1, 5, ["a"], split="testAB"),
        ref(2, 5, ["b"], split="testC"),
        ref(3, 5, ["c"], split="testB"),
    ]
    root = write_dataset(tmp_path, refs, [annotation(5, [SQUARE])], dataset="refclef")
    shutil.copytree(root / "images/mscoco/images/train2014", root / "images/saiapr_tc-12")
    expected = {"testA": "a", "testB": "ac", "testC": "b"}
    for split, names in expected.items():
        assert "".join(sample.expression for sample in read_refer(root, f"refclef|{split}")) == names
    shutil.copy(root / "refclef/refs(unc).p", root / "refclef/refs(berkeley).p")
    assert len(read_refer(root, "refclef|berkeley|test")) == 3


def test_refs_without_sentences_and_sentences_without_words_are_left_out_and_told(tmp_path, caplog):
    refs = [ref(1, 5, []), ref(2, 5, ["dog", "  "])]
    root = write_dataset(tmp_path, refs, [annotation(5, [SQUARE])])
    with caplog.at_level(logging.WARNING):
        samples = read_refer(root, "refcoco|val")
    assert [sample.expression for sample in samples] == ["dog"]
    assert "refcoco|unc|val: left out 1 sentences without words, 1 refs without sentences" in caplog.text


# masks


def test_overlapping_parts_never_erase_pixels(tmp_path):
    twice = read_mask(tmp_path, [SQUARE, SQUARE])
    assert np.array_equal(twice, EXPECTED_SQUARE)
    shifted = [value + 4 for value in SQUARE]
    mask = read_mask(tmp_path, [SQUARE, shifted, SQUARE])
    expected = EXPECTED_SQUARE.copy()
    expected[6:14, 6:14] = True
    assert np.array_equal(mask, expected)


def test_all_forms_of_run_lengths_give_the_same_mask(tmp_path):
    compressed = encode_mask(EXPECTED_SQUARE)
    assert np.array_equal(read_mask(tmp_path, uncompressed(EXPECTED_SQUARE), iscrowd=1), EXPECTED_SQUARE)
    assert np.array_equal(read_mask(tmp_path, compressed), EXPECTED_SQUARE)
    assert np.array_equal(read_mask(tmp_path, [compressed]), EXPECTED_SQUARE)
    assert np.array_equal(read_mask(tmp_path, [compressed, uncompressed(EXPECTED_SQUARE)]), EXPECTED_SQUARE)
    in_bytes = {"size": list(SIZE_HW), "counts": compressed["counts"].encode()}
    assert union_rle(in_bytes, SIZE_HW) == (compressed, 0)


def test_run_lengths_survive_every_form_on_random_masks():
    generator = np.random.default_rng(0)
    for _ in range(200):
        size = tuple(int(side) for side in generator.integers(1, 40, 2))
        mask = generator.random(size) < generator.choice([0.02, 0.5, 0.98])
        for form in (encode_mask(mask), uncompressed(mask), [encode_mask(mask)] * 2):
            merged, dropped = union_rle(form, size)
            assert dropped == 0
            assert np.array_equal(decode_rle(merged), mask)
            assert rle_area(merged) == mask.sum()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_polygons_match_pycocotools_on_random_shapes():
    generator = np.random.default_rng(1)
    for _ in range(50):
        polygons = [
            generator.uniform(0, 40, 2 * generator.integers(3, 8)).round(2).tolist() for _ in range(3)
        ]
        layers = coco_mask.decode(coco_mask.frPyObjects(polygons, 40, 40))
        merged, _ = union_rle(polygons, (40, 40))
        assert np.array_equal(decode_rle(merged), layers.any(axis=2))


@pytest.mark.parametrize(
    "odd", [[1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7], [], [float("nan")] * 6, [1e9] * 6, ["a"] * 6, [None] * 6]
)
def test_an_odd_polygon_is_dropped_and_told(tmp_path, caplog, odd):
    with caplog.at_level(logging.WARNING):
        mask = read_mask(tmp_path, [odd, SQUARE])
    assert np.array_equal(mask, EXPECTED_SQUARE)
    assert "left out 1 polygons that enclose nothing" in caplog.text


@pytest.mark.parametrize("segmentation", [[], None, [[1, 2, 3]]])
def test_a_target_without_a_pixel_is_an_empty_mask_and_told(tmp_path, caplog, segmentation):
    with caplog.at_level(logging.WARNING):
        mask = read_mask(tmp_path, segmentation)
    assert mask.shape == SIZE_HW
    assert not mask.any()
    assert "1 refs have a target without a single pixel" in caplog.text


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [20, 30], "counts": [5, 5]}, "run lengths add up to 10, a 20x30 mask has 600"),
        ({"size": [20, 30], "counts": [700, -100]}, "run lengths add up to 600"),
        ({"size": [20, 31], "counts": [620]}, r"states the size \(20, 31\), the image has"),
        ({"size": [20, 30], "counts": "55"}, "run lengths add up to"),
        ({"size": [20, 30], "counts": "héé"}, "which no COCO RLE has"),
        ({"size": [20, 30], "counts": "o"}, "stop in the middle of a number"),
        ({"size": [20, 30], "counts": 7}, "RLE counts are int"),
        ({"counts": [600]}, r"states the size \(\)"),
        (["text"], "neither a polygon nor an RLE"),
    ],
)
def test_a_damaged_segmentation_names_file_and_annotation(tmp_path, segmentation, message):
    with pytest.raises(ValueError, match=f"instances.json: annotation 5: .*{message}"):
        read_mask(tmp_path, segmentation)


def test_a_target_without_an_annotated_box_gets_the_tight_one(tmp_path):
    root = write_dataset(tmp_path, [ref(1, 5, ["dog"])], [annotation(5, [SQUARE], bbox=None)])
    assert read_refer(root, "refcoco|val")[0].boxes_xyxy == ((2.0, 2.0, 10.0, 10.0),)


def test_the_empty_mask_is_a_mask():
    assert decode_rle(empty_rle((3, 4))).shape == (3, 4)
    assert merge_rles([], (3, 4)) == empty_rle((3, 4))
    assert rle_box_xyxy(empty_rle((3, 4))) == (0, 0, 0, 0)


# gRefCOCO


def grefs(tmp_path, refs, annotations, **options):
    root = write_dataset(
        tmp_path, refs, annotations, dataset="grefcoco", refs_name="grefs(unc).json", **options
    )
    return read_refer(root, "grefcoco|val")


def test_several_targets_are_one_mask_with_a_box_each(tmp_path):
    second = [value + 10 for value in SQUARE]
    annotations = [annotation(5, [SQUARE]), annotation(6, [second], bbox=[12, 12, 8, 8])]
    (sample,) = grefs(tmp_path, [ref(1, [5, 6], ["both dogs"], no_target=False)], annotations)
    expected = EXPECTED_SQUARE.copy()
    expected[12:20, 12:20] = True
    assert np.array_equal(decode_rle(sample.mask), expected)
    assert sample.boxes_xyxy == ((2, 2, 10, 10), (12, 12, 20, 20))


def test_a_no_target_entry_is_an_empty_mask_that_says_so(tmp_path):
    refs = [ref(1, [-1], ["the b;ack keyboard"], no_target=True, category_id=[-1])]
    (sample,) = grefs(tmp_path, refs, [])
    assert sample.no_target
    assert sample.boxes_xyxy == ()
    assert sample.mask == empty_rle(SIZE_HW)


@pytest.mark.parametrize(("ann_id", "no_target"), [([5], True), ([-1], False), ([], False)])
def test_a_no_target_flag_that_contradicts_the_annotations_is_an_error(tmp_path, ann_id, no_target):
    with pytest.raises(
        ValueError, match=r"grefs\(unc\).json: ref 1 says no_target .* and names the annotations"
    ):
        grefs(tmp_path, [ref(1, ann_id, ["x"], no_target=no_target)], [annotation(5, [SQUARE])])


def test_grefs_take_the_masks_of_the_sibling_dataset_where_they_have_none(tmp_path):
    write_dataset(tmp_path, [ref(1, 5, ["x"])], [annotation(5, [SQUARE])], dataset="refshapes")
    root = write_dataset(
        tmp_path, [ref(1, [5], ["x"])], [], dataset="grefshapes", refs_name="grefs(unc).json"
    )
    (root / "grefshapes/instances.json").unlink()
    shutil.copytree(root / "images/mscoco/images/train2014", root / "images/refshapes")
    assert np.array_equal(decode_rle(read_refer(root, "grefshapes|val")[0].mask), EXPECTED_SQUARE)


# missing and damaged files


@pytest.fixture
def root(tmp_path):
    return write_dataset(tmp_path, [ref(1, 5, ["dog"]), ref(2, 5, ["cat"])], [annotation(5, [SQUARE])])


def test_a_missing_dataset_folder_names_the_file_and_what_to_do(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"refcoco\+/refs\(unc\)\.p not found .*folder is missing.*check_data"
    ):
        read_refer(tmp_path, "refcoco+|val")


def test_a_missing_split_by_says_which_refs_are_there(root):
    with pytest.raises(
        FileNotFoundError, match=r"refs\(google\)\.p not found .*the folder has refs\(unc\)\.p"
    ):
        read_refer(root, "refcoco|google|val")


def test_missing_instances_are_named(root):
    (root / "refcoco/instances.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"refcoco/instances\.json not found .*check_data\.py"):
        read_refer(root, "refcoco|val")


def test_a_missing_image_folder_lists_where_it_may_be(root):
    shutil.rmtree(root / "images")
    with pytest.raises(
        FileNotFoundError, match=r"mscoco/images/train2014 or .*coco_2014/train2014 or .*README"
    ):
        read_refer(root, "refcoco|val")


@pytest.mark.parametrize("damage", ["gone", "empty"])
def test_a_half_unpacked_image_folder_counts_and_names_what_lacks(tmp_path, damage):
    refs = [ref(1, 5, ["dog"]), ref(2, 6, ["cat"], image_id=2)]
    root = write_dataset(tmp_path, refs, [annotation(5, [SQUARE]), annotation(6, [SQUARE], image_id=2)])
    image = root / "images/mscoco/images/train2014" / images()[1]["file_name"]
    image.unlink()
    if damage == "empty":
        image.touch()
    with pytest.raises(
        FileNotFoundError, match=f"1 of 2 images are missing or empty, the first is {image.name}"
    ):
        read_refer(root, "refcoco|val")
    assert len(read_refer(root, "refcoco|val", check_images=False)) == 2


def test_the_fuller_of_two_image_folders_is_taken(root):
    other = root / "images/train2014"
    shutil.move(root / "images/mscoco/images/train2014", other)
    (root / "images/mscoco/images/train2014").mkdir()
    assert find_image_folder(root, REFER_DATASETS["refcoco"], [images()[0]["file_name"]]) == other
    assert read_refer(root, "refcoco|val")[0].image_path.parent == other


@pytest.mark.parametrize("name", ["refs(unc).p", "instances.json"])
def test_a_half_downloaded_file_says_to_download_it_again(root, name):
    path = root / "refcoco" / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"(refs\(unc\)\.p|instances\.json) is not .*download it again"):
        read_refer(root, "refcoco|val")


def test_a_malicious_refs_file_is_refused(root, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/marker",)

    (root / "refcoco/refs(unc).p").write_bytes(pickle.dumps([Evil()], 2))
    with pytest.raises(ValueError, match=r"refs\(unc\)\.p refused: it asks for \w+\.system"):
        read_refer(root, "refcoco|val")
    assert not (tmp_path / "marker").exists()


def test_a_split_that_the_file_does_not_hold_says_what_it_holds(root):
    with pytest.raises(ValueError, match=r"has no refs of split 'testA'; it holds val 2"):
        read_refer(root, "refcoco|testA")


@pytest.mark.parametrize(
    ("refs", "message"),
    [
        ({"a": 1}, "holds a dict, needed a list of refs"),
        ([5], "ref number 0 lacks ann_id, image_id, ref_id, sentences, split"),
        (
            [{**ref(1, 5, ["a"]), "sentences": [{"raw": "a"}]}],
            "a sentence of ref number 0 lacks sent, sent_id",
        ),
        ([ref(1, 5, ["a"], image_id=9)], "has no image 9, which ref 1 of refs.unc..p needs"),
        ([ref(1, 4, ["a"])], "has no annotation 4, which ref 1 of refs.unc..p needs"),
        ([ref(1, 5, ["a"], image_id=2)], "puts in another image the annotation 5"),
        ([ref(1, 5, ["a"]), ref(1, 5, ["b"])], r"id refcoco\|unc\|val\|1\|10 stands twice"),
    ],
)
def test_refs_that_do_not_fit_are_a_named_error(root, refs, message):
    (root / "refcoco/refs(unc).p").write_bytes(pickle.dumps(refs, 2))
    with pytest.raises(ValueError, match=message):
        read_refer(root, "refcoco|val")


def test_an_annotation_id_that_stands_twice_is_an_error_only_where_the_content_differs(tmp_path):
    refs = [ref(1, 5, ["a"])]
    same = write_dataset(tmp_path / "same", refs, [annotation(5, [SQUARE])] * 2)
    assert len(read_refer(same, "refcoco|val")) == 1
    other = write_dataset(tmp_path / "other", refs, [annotation(5, [SQUARE]), annotation(5, [])])
    with pytest.raises(ValueError, match="annotation id 5 stands twice, not the same"):
        read_refer(other, "refcoco|val")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "has no images and annotations"),
        ({"images": [{"id": 1}], "annotations": []}, "image number 0 lacks"),
    ],
)
def test_instances_without_their_parts_are_an_error(root, content, message):
    (root / "refcoco/instances.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read_refer(root, "refcoco|val")


# real data


def box_iou(one, two):
    low, high = np.maximum(one[:2], two[:2]), np.minimum(one[2:], two[2:])
    inner = np.prod(np.maximum(high - low, 0))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, two)]
    return inner / (sum(areas) - inner)


REAL = Path(os.environ.get("TEXT4SEG_REAL_DATA", "")) / "refcoco_mini"


@pytest.mark.real_data
@pytest.mark.skipif("TEXT4SEG_REAL_DATA" not in os.environ, reason="TEXT4SEG_REAL_DATA is not set")
@pytest.mark.parametrize(
    ("spec", "refs", "sentences"),
    [
        ("refcoco|unc|val", 16, 45),
        ("refcoco|unc|testA", 6, 18),
        ("refcoco|unc|testB", 11, 33),
        ("refcoco+|unc|val", 16, 48),
        ("refcoco+|unc|testA", 6, 16),
        ("refcoco+|unc|testB", 11, 32),
        ("refcocog|umd|val", 13, 24),
        ("refcocog|umd|test", 7, 13),
        ("refcocog|google|val", 19, 38),
    ],
)
def test_real_refcoco_splits_have_their_counts_and_masks_fit_their_boxes(spec, refs, sentences):
    samples = read_refer(REAL, spec)
    assert len({sample.id.rpartition("|")[0] for sample in samples}) == refs
    assert len(samples) == sentences
    for sample in samples:
        assert box_iou(rle_box_xyxy(sample.mask), sample.boxes_xyxy[0]) > 0.95, sample.id


@pytest.mark.real_data
@pytest.mark.skipif("TEXT4SEG_REAL_DATA" not in os.environ, reason="TEXT4SEG_REAL_DATA is not set")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_every_real_segmentation_has_the_pixels_of_its_parts():
    counted = crowds = 0
    for dataset in ("refcoco", "refcoco+", "refcocog"):
        content = json.loads((REAL / dataset / "instances.json").read_text())
        sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
        for entry in content["annotations"]:
            merged, dropped = union_rle(entry["segmentation"], sizes[entry["image_id"]])
            assert dropped == 0
            area = rle_area(merged)
            if entry["iscrowd"]:
                crowds += 1
                assert area == sum(entry["segmentation"]["counts"][1::2])
            else:
                layers = coco_mask.decode(
                    coco_mask.frPyObjects(entry["segmentation"], *sizes[entry["image_id"]])
                )
                assert area == np.count_nonzero(layers.any(axis=2))
            counted += 1
    assert (counted, crowds) == (198 + 198 + 303, 1 + 1 + 2)


@pytest.mark.real_data
@pytest.mark.skipif("TEXT4SEG_REAL_DATA" not in os.environ, reason="TEXT4SEG_REAL_DATA is not set")
def test_the_real_no_target_entry_is_read(tmp_path):
    folder = Path(os.environ["TEXT4SEG_REAL_DATA"]) / "grefcoco_samples"
    (entry,) = json.loads((folder / "real_no_target_entry.json").read_text())
    root = write_dataset(tmp_path, [entry], [], dataset="grefcoco", refs_name="grefs(unc).json")
    image = {"id": 909, "file_name": entry["file_name"], "height": 20, "width": 30}
    (root / "grefcoco/instances.json").write_text(json.dumps({"images": [image], "annotations": []}))
    (sample,) = read_refer(root, "grefcoco|val", check_images=False)
    assert sample.no_target
    assert sample.id == "grefcoco|unc|val|135|400"
    assert sample.expression == "the b;ack keyboard in front of the computer on the table"

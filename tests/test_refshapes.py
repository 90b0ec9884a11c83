"""The generated benchmark: seeded, in REFER layout, every expression fits exactly its targets."""

import json

import numpy as np
import pytest
from PIL import Image

from llava.data.pickles import load_plain_pickle
from llava.data.readers.refer import read_refer
from llava.data.refshapes.phrases import ORDINALS, sample_absent, sample_several, sample_single
from llava.data.refshapes.reasoning import write_reasoning
from llava.data.refshapes.scene import (
    COLOURS,
    MIN_VISIBLE,
    NEW_SHAPES,
    SHAPES,
    TEXTURES,
    Scene,
    fill_outline,
    sample_scene,
)
from llava.data.refshapes.split import render, scene_rng
from llava.data.refshapes.write import write_refshapes
from llava.data.rle import decode_rle


def scenes(count, split="val", shapes=SHAPES):
    return [sample_scene(scene_rng(3, split, index), shapes) for index in range(count)]


PLACES = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}
"""Axis and direction of each side, written down again so that the tests do not trust the generator."""

SIDE_WORDS = {
    "left": ("left", "leftmost"),
    "right": ("right", "rightmost"),
    "top": ("top", "topmost", "highest"),
    "bottom": ("bottom", "bottommost", "lowest"),
}
RELATION_WORDS = {
    "left of": "left",
    "right of": "right",
    "above": "top",
    "higher than": "top",
    "below": "bottom",
    "lower than": "bottom",
}
TEXTURE_WORDS = {"striped": ("striped", "stripes"), "dotted": ("dotted", "dots"), "plain": ("plain",)}


def named(scene: Scene, words: list[str]) -> set[int]:
    """Objects that have every colour and shape among the words."""
    looks = [word for word in words if word in (*COLOURS, *SHAPES, *NEW_SHAPES)]
    return {k for k, item in enumerate(scene.items) if set(looks) <= {item.colour, item.shape}}


def related(scene: Scene, head: str, anchor: str, side: str) -> set[int]:
    """Objects of the head's words that lie on a side of the anchor."""
    (fixed,) = named(scene, anchor.split())
    axis, sign = PLACES[side]
    centres = [sign * item.centre_xy[axis] for item in scene.items]
    return {k for k in named(scene, head.split()) - {fixed} if centres[k] < centres[fixed]}


def chosen(scene: Scene, words: list[str], pool: set[int]) -> set[int]:
    """What size, side and ordinal words leave of a pool that is not empty."""
    if set(words) & {"largest", "biggest"}:
        return {max(pool, key=lambda k: scene.items[k].diameter)}
    if set(words) & {"smallest", "littlest"}:
        return {min(pool, key=lambda k: scene.items[k].diameter)}
    for side, marks in SIDE_WORDS.items():
        if set(words) & set(marks):
            axis, sign = PLACES[side]
            ranked = sorted(pool, key=lambda k: sign * scene.items[k].centre_xy[axis])
            place = next((ORDINALS.index(word) for word in words if word in ORDINALS), 0)
            return set(ranked[place : place + 1])
    return pool


def understand(scene: Scene, text: str) -> set[int]:
    """Slow, independent reading of an expression: the objects that it can mean."""
    for words_between, side in RELATION_WORDS.items():
        if f" {words_between} the " in text:
            return related(scene, *text.split(f" {words_between} the "), side)
    words = text.split()
    pool = named(scene, words)
    for texture, marks in TEXTURE_WORDS.items():
        if set(words) & set(marks):
            return {k for k in pool if scene.items[k].texture == texture}
    return chosen(scene, words, pool) if pool else set()


def test_single_expressions_fit_their_object_and_no_other():
    seen = {}
    for number, scene in enumerate(scenes(250)):
        rng = np.random.default_rng(number)
        for index in range(len(scene.items)):
            for expression in sample_single(scene, index, rng, count=4):
                assert understand(scene, expression.text) == {index}, expression
                seen[expression.kind] = seen.get(expression.kind, 0) + 1
    assert set(seen) == {"colour", "texture", "shape", "size", "position", "ordinal", "relation"}
    assert min(seen.values()) > 20


def test_absent_expressions_fit_nothing():
    for number, scene in enumerate(scenes(250)):
        expression = sample_absent(scene, np.random.default_rng(number), SHAPES)
        assert expression.targets == () and understand(scene, expression.text) == set(), expression


def test_expressions_with_several_targets_name_all_of_them():
    kinds = set()
    for number, scene in enumerate(scenes(200)):
        expression = sample_several(scene, np.random.default_rng(number))
        if expression is None:
            continue
        kinds.add(expression.kind)
        if expression.kind == "all":
            shape = (
                expression.text.split()[1].removesuffix("s")
                if "every" not in expression.text
                else expression.text.split()[1]
            )
            truth = {k for k, item in enumerate(scene.items) if item.shape in (shape, shape + "s")}
        else:
            truth = set().union(*(understand(scene, part) for part in expression.text.split(" and ")))
        assert set(expression.targets) == truth and len(truth) > 1
    assert kinds == {"all", "both"}


def test_objects_stay_visible_and_masks_do_not_overlap():
    for scene in scenes(100):
        assert 2 <= len(scene.items) <= 5
        assert scene.masks.sum(axis=0).max() == 1
        for item, mask in zip(scene.items, scene.masks, strict=True):
            assert mask.sum() >= MIN_VISIBLE * fill_outline(item.outline, scene.size_hw).sum()
            assert item.texture in TEXTURES


def test_a_scene_depends_on_seed_split_and_index_only():
    first, pixels = render(5, "val", 7)
    again, same_pixels = render(5, "val", 7)
    assert first.items == again.items and np.array_equal(pixels, same_pixels)
    assert render(5, "train", 7)[0].items != first.items
    assert render(6, "val", 7)[0].items != first.items


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("refshapes")
    counts = write_refshapes(root, {"train": 6, "val": 5, "testA": 4, "testB": 4}, seed=1)
    return root, counts


def test_the_files_read_back_through_the_refer_reader(written):
    root, counts = written
    samples = [
        s for split in ("train", "val", "testA", "testB") for s in read_refer(root, f"refshapes|{split}")
    ]
    assert len(samples) == counts["refshapes sentences"] > 50
    scene, _ = render(1, "val", 2)
    of_scene = [s for s in read_refer(root, "refshapes|val") if s.image_path.name == "val_000002.jpg"]
    assert {s.size_hw for s in of_scene} == {scene.size_hw}
    for sample in of_scene:
        (index,) = understand(scene, sample.expression)
        assert np.array_equal(decode_rle(sample.mask), scene.masks[index])
    with Image.open(of_scene[0].image_path) as image:
        assert image.size == (scene.size_hw[1], scene.size_hw[0])


def test_test_splits_keep_to_their_kinds(written):
    root, _ = written
    looks = {sample.group for sample in read_refer(root, "refshapes|testA")}
    comparisons = {sample.group for sample in read_refer(root, "refshapes|testB")}
    assert looks <= {"colour", "texture", "shape"} and "colour" in looks
    assert comparisons <= {"size", "position", "ordinal", "relation"} and comparisons


def test_the_generalised_form_has_several_targets_and_none(written):
    root, _ = written
    samples = read_refer(root, "grefshapes|train")
    absent = [sample for sample in samples if sample.no_target]
    assert absent and all(not decode_rle(sample.mask).any() for sample in absent)
    assert any(len(sample.boxes_xyxy) > 1 for sample in samples)


def test_the_refs_file_is_a_pickle_of_plain_dictionaries(written):
    root, _ = written
    refs = load_plain_pickle(root / "refshapes" / "refs(unc).p")
    wanted = {"ref_id", "sent_ids", "file_name", "ann_id", "image_id", "split", "sentences", "category_id"}
    assert all(set(ref) == wanted for ref in refs)


def test_the_same_arguments_write_the_same_bytes_whatever_the_workers(tmp_path):
    for name, workers in (("one", 1), ("two", 2)):
        write_refshapes(tmp_path / name, {"val": 3}, seed=4, workers=workers)
    files = sorted(
        path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()
    )
    assert len(files) == 3 + 4
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_new_shapes_can_be_drawn(tmp_path):
    write_refshapes(tmp_path, {"val": 4}, shapes=NEW_SHAPES)
    words = {word for sample in read_refer(tmp_path, "refshapes|val") for word in sample.expression.split()}
    assert words & set(NEW_SHAPES) and not words & set(SHAPES)


def test_questions_are_about_the_shapes_that_are_asked_for(tmp_path):
    assert write_reasoning(tmp_path, 4, shapes=NEW_SHAPES)
    found = [json.loads(path.read_text())["text"][0] for path in tmp_path.rglob("*.json")]
    words = {word.strip("?;") for text in found for word in text.split()}
    assert words & set(NEW_SHAPES) and not words & set(SHAPES)


def test_a_negative_seed_is_refused_in_words(tmp_path):
    with pytest.raises(ValueError, match="seed -1: a whole number from 0"):
        write_refshapes(tmp_path, {"val": 1}, seed=-1)


@pytest.mark.parametrize(
    ("counts", "shapes", "message"),
    [
        ({"testC": 3}, SHAPES, "train, val, testA, testB"),
        ({"val": -1}, SHAPES, "none negative"),
        ({"val": 0}, SHAPES, "give scenes for some"),
        ({"val": 1}, ("hexagon",), "hexagon: known are circle"),
    ],
)
def test_wrong_requests_name_what_is_known(tmp_path, counts, shapes, message):
    with pytest.raises(ValueError, match=message):
        write_refshapes(tmp_path, counts, shapes=shapes)

"""Maps of classes: samples, answers drawn, which label means which class, mean IoU against plain loops."""

from dataclasses import replace

import numpy as np
import pytest
from eval_fakes import SETTINGS, box_mask
from PIL import Image

from llava.codec import encode, mask_answer, read_answer
from llava.data.readers.classes import ClassName
from llava.data.refshapes.split import render
from llava.data.refshapes.write import write_refshapes
from llava.data.rle import decode_rle, encode_mask
from llava.eval.benchmarks import BENCHMARKS
from llava.eval.compare import main as compare
from llava.eval.compare import read_runs
from llava.eval.loop import evaluate
from llava.eval.overview import overview
from llava.eval.report import write_report
from llava.eval.semantic import CLASS_SETS, class_question, class_set, label_masks, layered, read_maps
from llava.eval.semantic_scores import RULES, match_label, score_maps
from llava.types import Prediction, Refined, Sample

NAMES = (ClassName("car", ("automobile", "motor car")), ClassName("stairs"), ClassName("traffic light"))


@pytest.mark.parametrize(
    ("label", "number"),
    [
        ("car", 0),
        ("The Cars", 0),
        ("an automobile", 0),
        ("motor_car", 0),
        ("stair", 1),
        ("traffic-lights", 2),
        ("  traffic   light ", 2),
        ("carpet", None),
        ("red car", None),
        ("others", None),
        ("the", None),
    ],
)
def test_a_label_means_a_class_by_the_stated_rule(label, number):
    assert match_label(label, NAMES) == number


def test_text4seg_takes_first_names_letter_by_letter():
    words = ("car", "Car", "automobile", "stairs")
    assert [match_label(word, NAMES, exact=True) for word in words] == [0, None, None, 1]


def test_every_name_of_every_set_means_its_own_class():
    for classes in CLASS_SETS.values():
        assert [match_label(each.name, classes.names) for each in classes.names] == list(
            range(len(classes.names))
        )


def test_the_question_names_the_background_and_all_classes():
    question = class_question(CLASS_SETS["voc20"])
    start = "Please segment the image based on the category: others|aeroplane|bicycle|bird|"
    assert question.startswith(start) and question.count("|") == 20
    with pytest.raises(ValueError, match=r"'refcoco\|val': refcoco has no maps of classes; known: cocostuff"):
        class_set("refcoco|val")


def test_the_pixels_of_an_answer_are_shared_out_without_overlap_or_hole():
    rng = np.random.default_rng(0)
    grid = rng.integers(0, 4, (6, 8))
    labels = ("others", "sky", "sea", "dog")
    answer = mask_answer("Sure:", encode(grid, labels))
    for upsample in ("bilinear", "nearest"):
        masks = label_masks(answer, (45, 63), grid_hw=(6, 8), upsample=upsample)
        others = label_masks(
            mask_answer("Sure:", encode((grid == 0).astype(int), ("others", "rest"))),
            (45, 63),
            grid_hw=(6, 8),
            upsample=upsample,
        )["rest"]
        assert set(masks) == set(labels[1:])
        total = sum(mask.astype(int) for mask in masks.values())
        assert total.max() == 1
        assert (total[others] == 0).all()
        if upsample == "nearest":
            assert np.array_equal(total == 0, others)


def test_a_later_mask_of_an_answer_lies_on_top():
    first, second = "<seg>sky *2\n sky *2\n</seg>", "<seg>others *1| dog *1\n others *2\n</seg>"
    masks = label_masks(first + second, (2, 2), grid_hw=(2, 2))
    assert masks["dog"].tolist() == [[False, True], [False, False]]
    assert masks["sky"].tolist() == [[True, False], [True, True]]
    assert label_masks("no mask here", (2, 2), grid_hw=(2, 2)) == {}


def test_small_refined_masks_lie_on_large_ones():
    large, small = box_mask(0, 0, 20, 20), box_mask(5, 5, 9, 9)
    cut = layered([small, large])
    assert np.array_equal(cut[0], small) and np.array_equal(cut[1], large & ~small)
    assert large.sum() == 400


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    write_refshapes(root, {"val": 3}, seed=1)
    return root


def test_a_map_holds_every_drawn_object_under_its_shape(shapes):
    samples = read_maps(shapes, "refshapes|val")
    assert [sample.id.rpartition("|")[0] for sample in samples] == [
        f"refshapes|unc|val|{sample.image_id}" for sample in samples
    ]
    assert len(samples) == 3
    for index, sample in enumerate(samples):
        scene, _ = render(1, "val", index)
        for name, rle in sample.classes:
            expected = [
                mask for item, mask in zip(scene.items, scene.masks, strict=True) if item.shape == name
            ]
            assert np.array_equal(decode_rle(rle), np.any(expected, axis=0))
        assert {name for name, _ in sample.classes} == {item.shape for item in scene.items}
        assert np.array_equal(decode_rle(sample.mask), scene.masks.any(axis=0))
        assert sample.expression == "map of classes"
        assert sample.question.endswith("category: others|circle|square|triangle|star|cross|heart|moon.")


def test_class_samples_of_a_label_map_become_one_sample_for_each_image(tmp_path):
    folder = tmp_path / "VOCdevkit/VOC2012"
    for part in ("SegmentationClass", "JPEGImages", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True)
    values = np.zeros((20, 30), dtype=np.uint8)
    values[:, 10:] = 12
    values[:5, 20:] = 7
    values[:, 29] = 255
    for stem in ("a", "b"):
        Image.fromarray(values).save(folder / f"SegmentationClass/{stem}.png")
        Image.new("RGB", (30, 20)).save(folder / f"JPEGImages/{stem}.jpg")
    (folder / "ImageSets/Segmentation/val.txt").write_text("a\nb\n")
    first, second = read_maps(tmp_path, "voc20|val")
    assert (first.id, second.id) == ("voc20|val|a|0", "voc20|val|b|0")
    assert [name for name, _ in first.classes] == ["car", "dog"]
    assert np.array_equal(decode_rle(first.mask), (values != 0) & (values != 255))
    assert np.array_equal(decode_rle(first.ignore), values == 255)


class Painter:
    """Writes a drawn answer for each image, as text."""

    def __init__(self, grids, labels):
        self.answers = [mask_answer("Sure:", encode(grid, labels)) for grid in grids]
        self.asked = []
        self.targets = set()

    def segment(self, queries):
        predictions = []
        for query in queries:
            text = self.answers[len(self.asked)]
            self.asked.append(query.question)
            self.targets |= set(query.targets)
            width, height = query.frames[0].size
            mask = read_answer(text, SETTINGS.grid_hw).foreground.any()
            full = np.full((1, 1, height, width), mask)
            predictions.append(Prediction(full, np.array([not mask]), text))
        return predictions


class Shrinker:
    """Takes the first column of pixels off each mask."""

    def refine(self, image, masks, *, soft=None):
        cut = masks.copy()
        cut[:, :, 0] = False
        return Refined(cut, ("",) * len(masks))


SIZE = (24, 32)


def drawn_maps(tmp_path, *, split, values, ignored):
    """Truths as arrays of class numbers (0 none, 255 no decision) and their samples."""
    rng = np.random.default_rng(5)
    names = CLASS_SETS[split.partition("|")[0]].names
    truths, samples = [], []
    for number in range(4):
        truth = np.kron(rng.choice([0, *values], (4, 4)), np.ones((6, 8), dtype=int))
        truth[0, 0] = values[0]
        if ignored:
            truth[:, 28:] = 255
        path = tmp_path / f"{number}.png"
        Image.new("RGB", SIZE[::-1], (40 * number, 0, 0)).save(path)
        found = [value for value in values if (truth == value).any()]
        blank = read_sample(path, f"{split}|{number}|0", truth)
        classes = tuple((names[value - 1].name, encode_mask(truth == value)) for value in found)
        samples.append(replace(blank, classes=classes, question=class_question(class_set(split))))
        truths.append(truth)
    return truths, samples


def read_sample(path, name, truth):
    ignore = encode_mask(truth == 255) if (truth == 255).any() else None
    named = encode_mask((truth != 0) & (truth != 255))
    return Sample(name, path, 1, SIZE, "everything", named, ignore=ignore)


def plain_scores(truths, answers, classes, *, rules, background):
    """Pixel by pixel, as the sources describe their rules."""
    common, predicted, true = (np.zeros(classes + 1, dtype=int) for _ in range(3))
    for truth, answer in zip(truths, answers, strict=True):
        for want, said in zip(truth.ravel(), answer.ravel(), strict=True):
            if rules == "standard" and want in (0, 255):
                continue
            if rules == "background" and want == 255:
                continue
            if rules == "text4seg":
                want = 0 if want == 255 and not background else want
                said = 0 if want == 0 else said
            predicted[said] += 1
            if want != 255:
                true[want] += 1
                common[want] += want == said
    first = 1 if rules == "standard" else 0
    union = (predicted + true - common)[first:]
    ious = np.divide(common[first:], union, out=np.zeros(len(union)), where=union > 0)
    return ious.mean() if rules == "text4seg" else ious[union > 0].mean()


@pytest.mark.parametrize(
    ("split", "values", "ignored"),
    [("voc20|val", (3, 7, 12), True), ("ade20k|val", (1, 2, 150), True), ("pc59|val", (4, 5), False)],
)
def test_mean_iou_equals_plain_loops_under_every_rule(tmp_path, split, values, ignored):
    truths, samples = drawn_maps(tmp_path, split=split, values=values, ignored=ignored)
    classes = class_set(split)
    rng = np.random.default_rng(2)
    labels = ("others", *(classes.names[value - 1].name for value in (*values, 20)), "a thing unheard of")
    grids = [rng.integers(0, len(labels), SETTINGS.grid_hw) for _ in truths]
    numbers = np.array([0, *values, 20, 0])
    answers = [numbers[np.kron(grid, np.ones((4, 4), dtype=int))] for grid in grids]
    settings = replace(SETTINGS, splits=(split,), options={"upsample": "nearest"})
    records = evaluate(Painter(grids, labels), samples, tmp_path / "run", settings=settings)
    told = score_maps(records)[split]
    assert told["images"] == 4 and set(told["scores"]) == {"coarse"}
    scores = told["scores"]["coarse"]
    assert set(scores) == {rules.name for rules in RULES} - (set() if classes.background else {"background"})
    for name, found in scores.items():
        expected = plain_scores(
            truths, answers, len(classes.names), rules=name, background=classes.background
        )
        assert found["mIoU"] == pytest.approx(expected, abs=1e-12)
    strange = sum((grid == len(labels) - 1).any() for grid in grids)
    assert told["unmatched"] == strange and told["unmatched_labels"] == {"a thing unheard of": strange}
    labelled = sum((grid != 0).sum() for grid in grids)
    lost = sum((grid == len(labels) - 1).sum() for grid in grids)
    assert told["unmatched_pixels"] == pytest.approx(lost / labelled)


def test_a_map_runs_from_question_to_report_with_refined_masks(shapes, tmp_path):
    samples = read_maps(shapes, "refshapes|val")
    grids = [np.tile([0, 1, 1, 1, 2, 2, 2, 0], (6, 1)) for _ in samples]
    options = {"benchmark": BENCHMARKS["semantic_seg"].settings()}
    settings = replace(SETTINGS, splits=("refshapes|unc|val",), options=options)
    system = Painter(grids, ("others", "circle", "the squares"))
    records = evaluate(system, samples, tmp_path / "run", settings=settings, refiner=Shrinker())
    assert system.asked == [sample.question for sample in samples]
    assert system.targets == {"map of classes"}
    assert set(records[0].regions) == {"truth", "coarse", "refined"}
    refined = [decode_rle(rle) for rle in records[0].regions["refined"].values()]
    assert not (refined[0] & refined[1]).any()
    assert np.array_equal(decode_rle(records[0].refined), refined[0] | refined[1])
    results = write_report(tmp_path / "run", records=records)
    scores = results["maps"]["refshapes|unc|val"]["scores"]
    assert set(scores) == {"coarse", "refined"} and set(scores["coarse"]) == {rules.name for rules in RULES}
    titles = [table["title"] for table in results["tables"]]
    assert titles[:2] == ["Maps of classes, percent", "Labels of the answers that name no class"]
    assert results["shown"] == [] and results["maps"]["refshapes|unc|val"]["unmatched"] == 0
    assert "Labels of the answers that name no class" in (tmp_path / "run/report.html").read_text()
    again = write_report(tmp_path / "run")
    assert again["maps"] == results["maps"]
    run = tmp_path / "run"
    table = overview(read_runs([run]))["refshapes|unc|val"]["maps of classes, percent"]
    mean = results["maps"]["refshapes|unc|val"]["scores"]["refined"][RULES[0].name]["mIoU"]
    assert [run.as_posix(), "refined", RULES[0].name, f"{100 * mean:.2f}"] in [row[:4] for row in table]
    with pytest.raises(SystemExit, match=r"hold maps of classes, .* llava\.eval\.overview prints their mean"):
        compare([str(run), str(run), "--out", str(tmp_path / "compared")])


def test_an_answer_without_a_single_label_is_scored_too(shapes, tmp_path):
    samples = read_maps(shapes, "refshapes|val")
    grids = [np.zeros(SETTINGS.grid_hw, dtype=int) for _ in samples]
    settings = replace(SETTINGS, splits=("refshapes|unc|val",))
    records = evaluate(
        Painter(grids, ("others",)), samples, tmp_path / "run", settings=settings, refiner=Shrinker()
    )
    told = score_maps(records)["refshapes|unc|val"]
    assert told["scores"]["refined"]["standard"]["mIoU"] == 0.0
    assert told["scores"]["coarse"]["background"]["mIoU"] > 0.0 and told["unmatched_pixels"] is None

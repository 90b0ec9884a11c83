import json
import pickle
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from refer_folder import SQUARE, annotation, ref, write_dataset

from llava.data.annotated import AnnotatedImage, Target
from llava.data.draw import DrawSettings, draw_record, generator
from llava.data.mixture import TRIES, MixtureDataset
from llava.data.mixture_file import is_mixture, open_mixture
from llava.data.readers import DATASETS
from llava.data.record_files import write_records
from llava.data.rle import encode_mask
from llava.data.store import open_store, write_store

SIZE_HW = (20, 30)
SETTINGS = DrawSettings(grid_hw=(4, 4))


def image(number, name="refcoco", pixels=10):
    """Image with one square target of `pixels` a side."""
    mask = np.zeros(SIZE_HW, dtype=bool)
    mask[:pixels, :pixels] = True
    target = Target(f"{name}|{number}", ("red box", "the box", "a left thing"), encode_mask(mask))
    return AnnotatedImage(f"{name}|{number}", name, "referring", f"{number}.jpg", SIZE_HW, (target,))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Working directory with the stores "ten" and "three" and the records "talk.json"."""
    monkeypatch.chdir(tmp_path)
    write_store([image(number) for number in range(10)], tmp_path / "ten", about={"split": "train"})
    held_out = {"left_out_images": 12, "missing": ["refzom"]}
    write_store([image(n, "three") for n in range(3)], tmp_path / "three", about={"held_out": held_out})
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]
    shown = [{"from": "human", "value": "<image>\nHi"}, {"from": "gpt", "value": "Ho"}]
    talk = [{"id": "a", "conversations": turns}, {"id": "b", "image": "b.jpg", "conversations": shown}]
    write_records(tmp_path / "talk.json", talk)
    return tmp_path


def mixed(place, datasets, **more):
    (place / "mix.yaml").write_text(yaml.safe_dump({"datasets": datasets, **more}))
    return open_mixture([place / "mix.yaml"])


def epoch_ids(dataset, epoch):
    return Counter(dataset.record(epoch, index)["id"] for index in range(len(dataset)))


def test_an_epoch_has_every_record_as_often_as_it_is_repeated(place):
    mixture = mixed(place, [{"store": "ten"}, {"store": "three", "repeat": 3}, {"records": "talk.json"}])
    dataset = MixtureDataset(mixture, SETTINGS, 0)
    assert len(dataset) == 10 + 9 + 2
    expected = {f"refcoco|{n}": 1 for n in range(10)} | {f"three|{n}": 3 for n in range(3)} | {"a": 1, "b": 1}
    assert epoch_ids(dataset, 0) == epoch_ids(dataset, 5) == expected


def test_a_part_of_a_dataset_is_another_one_each_epoch_until_all_had_their_turn(place):
    dataset = MixtureDataset(mixed(place, [{"store": "ten", "repeat": 1.5}]), SETTINGS, 0)
    epochs = [epoch_ids(dataset, epoch) for epoch in range(4)]
    twice = [{name for name, count in ids.items() if count == 2} for ids in epochs]
    assert all(set(ids.values()) == {1, 2} and len(ids) == 10 for ids in epochs)
    assert [len(part) for part in twice] == [5, 5, 5, 5]
    assert twice[0] | twice[1] == set(epochs[0]) and twice[0] == twice[2] and twice[1] == twice[3]
    other = MixtureDataset(mixed(place, [{"store": "ten", "repeat": 1.5}]), SETTINGS, 1)
    assert epoch_ids(other, 0) != epochs[0]


def test_weights_are_shares_of_the_epoch(place):
    entries = [
        {"store": "ten", "weight": 3},
        {"store": "three", "weight": 1},
        {"records": "talk.json", "weight": 0},
    ]
    mixture = mixed(place, entries, records_per_epoch=8)
    assert [(portion.name, portion.count) for portion in mixture.portions] == [("ten", 6), ("three", 2)]
    ids = epoch_ids(MixtureDataset(mixture, SETTINGS, 0), 0)
    assert sum(count for name, count in ids.items() if name.startswith("three")) == 2 and len(ids) == 8


def test_a_tiny_share_is_one_record_and_not_none(place):
    assert len(mixed(place, [{"store": "ten", "repeat": 0.01}])) == 1


def test_a_draw_follows_from_seed_epoch_and_place_alone(place):
    datasets = [{"store": "ten", "draw": {"flip": 0.5, "rounds": 3}}, {"store": "three"}]
    one, two = (MixtureDataset(mixed(place, datasets), SETTINGS, 7) for _ in range(2))
    forwards = [one.record(1, index) for index in range(13)]
    two.record(0, 3)
    assert [two.record(1, index) for index in reversed(range(13))] == forwards[::-1]
    copy = pickle.loads(pickle.dumps(one))
    assert [copy.record(1, index) for index in range(13)] == forwards
    assert [one.record(2, index) for index in range(13)] != forwards
    assert [MixtureDataset(mixed(place, datasets), SETTINGS, 8).record(1, i) for i in range(13)] != forwards


def test_a_draw_is_that_of_draw_record(place):
    dataset = MixtureDataset(mixed(place, [{"store": "ten"}]), SETTINGS, 3)
    assert dataset.record(2, 4) == draw_record(image(4), 0, SETTINGS, rng=generator(3, 2, 4))


def test_the_seed_of_the_file_wins(place):
    dataset = MixtureDataset(mixed(place, [{"store": "ten"}], seed=5), SETTINGS, 0)
    assert dataset.seed == 5
    assert dataset.record(0, 1) == MixtureDataset(mixed(place, [{"store": "ten"}]), SETTINGS, 5).record(0, 1)


def test_draw_settings_are_those_of_the_dataset(place):
    mixture = mixed(place, [{"store": "ten", "draw": {"rounds": 4}}, {"store": "three"}])
    dataset = MixtureDataset(mixture, SETTINGS, 0)
    assert [len(dataset.record(0, index)["conversations"]) for index in (0, 12)] == [8, 4]


def test_images_lie_under_the_folder_that_the_mixture_names(place):
    mixture = mixed(
        place, [{"store": "three", "images": "coco/"}, {"records": "talk.json", "images": "llava"}]
    )
    dataset = MixtureDataset(mixture, SETTINGS, 0)
    assert [dataset.record(0, index).get("image") for index in (0, 3, 4)] == [
        "coco/0.jpg",
        None,
        "llava/b.jpg",
    ]
    assert list(dataset.image_names()) == [f"coco/{number}.jpg" for number in range(3)] + ["llava/b.jpg"]


def test_a_vanished_target_gives_its_place_to_another_record_and_is_counted(place):
    write_store([image(0, pixels=1), image(1), image(2)], place / "small", about={})
    dataset = MixtureDataset(mixed(place, [{"store": "small"}]), SETTINGS, 0)
    records = [dataset.record(epoch, 0) for epoch in range(20)]
    assert {record["id"] for record in records} == {"refcoco|1", "refcoco|2"}
    assert dataset.why["vanished"] >= 20
    kept = MixtureDataset(
        mixed(place, [{"store": "small", "draw": {"cell_policy": "keep_small"}}]), SETTINGS, 0
    )
    assert kept.record(0, 0)["id"] == "refcoco|0" and not kept.why


def test_candidates_go_on_in_the_same_dataset_and_end(place):
    dataset = MixtureDataset(mixed(place, [{"store": "ten"}, {"store": "three"}]), SETTINGS, 0)
    found = [record["id"] for record in dataset.candidates(0, 11)]
    assert found[0] == "three|1" and len(found) == TRIES and set(found) == {"three|0", "three|1", "three|2"}
    assert found == [record["id"] for record in dataset.candidates(0, 11)]


def test_a_dataset_that_can_teach_nothing_is_named(place):
    write_store([image(0, pixels=1)], place / "small", about={})
    dataset = MixtureDataset(mixed(place, [{"store": "small"}]), SETTINGS, 0)
    with pytest.raises(ValueError, match=r"small: 100 draws had nothing to teach \(.*vanished.*cell_policy"):
        dataset.record(0, 0)
    with pytest.raises(IndexError, match="record 1 of mixture"):
        dataset.record(0, 1)


def test_the_table_says_what_is_mixed_and_what_is_known_about_test_images(place):
    mixture = mixed(place, [{"store": "three", "repeat": 2}, {"records": "talk.json"}, {"store": "ten"}])
    lines = [line.split() for line in mixture.table().splitlines()]
    assert lines[0] == ["mixture", str(place / "mix.yaml")]
    assert lines[2] == "three referring 3 3 2 6 33.3 % 12 left out, not those of refzom".split()
    assert lines[3] == "talk.json records as they are 1 2 1 2 11.1 % not looked for".split()
    assert lines[4] == "ten referring 10 10 1 10 55.6 % not looked for".split()
    assert lines[5] == "all 18 100.0 %".split()
    assert mixture.facts()[0] == {"name": "three", "records": 3, "per epoch": 6, "draw": {}, "images": ""}


def test_records_on_test_images_are_kept_out_by_the_root_of_their_datasets(place):
    write_dataset(place / "refer", [ref(1, 1, ["dog"], image_id=2, split="testA")], [annotation(1, [SQUARE])])
    talk = json.loads((place / "talk.json").read_text())
    talk.append({**talk[1], "id": "c", "image": "coco/train2017/000000000002.jpg"})
    write_records(place / "talk.json", talk)
    mixture = mixed(place, [{"records": "talk.json"}], test_images="refer")
    assert len(mixture) == 2
    known = "1 records left out, not those of refcoco+, refcocog, grefcoco, refzom"
    assert mixture.table().splitlines()[2].endswith(known)
    with pytest.raises(ValueError, match="test_images 'nowhere': must be the folder of the RefCOCO family"):
        mixed(place, [{"records": "talk.json"}], test_images="nowhere")


def test_stores_and_record_files_mix_without_a_file(place):
    assert is_mixture(place / "ten") and is_mixture("a.yaml") and not is_mixture("talk.json")
    mixture = open_mixture(["ten", "talk.json"])
    assert [(portion.name, portion.repeat) for portion in mixture.portions] == [("ten", 1), ("talk.json", 1)]
    (place / "mix.yaml").touch()
    with pytest.raises(ValueError, match=r"mix.yaml is a mixture file and must stand alone"):
        open_mixture(["ten", "mix.yaml"])


def test_everything_wrong_in_a_file_is_told_at_once(place):
    datasets = [
        {"store": "ten", "repeat": -1, "draw": {"round": 2, "grid_hw": [3, 3]}, "sauce": 1},
        {"records": "none.json", "draw": {"rounds": 2}},
        {"store": "nowhere", "records": "talk.json", "repeat": True},
        "ten",
    ]
    with pytest.raises(ValueError) as caught:
        mixed(place, datasets, seed=-1, stores=[], records_per_epoch=0)
    for part in (
        "unknown key 'stores'; known are seed, records_per_epoch, test_images, datasets",
        "seed -1: must be a whole number from 0",
        "records_per_epoch 0: must be a whole number from 1",
        "records_per_epoch goes with weights",
        "dataset 1: repeat -1: must be a number from 0",
        "dataset 1: unknown key 'sauce'; known are store, records, repeat, weight, draw, images",
        "dataset 1: draw: unknown key 'round'; known are cell_policy, rounds",
        "dataset 1: draw: grid_hw belongs to the checkpoint",
        "dataset 2: records none.json not found",
        "dataset 2: draw goes with a store",
        "dataset 3: give either `store`, a folder, or `records`, a file",
        "dataset 3: store nowhere not found or no store; make it with",
        "dataset 3: repeat True: must be a number",
        "dataset 4: 'ten' is no mapping",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("datasets", "more", "message"),
    [
        ([{"store": "ten", "weight": 1}, {"store": "three"}], {"records_per_epoch": 4}, "some have none"),
        ([{"store": "ten", "weight": 1}], {}, "weights need records_per_epoch"),
        ([{"store": "ten", "repeat": 0}], {}, "takes no record at all"),
        ([], {}, "has no list `datasets`"),
    ],
)
def test_shares_that_make_no_epoch_are_refused(place, datasets, more, message):
    with pytest.raises(ValueError, match=message):
        mixed(place, datasets, **more)


def test_a_wrong_value_of_a_draw_setting_names_its_dataset(place):
    mixture = mixed(place, [{"store": "ten", "draw": {"flip": 2}}])
    with pytest.raises(ValueError, match="ten: draw settings: flip 2: from 0 to 1"):
        MixtureDataset(mixture, SETTINGS, 0)
    for wrong, message in (
        ({"flip": "0.5"}, "ten: draw settings: flip '0.5': from 0 to 1"),
        ({"max_blocks": 2.5}, "ten: draw settings: max_blocks 2.5: a whole number, at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            MixtureDataset(mixed(place, [{"store": "ten", "draw": wrong}]), SETTINGS, 0)
    with pytest.raises(ValueError, match="dataset 1: draw: wording 3: must be a path"):
        mixed(place, [{"store": "ten", "draw": {"wording": 3}}])
    mixture = mixed(place, [{"store": "ten", "draw": {"wording": "mine.yaml"}}])
    with pytest.raises(FileNotFoundError, match=r"mine.yaml not found"):
        MixtureDataset(mixture, SETTINGS, 0)


def test_records_of_another_grid_are_refused(place):
    record = draw_record(image(0), 0, SETTINGS, rng=generator(0, 0, 0))
    write_records(place / "old.jsonl", [record])
    with pytest.raises(
        ValueError, match=r"old.jsonl: 1 of 1 records have a 4x4 grid, first 'refcoco\|0'; .*8x8"
    ):
        MixtureDataset(open_mixture(["old.jsonl"]), DrawSettings(grid_hw=(8, 8)), 0)
    MixtureDataset(open_mixture(["old.jsonl"]), SETTINGS, 0)


def test_files_that_are_no_mixture_are_named(place):
    with pytest.raises(FileNotFoundError, match=r"examples of mixture files lie in scripts/v1_5/mixtures"):
        open_mixture(["none.yaml"])
    (place / "bad.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"bad.yaml is not valid YAML"):
        open_mixture(["bad.yaml"])
    with pytest.raises(ValueError, match=r"records none.json not found"):
        open_mixture(["none.json"])


def test_a_store_serves_every_grid(place):
    for grid_hw in ((4, 4), (5, 7)):
        dataset = MixtureDataset(open_mixture(["ten"]), DrawSettings(grid_hw=grid_hw), 0)
        record = dataset.record(0, 0)
        assert (record["height"], record["width"]) == grid_hw
    assert len(open_store(place / "ten")) == 10


SCRIPTS = Path(__file__).parents[1] / "scripts"
EXAMPLES = [*sorted((SCRIPTS / "v1_5" / "mixtures").glob("*.yaml")), SCRIPTS / "text4seg_pp" / "mixture.yaml"]


def test_there_are_examples():
    names = ["text4seg", "text4seg_grefer", "text4seg_ovs", "text4seg_refer", "mixture"]
    assert [path.stem for path in EXAMPLES] == names


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_needs_nothing_but_its_data(place, path):
    content = yaml.safe_load(path.read_text())
    entries = content["datasets"]
    with pytest.raises(ValueError) as caught:
        open_mixture([path])
    problems = str(caught.value).splitlines()[1:]
    assert len(problems) == ("test_images" in content) + len(entries)
    assert all("not found" in problem or "test_images" in problem for problem in problems)
    (place / "playground/data/refer_seg").mkdir(parents=True)
    for entry in entries:
        if "records" in entry:
            shutil.copy(place / "talk.json", place / entry["records"])
            continue
        name, _, split = Path(entry["store"]).name.rpartition("_")
        assert split in DATASETS[name].splits
        shutil.copytree(place / "ten", place / entry["store"])
    mixture = open_mixture([path])
    assert len(MixtureDataset(mixture, SETTINGS, 0)) == len(mixture)
    assert len(mixture.portions) == len(entries)


def test_the_published_mixture_takes_conversations_once_and_each_copy_of_a_ref_three_times():
    entries = yaml.safe_load(EXAMPLES[0].read_text())["datasets"]
    assert [entry.get("repeat", 1) for entry in entries] == [1, 6, 6, 6, 6]


def test_every_example_with_records_keeps_test_images_out():
    for path in EXAMPLES:
        content = yaml.safe_load(path.read_text())
        assert ("test_images" in content) == any("records" in entry for entry in content["datasets"])

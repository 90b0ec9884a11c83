import json
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llava.data import store as store_module
from llava.data.annotated import AnnotatedImage, Target, anchors, collect
from llava.data.held_out import LeakFilter, held_out_images
from llava.data.problems import Problems
from llava.data.readers import DATASETS, read_dataset
from llava.data.rle import empty_rle, encode_mask
from llava.data.store import EXTENT, STORE_FILE, is_store, open_store, write_store

SIZE_HW = (20, 30)


def square(rows, columns):
    mask = np.zeros(SIZE_HW, dtype=bool)
    mask[rows, columns] = True
    return encode_mask(mask)


def referring(number):
    """Image with a small square of two names, a target that is not there, and one without a pixel."""
    targets = (
        Target("t0", ("red square", "the square"), square(slice(0, 5), slice(3, 9)), group="colour"),
        Target("t1", ("no dog",), None),
        Target("t2", ("speck", "a speck"), empty_rle(SIZE_HW)),
    )
    return AnnotatedImage(
        f"refcoco|{number}", "refcoco", "referring", f"images/{number}.jpg", SIZE_HW, targets
    )


def reasoning(number):
    """Image with two questions, the first about two targets, and an ignored region."""
    targets = tuple(
        Target(f"t{k}", ("thing",), square(slice(k, 20), slice(0, 9)), question=q, answer="Because.")
        for k, q in enumerate(("Which fly?", "Which fly?", "Which swim?"))
    )
    ignore = square(slice(0, 3), slice(0, 30))
    return AnnotatedImage(f"muse|{number}", "muse", "reasoning", f"{number}.png", SIZE_HW, targets, ignore)


def conversation(number, image="a.jpg"):
    rounds = (("What is this? é", "A “cat”."), ("Sure?", "Yes."))
    return AnnotatedImage(f"665k|{number}", "665k", "conversation", image, (0, 0), (), conversations=rounds)


@pytest.mark.parametrize("make", [referring, reasoning, conversation])
def test_what_is_stored_comes_back_unchanged(tmp_path, make):
    images = [make(number) for number in range(3)]
    count = write_store(images, tmp_path / "store", about={"split": "train"})
    store = open_store(tmp_path / "store")
    expected = [(image, anchor) for image in images for anchor in anchors(image)]
    assert count == len(store) == len(expected)
    assert [store[index] for index in range(count)] == expected
    assert store.image_count == 3 and list(store.image_names()) == [image.image for image in images]


def test_the_json_file_says_what_the_store_is(tmp_path):
    about = {"split": "train", "classes": ["dog"], "held_out": {"images": 7}}
    write_store([referring(0)], tmp_path / "s", about=about)
    told = json.loads((tmp_path / "s" / STORE_FILE).read_text())
    assert told == about | {
        "format": 1,
        "dataset": "refcoco",
        "family": "referring",
        "anchors": 3,
        "images": 1,
        "images_without_target": 0,
    }
    store = open_store(tmp_path / "s")
    assert (store.family, store.classes) == ("referring", ("dog",))
    assert is_store(tmp_path / "s") and not is_store(tmp_path)


def test_images_without_a_target_are_left_out_and_counted(tmp_path):
    images = [replace(referring(0), targets=()), referring(1), replace(referring(2), targets=())]
    assert write_store(images, tmp_path / "s", about={}) == 3
    assert open_store(tmp_path / "s").about["images_without_target"] == 2
    with pytest.raises(ValueError, match="no image with a target"):
        write_store(images[:1], tmp_path / "t", about={})
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_extents_tell_how_much_is_written(tmp_path):
    write_store([referring(0)], tmp_path / "s", about={})
    small, absent, _ = open_store(tmp_path / "s").extents()
    assert dict(zip(EXTENT, small.tolist(), strict=True)) == {
        "letters": 10,
        "rows": 250,
        "row_letters": 2500,
        "mean_rows": 83,
        "mean_row_letters": 833,
    }
    assert absent.tolist() == [6, 0, 0, 83, 833]


def test_targets_of_one_answer_are_measured_together(tmp_path):
    write_store([reasoning(0)], tmp_path / "s", about={})
    assert [row[1] for row in open_store(tmp_path / "s").extents().tolist()] == [1000 + 950 + 900] * 2


def test_records_without_an_image_are_told(tmp_path):
    write_store([conversation(0), conversation(1, image="")], tmp_path / "s", about={})
    store = open_store(tmp_path / "s")
    assert store.has_image().tolist() == [True, False]
    assert store.extents()[:, 0].tolist() == [len("What is this? éA “cat”.Sure?Yes.")] * 2


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([referring(0), reasoning(0)], "family 'reasoning', those before it are of 'referring'"),
        ([referring(0), referring(0)], r"image id refcoco\|0 stands twice"),
        (
            [replace(referring(0), size_hw=(20, 31))],
            r"refcoco\|0: a mask has the size \(20, 30\), .*\(20, 31\)",
        ),
    ],
)
def test_images_that_do_not_fit_together_are_refused(tmp_path, images, message):
    with pytest.raises(ValueError, match=message):
        write_store(images, tmp_path / "s", about={})
    assert not list(tmp_path.iterdir())


def test_a_failed_build_leaves_the_old_store(tmp_path):
    write_store([referring(0)], tmp_path / "s", about={})

    def images():
        yield referring(1)
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError):
        write_store(images(), tmp_path / "s", about={})
    assert open_store(tmp_path / "s")[0][0] == referring(0)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_store_is_replaced_while_another_process_reads_it(tmp_path):
    write_store([referring(0)], tmp_path / "s", about={})
    before = open_store(tmp_path / "s")
    write_store([referring(1)], tmp_path / "s", about={})
    assert before[0][0] == referring(0) and open_store(tmp_path / "s")[0][0] == referring(1)


def test_a_folder_of_something_else_is_never_replaced(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(ValueError, match="is there and is no store"):
        write_store([referring(0)], tmp_path, about={})
    assert (tmp_path / "photo.jpg").exists()


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads Linux' account of memory")
def test_a_store_is_never_read_into_memory_and_pages_that_were_read_do_not_pile_up(tmp_path, monkeypatch):
    long = tuple(f"{number} " + "word " * 200 for number in range(4))
    images = [
        AnnotatedImage(f"i{n}", "d", "referring", f"{n}.jpg", SIZE_HW, (Target("t", long, None),))
        for n in range(4000)
    ]
    write_store(images, tmp_path / "s", about={})
    mapped = {}
    for reads in (10**9, 8):
        monkeypatch.setattr(store_module, "_READS_PER_RELEASE", reads)
        own, before = megabytes("RssAnon"), megabytes("RssFile")
        store = open_store(tmp_path / "s")
        assert [store[index][0].id for index in range(0, 4000, 50)] == [f"i{n}" for n in range(0, 4000, 50)]
        mapped[reads] = megabytes("RssFile") - before
        assert megabytes("RssAnon") - own < 5
        del store
    assert mapped[8] < 6 < 12 < mapped[10**9]


def megabytes(name):
    text = Path("/proc/self/status").read_text()
    return int(re.findall(rf"{name}:\s+(\d+) kB", text)[0]) / 1024


def ids_in_child(store, indices, pipe):
    pipe.send([store[index][0].id for index in indices])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_store_is_read_in_child_processes(tmp_path, method):
    write_store([referring(number) for number in range(4)], tmp_path / "s", about={})
    store = open_store(tmp_path / "s")
    assert store[0][0].id == "refcoco|0"
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    child = context.Process(target=ids_in_child, args=(store, [3, 11, 0], theirs))
    child.start()
    assert ours.poll(30) and ours.recv() == ["refcoco|1", "refcoco|3", "refcoco|0"]
    child.join()
    assert store[5][0].id == "refcoco|1"


def test_a_pickle_of_a_store_holds_its_place_and_not_its_content(tmp_path):
    write_store([referring(number) for number in range(50)], tmp_path / "s", about={})
    packed = pickle.dumps(open_store(tmp_path / "s"))
    assert len(packed) < 500 and pickle.loads(packed)[149] == open_store(tmp_path / "s")[149]


def test_a_damaged_or_missing_store_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"store.json not found .* is no store; make one with"):
        open_store(tmp_path)
    write_store([referring(0)], tmp_path / "s", about={})
    for name, content in (
        ("anchors.npy", b"cut"),
        ("images.arrow", b"cut"),
        ("store.json", b"{"),
        ("store.json", b'{"format": 0}'),
        ("store.json", b"[1]"),
        ("store.json", b'{"format": 1, "anchors": 3}'),
    ):
        path = tmp_path / "s" / name
        whole = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(ValueError, match="build"):
            open_store(tmp_path / "s")
        path.write_bytes(whole)
    with pytest.raises(IndexError, match=r"record 3 of .* which has 3"):
        open_store(tmp_path / "s")[3]


@pytest.mark.real_data
@pytest.mark.skipif("TEXT4SEG_REAL_DATA" not in os.environ, reason="TEXT4SEG_REAL_DATA is not set")
@pytest.mark.parametrize("spec", ["refcoco|testA", "refcoco+|val", "refcocog|umd|test"])
def test_real_samples_survive_the_store_and_are_told_as_test_images(tmp_path, spec):
    root = Path(os.environ["TEXT4SEG_REAL_DATA"]) / "refcoco_mini"
    samples = list(read_dataset(root, spec, Problems()))
    images = list(collect(samples, DATASETS[spec.partition("|")[0]], root))
    write_store(images, tmp_path / "s", about={})
    store = open_store(tmp_path / "s")
    stored = {(store[index][0].image, store[index][1]): store[index][0] for index in range(len(store))}
    told = [
        (name, target.mask["counts"])
        for (_, anchor), image in stored.items()
        for target in (image.targets[anchor],)
        for name in target.names
    ]
    assert sorted(told) == sorted((sample.expression, sample.mask["counts"]) for sample in samples)
    leak = LeakFilter(held_out_images(root))
    assert list(leak(images)) == [] and leak.images == len(images)


@pytest.mark.slow
def test_the_memory_bench_prints_its_table():
    bench = Path(__file__).parents[1] / "scripts" / "bench" / "store_memory.py"
    words = [sys.executable, str(bench), "--records", "300", "--reads", "16"]
    run = subprocess.run(words, capture_output=True, text=True, check=True)
    rows = [line.split("|") for line in run.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) == 7 and "store opened, 300 records" in rows[3][1]
    assert all(0 <= int(row[4].replace(",", "")) < 100 for row in rows[3:])
    assert "as one JSON list in every process" in run.stdout

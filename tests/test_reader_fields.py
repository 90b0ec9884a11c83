"""Annotation files in which one field is missing or holds something else: told in words, by every reader."""

import copy
import json
import pickle
from collections.abc import Iterator

import pytest
from dataset_folders import FOLDERS

from llava.data.problems import Problems
from llava.data.readers import read_dataset

SPECS = {
    "create_refcoco": "refcoco|train",
    "create_grefercoco": "grefcoco|train",
    "create_ref_zom": "refzom|train",
    "create_rrsisd": "rrsisd|train",
    "create_reasonseg": "reasonseg|train",
    "create_muse": "muse|train",
    "create_earthreason": "earthreason|train",
    "create_d_cube": "dcube|full",
    "create_pix2cap": "pix2cap|train",
    "create_paco_lvis": "paco_lvis|train",
    "create_coco_panoptic": "coco_panoptic|train",
}
OTHERS = (None, "x", 1.5, {"a": 1}, [None])
PICKLES = (".p", ".pkl")


def places(content, path=()) -> Iterator[tuple]:
    """Keys that lead to each value inside a content."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


def changed(content) -> Iterator:
    """The content with each value in turn taken out of its object, and replaced by other things."""
    for place in places(content):
        for other in (KeyError, *OTHERS):
            new = copy.deepcopy(content)
            owner = new
            for key in place[:-1]:
                owner = owner[key]
            if other is not KeyError:
                owner[place[-1]] = other
            elif isinstance(owner, dict):
                del owner[place[-1]]
            yield new


@pytest.mark.parametrize("command", SPECS)
def test_a_field_of_another_kind_is_told_and_never_ends_in_a_traceback(tmp_path, command):
    FOLDERS[command](tmp_path)
    files = sorted(path for path in tmp_path.rglob("*") if path.suffix in (".json", *PICKLES))
    assert files and list(read_dataset(tmp_path, SPECS[command], Problems()))
    told = 0
    for file in files:
        raw, pack = file.read_bytes(), pickle if file.suffix in PICKLES else json
        for content in changed(pack.loads(raw)):
            written = pack.dumps(content)
            file.write_bytes(written if isinstance(written, bytes) else written.encode())
            problems = Problems("skip")
            try:
                list(read_dataset(tmp_path, SPECS[command], problems))
            except ValueError as error:
                assert str(file) in str(error)
                told += 1
            told += bool(problems.counts)
        file.write_bytes(raw)
    assert told >= 10

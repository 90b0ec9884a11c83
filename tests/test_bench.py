"""Measurements of codec and builder, on drawn annotations with known numbers."""

import sys
from pathlib import Path

import numpy as np
import pytest
from refer_folder import SQUARE, annotation, ref, write_dataset

ROOT = Path(__file__).resolve().parents[1]
PIXEL = [20, 10, 21, 10, 21, 11, 20, 11]
"""Polygon that covers the pixel of row 10 and column 20, which is no centre of a cell of two by three."""

sys.path.insert(0, str(ROOT / "scripts" / "bench"))

import builder  # noqa: E402
import codec_ceiling  # noqa: E402
from command import command  # noqa: E402
from masks import load_objects  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def root(tmp_path):
    refs = [ref(1, 1, ["The Box", "other words"]), ref(2, 2, ["speck"])]
    crowd = annotation(3, {"size": [20, 30], "counts": [0, 600]}, iscrowd=1)
    annotations = [annotation(1, [SQUARE]), annotation(2, [PIXEL]), crowd]
    write_dataset(tmp_path, refs, annotations)
    return write_dataset(tmp_path, [ref(9, 1, ["again"])], annotations, dataset="refcoco+")


def rows(text):
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line
    ]
    return [dict(zip(cells[0], line, strict=True)) for line in cells[2:]]


def test_objects_that_several_sets_refer_to_come_once_with_their_first_sentence(root):
    assert [item.label for item in load_objects(root)] == ["the box", "speck"]


def test_all_instances_are_objects_but_crowds(root):
    found = load_objects(root / "refcoco", referred=False)
    assert [(item.label, item.segmentation, item.size_hw) for item in found] == [
        ("object", [SQUARE], (20, 30)),
        ("object", [PIXEL], (20, 30)),
    ]


def test_a_limit_draws_the_same_objects_each_time(root):
    one, again = (load_objects(root, limit=1) for _ in range(2))
    assert len(one) == 1 and one == again


def test_a_folder_without_annotations_and_refs_without_theirs_are_refused(tmp_path, root):
    with pytest.raises(FileNotFoundError, match=r"has no instances\*\.json.* run python scripts/check_data"):
        load_objects(tmp_path / "images")
    write_dataset(root, [ref(1, 77, ["lost"])], [annotation(1, [SQUARE])])
    with pytest.raises(ValueError, match=r"lacks annotations \[77\], which a refs file beside it names"):
        load_objects(root)


def test_the_ceiling_is_what_the_cells_of_a_drawn_object_reach(root, capsys):
    codec_ceiling.main([str(root), "--grids", "10"])
    table = rows(capsys.readouterr().out)
    assert [row["codec"] for row in table] == ["rrle", "full", "irle"]
    # Four by two cells of two by three pixels: 48 of the square's 64, none of the speck's 1.
    for row in table:
        assert row["cIoU nearest"] == f"{100 * 48 / 65:.1f}"
        assert row["gIoU nearest"] == f"{100 * 48 / 64 / 2:.1f}"
        assert row["vanished"] == "50.0"
    speck = ["others"] * 100
    box = ["the box" if cell in (11, 12, 21, 22, 31, 32, 41, 42) else "others" for cell in range(100)]
    lengths = [len(f"<seg>{'| '.join(cells)}</seg>") for cells in (box, speck)]
    assert table[1]["characters mean"] == f"{np.mean(lengths):.0f}"
    assert table[1]["characters p95"] == f"{np.percentile(lengths, 95):.0f}"


def test_keep_small_lets_nothing_vanish(root, capsys):
    codec_ceiling.main([str(root), "--grids", "10", "--codecs", "rrle", "--cell-policy", "keep_small"])
    assert rows(capsys.readouterr().out)[0]["vanished"] == "0.0"


def test_tokens_are_counted_by_a_checkpoints_tokenizer_without_special_tokens():
    count = codec_ceiling.token_counter(ROOT / "playground" / "checkpoints" / "tiny-llava-refshapes")
    one, two = count(["others", "others| others"])
    assert 0 < one < two <= 2 * one + 2


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer\.json or tokenizer\.model"):
        codec_ceiling.token_counter(tmp_path)


def test_every_plain_way_writes_what_ours_writes():
    rng = np.random.default_rng(0)
    jobs = [
        ([rng.uniform(0, 60, 2 * rng.integers(3, 9)).round(2).tolist() for _ in range(3)], "man*3", (50, 60))
        for _ in range(30)
    ]
    for side in (7, 16):
        builder.check_equal((builder.plain_merged, builder.ours), jobs, side)
        for job in jobs:
            stored = (builder.union_rle(job[0], job[2])[0], *job[1:])
            assert builder.plain_stored(stored, side) == builder.ours(job, side)
            assert builder.plain_summed(job, side) == builder.ours_stored(stored, side)


def test_ways_that_differ_are_not_compared():
    job = ([SQUARE], "box", (20, 30))
    with pytest.raises(ValueError, match="the two ways differ on a 5x5 grid for 'box'"):
        builder.check_equal((builder.ours, lambda job, side: ""), [job], 5)


def test_the_builder_measurement_prints_a_row_for_each_start_and_each_number_of_processes(root, capsys):
    builder.main([str(root), "--grids", "8", "--rounds", "1", "--workers", "1", "--seconds", "0.001"])
    speeds, processes = capsys.readouterr().out.split("Ours from polygons")
    assert [row["starts from"] for row in rows(speeds)] == [
        "polygons, summed",
        "polygons, merged",
        "stored RLE",
    ]
    assert [row["of linear"] for row in rows(processes)] == ["100 %"]


def test_a_wrong_folder_ends_a_measurement_with_a_sentence(tmp_path):
    with pytest.raises(SystemExit, match=rf"error: .*{tmp_path.name}"):
        command(lambda: codec_ceiling.main([str(tmp_path)]))

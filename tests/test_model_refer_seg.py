import json
import os
import pickle
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from llava.eval import model_refer_seg
from llava.eval.benchmarks import BENCHMARKS
from llava.eval.loop import Shard
from llava.eval.model_refer_seg import main, own_shard, parse
from llava.eval.report import RESULTS_FILE

SCRIPT = Path(__file__).parent.parent / "scripts" / "v1_5" / "eval" / "refer_seg.sh"


@pytest.fixture
def data_root(tmp_path):
    """Two images, three expressions, in the layout of RefCOCO."""
    root = tmp_path / "refer_seg"
    (root / "refcoco").mkdir(parents=True)
    folder = root / "images" / "mscoco" / "images" / "train2014"
    folder.mkdir(parents=True)
    images, annotations, refs = [], [], []
    for number, (width, height) in enumerate([(40, 30), (30, 40)], start=1):
        name = f"COCO_train2014_{number:012d}.jpg"
        Image.new("RGB", (width, height), (90, 90, 200)).save(folder / name)
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        square = [5, 5, 20, 5, 20, 20, 5, 20]
        annotations.append(
            {"id": number, "image_id": number, "category_id": 1, "segmentation": [square], "area": 225}
            | {"bbox": [5, 5, 15, 15], "iscrowd": 0}
        )
        words = ["red square", "the left one"][:number]
        sentences = [
            {"sent_id": 10 * number + place, "sent": sent, "raw": sent, "tokens": sent.split()}
            for place, sent in enumerate(words)
        ]
        refs.append(
            {"ref_id": number, "ann_id": number, "category_id": 1, "image_id": number, "file_name": name}
            | {"split": "val", "sent_ids": [one["sent_id"] for one in sentences], "sentences": sentences}
        )
    instances = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (root / "refcoco" / "instances.json").write_text(json.dumps(instances))
    (root / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    return root


def command(model, data_root, out, *more):
    fixed = ["--model-path", model, "--data-root", data_root, "--splits", "refcoco|val", "--out", out]
    return [str(word) for word in (*fixed, "--max-new-tokens", 12, "--device", "cpu", *more)]


def test_a_checkpoint_is_scored_from_files_to_report(
    tiny_llava_folder, tiny_sam_folder, data_root, tmp_path, capsys
):
    out = tmp_path / "run"
    main(command(tiny_llava_folder, data_root, out, "--sam-path", tiny_sam_folder, "--batch-size", 2))
    results = json.loads((out / RESULTS_FILE).read_text())
    assert list(results["splits"]) == ["refcoco|unc|val"]
    assert list(results["splits"]["refcoco|unc|val"]["scores"]) == ["grid", "coarse", "refined"]
    assert results["counts"]["samples"] == 3
    assert results["settings"]["options"]["dtype"] == "float32"
    assert results["seconds"]["generate"] > 0
    assert "refcoco|unc|val  refined" in capsys.readouterr().out
    assert (out / "report.html").is_file()
    with pytest.raises(SystemExit, match=r"error: .* other settings: refiner was .*options was"):
        main(command(tiny_llava_folder, data_root, out))


def test_two_processes_score_like_one(tiny_llava_folder, data_root, tmp_path, monkeypatch):
    main(command(tiny_llava_folder, data_root, tmp_path / "one", "--batch-size", 1))
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        main(command(tiny_llava_folder, data_root, tmp_path / "two", "--batch-size", 2))
    one, two = (json.loads((tmp_path / name / RESULTS_FILE).read_text()) for name in ("one", "two"))
    assert one["splits"] == two["splits"]


def test_the_shard_comes_from_torchrun(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert own_shard() == Shard(0, 1)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert own_shard() == Shard(3, 8)


def test_a_rank_without_its_number_of_processes_is_told(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(SystemExit, match="error: rank 3 of 1 processes"):
        main(command("model", "data", "run"))


@pytest.mark.parametrize(
    ("device", "local_rank", "gpu", "expected"),
    [
        (None, None, True, None),
        (None, "3", True, "cuda:3"),
        (None, "3", False, None),
        ("cuda", "3", True, "cuda:3"),
        ("cpu", "3", True, "cpu"),
        ("cuda:1", None, True, "cuda:1"),
    ],
)
def test_each_process_takes_its_own_gpu(monkeypatch, device, local_rank, gpu, expected):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert model_refer_seg.own_device(device) == expected


def test_a_limit_takes_a_seeded_choice(data_root):
    read_samples = BENCHMARKS["refer_seg"].read_all

    def chosen(seed):
        return [one.id for one in read_samples(data_root, ["refcoco|val"], limit=2, seed=seed)]

    everything = [one.id for one in read_samples(data_root, ["refcoco|val"], limit=None, seed=0)]
    assert len(everything) == 3
    assert chosen(1) == chosen(1)
    assert len({tuple(chosen(seed)) for seed in range(10)}) > 1
    assert read_samples(data_root, ["refcoco|val"], limit=9, seed=0) == read_samples(
        data_root, ["refcoco|val"], limit=None, seed=0
    )
    with pytest.raises(ValueError, match="--limit 0: at least 1"):
        read_samples(data_root, ["refcoco|val"], limit=0, seed=0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("--splits", "refcoco|testC"), "testC"),
        (("--data-root", "/nowhere"), "not found"),
        (("--model-path", "/nowhere"), "checkpoint folder /nowhere not found"),
    ],
)
def test_wrong_input_ends_with_one_sentence(tiny_llava_folder, data_root, tmp_path, changed, message):
    with pytest.raises(SystemExit, match=rf"error: .*{message}"):
        main(command(tiny_llava_folder, data_root, tmp_path / "run", *changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("--batch-size", "0"), "batch_size 0: at least 1"),
        (("--max-new-tokens", "0"), "--max-new-tokens 0: at least 1"),
        (("--splits", "refcoco|val", "refcoco|unc|val"), "3 sample ids occur twice"),
        (("--out", "FILE"), "FILE is a file; choose another folder"),
        (("--out", "FILE/run"), "FILE/run: .*FILE is a file; choose another folder"),
    ],
)
def test_wrong_input_is_told_before_any_weight_is_loaded(
    tiny_llava_folder, data_root, tmp_path, monkeypatch, changed, message
):
    loaded = []
    monkeypatch.setattr(model_refer_seg, "load_models", lambda *given: loaded.append(given))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("")
    with pytest.raises(SystemExit, match=rf"error: .*{message}"):
        main(command(tiny_llava_folder, data_root, tmp_path / "run", *changed))
    assert not loaded


def test_a_wrong_path_of_sam_does_not_bind_the_folder(tiny_llava_folder, data_root, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(SystemExit, match=r"error: .*/nowhere/sam not found"):
        main(command(tiny_llava_folder, data_root, out, "--sam-path", "/nowhere/sam"))
    main(command(tiny_llava_folder, data_root, out))
    assert json.loads((out / RESULTS_FILE).read_text())["settings"]["refiner"] == "none"


def test_a_checkpoint_on_the_hub_is_named_as_it_is(monkeypatch, tiny_llava_folder, data_root):
    settings = model_refer_seg.find_settings(tiny_llava_folder)
    monkeypatch.setattr(model_refer_seg, "find_settings", lambda path: settings)
    options = parse(command("somebody/text4seg", data_root, "run"))
    assert model_refer_seg.run_settings(options, []).checkpoint == "somebody/text4seg"
    options = parse(command(os.path.relpath(tiny_llava_folder), data_root, "run"))
    assert model_refer_seg.run_settings(options, []).checkpoint == tiny_llava_folder.as_posix()


def test_a_split_without_a_sample_is_told(data_root, monkeypatch):
    monkeypatch.setattr("llava.eval.benchmarks.read_refer", lambda root, spec: [])
    with pytest.raises(ValueError, match=r"'refcoco\|val' in .* has nothing to ask; name another split"):
        BENCHMARKS["refer_seg"].read_all(data_root, ["refcoco|val"], limit=None, seed=0)


def printed_command(tmp_path, *arguments, **environment):
    """What refer_seg.sh would start, one word a line: its Python is a script that prints its arguments."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "PYTHON": str(python), **environment}
    done = subprocess.run(["bash", SCRIPT, *arguments], env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines()


def test_the_script_scores_the_eight_splits_by_default(tmp_path):
    code, words = printed_command(tmp_path, "checkpoints/run1/")
    assert (code, words[:2]) == (0, ["-m", "llava.eval.model_refer_seg"])
    options = parse(words[2:])
    assert len(options.splits) == 8
    assert options.splits[-1] == "refcocog|umd|test"
    assert (str(options.model_path), str(options.out)) == ("checkpoints/run1", "results/run1")
    assert options.data_root == SCRIPT.parents[3] / "playground/data/refer_seg"
    assert options.sam_path == "facebook/sam-vit-huge"
    assert (options.limit, options.device, options.dtype, options.model_base) == (None, None, None, None)


def test_every_variable_of_the_script_reaches_the_command(tmp_path):
    code, words = printed_command(
        tmp_path,
        "run1",
        "refshapes|val",
        "grefshapes|val",
        DATA_ROOT="/data",
        MODEL_BASE="base",
        SAM_PATH="none",
        BATCH_SIZE="3",
        MAX_NEW_TOKENS="99",
        DECODING="constrained",
        LIMIT="5",
        SEED="7",
        DEVICE="cpu",
        DTYPE="float32",
        NPROC="4",
        OUT="/out",
    )
    assert code == 0
    assert words[:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "4"]
    options = parse(words[7:])
    assert vars(options) == {
        "benchmark": "refer_seg",
        "model_path": Path("run1"),
        "model_base": "base",
        "decoding": "constrained",
        "sam_path": "none",
        "refiner": None,
        "sam_iterations": None,
        "sam_points": None,
        "sam_box": False,
        "sam_guard": None,
        "soft_prompts": False,
        "data_root": Path("/data"),
        "splits": ["refshapes|val", "grefshapes|val"],
        "batch_size": 3,
        "max_new_tokens": 99,
        "limit": 5,
        "seed": 7,
        "device": "cpu",
        "dtype": "float32",
        "out": Path("/out"),
    }


def test_the_script_without_a_checkpoint_explains_itself(tmp_path):
    code, words = printed_command(tmp_path)
    assert code == 2
    assert any("refer_seg.sh CHECKPOINT [DATASET|SPLIT ...]" in word for word in words)
    assert printed_command(tmp_path, "--help")[0] == 0

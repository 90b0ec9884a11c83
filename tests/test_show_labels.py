import re
import shutil

import pytest
from conftest import tiny_llava

from llava.constants import IGNORE_INDEX
from llava.data.prompt import render
from llava.data.records import write_records
from llava.data.tokens import tokenize
from llava.train.show_labels import GREEN, GREY, PLAIN, coloured, main

ANSWER = "Here:\n<seg>others *4\n red square *4\n others *4\n others *4\n</seg>"


def parts(text):
    """(colour, text) of a coloured text."""
    return re.findall(rf"({re.escape(GREEN)}|{re.escape(GREY)})(.*?){re.escape(PLAIN)}", text, re.DOTALL)


def test_answers_are_green_and_the_rest_is_grey():
    processor = tiny_llava()[1]
    rounds = [("<image>\nWhere?", ANSWER), ("And now?", "Nowhere.")]
    shown = parts(coloured(*tokenize(render("plain_v1", rounds), processor), processor))
    assert [text for colour, text in shown if colour == GREEN] == [f" {ANSWER}</s>", " Nowhere.</s>"]
    assert [text for colour, text in shown if colour == GREY] == [
        "<s>USER: ",
        "<image>×16",
        "\nWhere? ASSISTANT:",
        "USER: And now? ASSISTANT:",
    ]


def test_a_sample_without_supervision_has_no_green():
    processor = tiny_llava()[1]
    ids, _ = tokenize(render("plain_v1", [("Hi", "Ho")]), processor)
    assert GREEN not in coloured(ids, [IGNORE_INDEX] * len(ids), processor)


@pytest.fixture
def flags(tmp_path, picture, tiny_llava_folder):
    """Command line for one record with one image."""
    picture(30, 20).save(tmp_path / "0.png")
    turns = [{"from": "human", "value": "<image>\nWhere?"}, {"from": "gpt", "value": ANSWER}]
    record = {"id": "r0", "image": "0.png", "height": 4, "width": 4, "conversations": turns}
    write_records(tmp_path / "train.json", [record])
    places = {
        "model_name_or_path": tiny_llava_folder,
        "data_path": tmp_path / "train.json",
        "image_folder": tmp_path,
    }
    return [word for name, place in places.items() for word in (f"--{name}", str(place))]


def test_the_command_prints_record_image_and_counts(flags, capsys):
    main(flags)
    shown = capsys.readouterr().out
    assert "record r0  0.png  30x20 pixels" in shown
    supervised = sum(label != IGNORE_INDEX for label in tokenized_labels())
    assert f"{supervised} of {len(tokenized_labels())} tokens supervised" in shown
    assert f"{GREEN} {ANSWER}</s>{PLAIN}" in shown


def tokenized_labels():
    return tokenize(render("plain_v1", [("<image>\nWhere?", ANSWER)]), tiny_llava()[1])[1]


def test_a_wrong_grid_ends_with_a_sentence(flags):
    with pytest.raises(SystemExit, match=r"error: .*1 of 1 records have a 4x4 grid"):
        main([*flags, "--grid", "5"])


def test_a_checkpoint_without_its_tokenizer_ends_with_a_sentence(flags, tiny_llava_folder, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "segmentation.json"):
        shutil.copyfile(tiny_llava_folder / name, folder / name)
    with pytest.raises(SystemExit, match=r"error: .*the processor .* cannot be read"):
        main([*flags, "--model_name_or_path", str(folder)])

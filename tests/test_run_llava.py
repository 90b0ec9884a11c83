import numpy as np
import pytest
from eval_fakes import FakeRefiner, FakeSegmenter
from PIL import Image

from llava.eval import run_llava
from llava.eval.run_llava import describe, main, make_query, outcome, refine, write_pictures
from llava.types import Prediction


def prediction(mask, absent=False, **more):
    return Prediction(mask[None, None], np.array([absent]), more.pop("text", "Sure."), **more)


def pixels(path):
    with Image.open(path) as image:
        return np.array(image)


SOME = np.arange(24 * 32).reshape(24, 32) < 77
NONE = np.zeros((24, 32), dtype=bool)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (prediction(SOME), "Mask found: 77 pixels, 10.0 % of the image."),
        (prediction(NONE, absent=True), "Empty mask: "),
        (prediction(NONE), "No mask: the model answered without a mask."),
    ],
)
def test_three_outcomes_are_told_in_words(given, words):
    assert outcome(given).startswith(words)


def test_the_description_holds_answer_areas_and_faults():
    given = prediction(SOME, text="Here:\n<seg>…</seg>", labels={"red dog": 77}, faults=("row 2 is short",))
    assert describe(given) == [
        "Answer: Here:\n<seg>…</seg>",
        "Mask found: 77 pixels, 10.0 % of the image.",
        "  red dog: 77 pixels, 10.0 % of the image",
        "Fault in the answer: row 2 is short",
    ]


@pytest.mark.parametrize(
    ("text", "target", "question"),
    [
        (" The Red Car ", "the red car", None),
        ("Where is the dog?", "where is the dog", "Where is the dog?"),
        ("Please segment only the cat.", "please segment only the cat", "Please segment only the cat."),
        ("?", "?", "?"),
    ],
)
def test_a_query_is_a_target_or_a_whole_question(text, target, question):
    query = make_query(Image.new("RGB", (4, 4)), text)
    assert (list(query.targets), query.question) == ([target], question)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_query_is_refused(text):
    with pytest.raises(ValueError, match="--query is empty; name what to segment"):
        make_query(Image.new("RGB", (4, 4)), text)


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [(SOME, "Refined mask: "), (NONE, "Refiner: coarse is empty; the coarse mask is kept.")],
)
def test_the_refiner_says_what_it_did(mask, sentence):
    refined, said = refine(FakeRefiner(), Image.new("RGB", (32, 24)), mask)
    assert said.startswith(sentence)
    assert refined.shape == (24, 32)


def test_the_last_mask_is_the_mask(tmp_path):
    paths = write_pictures(tmp_path, "cat", Image.new("RGB", (32, 24)), {"coarse": ~SOME, "refined": SOME})
    assert [path.name for path in paths] == ["cat_coarse_mask.png", "cat_mask.png", "cat_overlay.png"]
    assert np.array_equal(pixels(tmp_path / "cat_mask.png"), SOME * np.uint8(255))
    assert pixels(tmp_path / "cat_overlay.png").shape[1] > 3 * 400


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGB", (32, 24), (10, 20, 30)).save(path)
    return path


def command(photo, query, *more):
    return ["--model-path", "m", "--image-file", str(photo), "--query", query, *map(str, more)]


@pytest.fixture
def fakes(monkeypatch):
    monkeypatch.setattr(
        run_llava,
        "load_models",
        lambda options: (FakeSegmenter(), FakeRefiner() if options.sam_path != "none" else None),
    )


def test_the_command_prints_the_outcome_and_where_the_pictures_are(photo, tmp_path, fakes, capsys):
    main(command(photo, "square 4 4 12 12", "--out", tmp_path / "out"))
    shown = capsys.readouterr().out
    assert "Mask found: 96 pixels, 12.5 % of the image." in shown
    assert f"Wrote {tmp_path / 'out' / 'photo_mask.png'}" in shown
    assert pixels(tmp_path / "out" / "photo_mask.png").sum() == 96 * 255


def test_the_command_refines_when_told(photo, tmp_path, fakes, capsys):
    main(command(photo, "square 4 4 12 12", "--out", tmp_path / "out", "--sam-path", "sam"))
    assert "Refined mask: 64 pixels" in capsys.readouterr().out
    assert pixels(tmp_path / "out" / "photo_mask.png").sum() == 64 * 255


def test_the_command_tells_an_absent_target(photo, tmp_path, fakes, capsys):
    main(command(photo, "nothing", "--out", tmp_path / "out"))
    assert "Empty mask: " in capsys.readouterr().out


def test_wrong_input_ends_with_one_sentence(photo, tmp_path, fakes):
    with pytest.raises(SystemExit, match=r"error: image .*gone\.png not found"):
        main(command(tmp_path / "gone.png", "dog"))
    with pytest.raises(SystemExit, match="error: --query is empty"):
        main(command(photo, ""))


@pytest.mark.parametrize(
    ("query", "out", "message"),
    [
        ("What is in <image>?", "out", "holds <image>; leave it out"),
        ("dog", "FILE", "is a file; choose another"),
    ],
)
def test_wrong_words_and_folders_are_told_before_any_weight_is_loaded(
    photo, tmp_path, monkeypatch, query, out, message
):
    monkeypatch.setattr(run_llava, "load_models", lambda options: pytest.fail("loaded"))
    (tmp_path / "FILE").write_text("")
    with pytest.raises(SystemExit, match=f"error: --.*{message}"):
        main(command(photo, query, "--out", tmp_path / out))


def test_an_image_that_the_model_cannot_take_ends_with_one_sentence(photo, tmp_path, monkeypatch):
    class Picky(FakeSegmenter):
        def segment(self, queries):
            raise ValueError("aspect ratio must be smaller than 200")

    monkeypatch.setattr(run_llava, "load_models", lambda options: (Picky(), None))
    with pytest.raises(SystemExit, match="error: aspect ratio must be smaller than 200"):
        main(command(photo, "dog", "--out", tmp_path))


def test_a_missing_checkpoint_ends_with_one_sentence(photo, tmp_path):
    arguments = command(photo, "dog")
    arguments[1] = str(tmp_path / "no_model")
    with pytest.raises(SystemExit, match=r"error: checkpoint folder .*no_model not found"):
        main(arguments)

import builtins
import collections
import os
import pickle

import numpy as np
import pytest

from llava.data import pickles
from llava.data.pickles import RefusedPickleError, load_plain_pickle

PLAIN = [
    {
        "ref_id": 3,
        "sent_ids": [0, 1],
        "box": (1.5, -2.0),
        "split": "testA",
        "raw": "naïve café",
        "none": None,
        "flags": {True, False},
        "frozen": frozenset([4]),
        "big": 2**80,
        "bytes": b"\x00\xff",
        "empty": b"",
    }
]


class Call:
    """Pickles to a call of `function` on load."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def write(path, content, protocol=2):
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_survives_in_every_protocol(tmp_path, protocol):
    assert load_plain_pickle(write(tmp_path / "refs.p", PLAIN, protocol)) == PLAIN


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_numpy_scalars_come_back_as_python_numbers(tmp_path, protocol):
    values = [np.int64(-7), np.float32(1.5), np.uint8(255), np.bool_(True), np.dtype(">i4").type(9)]
    read = load_plain_pickle(write(tmp_path / "refs.p", values, protocol))
    assert read == [-7, 1.5, 255, True, 9]
    assert [type(value) for value in read] == [int, float, int, bool, int]


def test_an_ordered_dict_is_plain(tmp_path):
    content = collections.OrderedDict(b=1, a=2)
    assert load_plain_pickle(write(tmp_path / "refs.p", content)) == content


def test_text_written_by_python_2_is_read(tmp_path):
    path = write(tmp_path / "refs.p", b"(dp0\nS'sent'\np1\nS'caf\\xc3\\xa9'\np2\nsS'old'\nVunicode\np3\ns.")
    assert load_plain_pickle(path) == {"sent": "café", "old": "unicode"}


def test_latin_1_text_written_by_python_2_is_read(tmp_path):
    assert load_plain_pickle(write(tmp_path / "refs.p", b"(lp0\nS'caf\\xe9'\np1\na.")) == ["café"]


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch {marker}",), r"(posix|nt)\.system"),
        (builtins.eval, ("open({marker!r}, 'w')",), r"builtins?_*\.eval"),
        (builtins.open, ("{marker}", "w"), r"open"),
        (builtins.getattr, ("a", "upper"), r"getattr"),
        (np.zeros, (4,), r"numpy.*zeros"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_malicious_pickle_is_refused_by_name_and_nothing_runs(
    tmp_path, function, arguments, name, protocol
):
    marker = tmp_path / "marker"
    arguments = [text.format(marker=str(marker)) if isinstance(text, str) else text for text in arguments]
    path = write(tmp_path / "refs(unc).p", [Call(function, *arguments)], protocol)
    with pytest.raises(RefusedPickleError, match=name) as caught:
        load_plain_pickle(path)
    assert "refs(unc).p refused" in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_numpy_array_of_objects_is_refused(tmp_path, protocol):
    with pytest.raises(ValueError, match=r"numpy type 'O8' is not admitted"):
        load_plain_pickle(write(tmp_path / "refs.p", np.array([{}], dtype=object), protocol))


def test_a_call_of_the_array_type_is_refused(tmp_path):
    with pytest.raises(RefusedPickleError, match=r"it calls numpy\.ndarray"):
        load_plain_pickle(write(tmp_path / "refs.p", Call(np.ndarray, (2, 2))))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_numpy_arrays_of_numbers_come_back_as_nested_lists(tmp_path, protocol):
    arrays = [
        np.array([[1, 2, 3], [4, 5, 6]]),
        np.asfortranarray(np.array([[1.5, 2.0], [3.0, 4.0], [5.0, 6.0]], dtype=np.float32)),
        np.array([], dtype=np.int64),
        np.zeros((3, 0)),
        np.array([[7, 8]], dtype=">i2"),
        np.array([True, False]),
    ]
    read = load_plain_pickle(write(tmp_path / "refs.p", arrays, protocol))
    assert read[:2] == [[[1, 2, 3], [4, 5, 6]], [[1.5, 2.0], [3.0, 4.0], [5.0, 6.0]]]
    assert read[2:] == [[], [], [[7, 8]], [True, False]]
    assert type(read[0][0][0]) is int


def test_a_numpy_type_that_is_no_number_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"numpy type 'O8' is not admitted"):
        load_plain_pickle(write(tmp_path / "refs.p", np.dtype(object)))


def test_a_dotted_name_cannot_reach_through_an_admitted_module(tmp_path):
    path = write(tmp_path / "refs.p", b"\x80\x04\x8c\x08builtins\x8c\x0cset.__init__\x93.")
    with pytest.raises(ValueError, match=r"builtins\.set\.__init__"):
        load_plain_pickle(path)


def test_a_pickle_cannot_change_an_admitted_function(tmp_path):
    path = write(tmp_path / "refs.p", b"c_codecs\nencode\n(dp0\nVx\nVy\nsb.")
    with pytest.raises(ValueError, match="tries to change a function"):
        load_plain_pickle(path)
    assert not vars(pickles._latin_bytes)


def test_every_cut_of_a_pickle_is_a_clear_error(tmp_path):
    whole = pickle.dumps(PLAIN, 2)
    for end in range(len(whole)):
        with pytest.raises(ValueError, match=r"refs\.p is not a readable pickle .* download it again"):
            load_plain_pickle(write(tmp_path / "refs.p", whole[:end]))


def test_random_byte_edits_give_data_or_a_clear_error(tmp_path):
    generator = np.random.default_rng(0)
    whole = pickle.dumps(PLAIN, 2)
    failures = 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[generator.integers(len(damaged))] = generator.integers(256)
        try:
            load_plain_pickle(write(tmp_path / "refs.p", bytes(damaged)))
        except ValueError:
            failures += 1
    assert failures > 30


def test_a_html_page_saved_as_pickle_is_named_damaged(tmp_path):
    with pytest.raises(ValueError, match="not a readable pickle"):
        load_plain_pickle(write(tmp_path / "refs.p", b"<!DOCTYPE html><html>404</html>"))


def test_a_missing_pickle_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"refs\.p not found"):
        load_plain_pickle(tmp_path / "refs.p")


def test_a_numpy_scalar_without_its_type_is_refused(tmp_path):
    path = write(tmp_path / "refs.p", b"cnumpy.core.multiarray\nscalar\n(I1\nVx\ntR.")
    with pytest.raises(ValueError, match="without a plain number type"):
        load_plain_pickle(path)

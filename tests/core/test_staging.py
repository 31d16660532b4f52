"""A result appears whole or not at all, whatever happens to the process that makes it."""

from __future__ import annotations

import os
import shutil

import pytest
from _killed import kills, tree

from unipruning_core.errors import OutputError
from unipruning_core.storage import outputs
from unipruning_core.storage.documents import sealed
from unipruning_core.storage.files import write_json
from unipruning_core.storage.outputs import check_apart, check_file, check_space, write_whole
from unipruning_core.storage.ownership import LOCK, MARKER, mark
from unipruning_core.storage.staging import UNFINISHED, working

LAST = ("last",)


def fill(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


NEW_FILES = {"a": "new a", "b": "new b", "sub/c": "new c", "last": "new"}
OLD_FILES = {"a": "old a", "d": "old d", "sub/e": "old e", "gone/f": "old f", "last": "old"}


def make(out, old=(), folder=None, kept="", before_publishing=lambda work: None):
    with working(folder or out / UNFINISHED, out, "run", last=LAST, kept=kept) as work:
        fill(work.start(), NEW_FILES)
        before_publishing(work)
        work.publish(old)


def failing(error, files=None):
    def fail(work):
        fill(work.folder, files or {})
        raise error

    return fail


@pytest.mark.parametrize("place", ["inside", "beside"])
def test_the_result_appears_at_the_end_only(place, tmp_path):
    out = tmp_path / "deep" / "out"
    folder = out / UNFINISHED if place == "inside" else out.with_name("out.partial")
    with working(folder, out, "run", last=LAST) as work:
        fill(work.start(), NEW_FILES)
        assert not (out / "last").exists()
        work.publish()
    assert tree(tmp_path) == {"deep": None, **{f"deep/{name}": value for name, value in expected("out").items()}}


def expected(name):
    files = {f"{name}/{path}": text.encode() for path, text in NEW_FILES.items()}
    return {name: None, f"{name}/sub": None, **files}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["out/unfinished", "out.partial"])
def test_a_failure_leaves_nothing(error, place, tmp_path):
    out = tmp_path / "deep" / "out"
    with pytest.raises(error):
        make(out, folder=out.parent / place, before_publishing=failing(error))
    assert tree(tmp_path) == {}


def test_a_folder_that_the_user_made_stays_after_a_failure(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(RuntimeError), working(tmp_path / "out" / UNFINISHED, tmp_path / "out", "run", last=LAST):
        raise RuntimeError
    assert tree(tmp_path) == {"out": None}


@pytest.mark.parametrize("before", ["nothing", "empty", "old"])
def test_a_kill_before_any_change_inside_ends_with_the_same_bytes(before, tmp_path):
    out = tmp_path / "out"

    def reset():
        shutil.rmtree(out, ignore_errors=True)
        if before != "nothing":
            out.mkdir()
        if before == "old":
            fill(out, OLD_FILES)

    # in a real command the old files are those that are there when it begins
    def work():
        make(out, [name for name in OLD_FILES if (out / name).exists()])

    count = kills(work, lambda: check(out, "out"), reset)
    assert count > 25, "too few changes were counted"


def check(out, name):
    found = {f"{name}/{path}": value for path, value in tree(out).items()}
    assert {name: None, **found} == expected(name)
    assert os.listdir(out.parent) == [name]


def test_a_kill_before_any_change_beside_ends_with_the_same_bytes(tmp_path):
    out = tmp_path / "out"

    def work():
        with working(tmp_path / "out.partial", out, "run", last=LAST) as work:
            if not out.exists():  # else it was done, and only had to say so
                fill(work.start(), NEW_FILES)
                work.publish()

    assert kills(work, lambda: check(out, "out"), lambda: shutil.rmtree(out, ignore_errors=True)) > 15


def test_the_old_result_is_whole_until_the_new_one_is(tmp_path):
    out = fill(tmp_path / "out", OLD_FILES)
    before = tree(out)
    with pytest.raises(RuntimeError):
        make(out, OLD_FILES, before_publishing=failing(RuntimeError))
    assert tree(out) == before


def test_what_is_saved_outlasts_a_failure_and_not_a_result(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(RuntimeError):
        make(out, kept="state-.*", before_publishing=failing(RuntimeError, {"state-1/x": "1"}))
    assert sorted(os.listdir(out / UNFINISHED)) == [MARKER, "new", "state-1"]
    make(out, kept="state-.*")
    check(out, "out")


def test_a_result_that_cannot_be_put_in_its_place_is_kept_for_the_next_command(tmp_path):
    out = fill(tmp_path / "out", {"b/in the way": "theirs"})
    with pytest.raises(OSError, match="b"):
        make(out)
    shutil.rmtree(out / "b")
    with working(out / UNFINISHED, out, "run", last=LAST):
        assert (out / "last").read_text() == "new"
    check(out, "out")


def test_a_folder_that_came_meanwhile_is_not_touched(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(OSError, match="not empty"):
        make(out, folder=tmp_path / "out.partial", before_publishing=lambda _: fill(out, {"thesis": "theirs"}))
    assert tree(tmp_path) == {"out": None, "out/thesis": b"theirs"}


@pytest.mark.parametrize(
    "content",
    [
        {"thesis.tex": "theirs"},
        {MARKER: "{}"},
        {MARKER: '{"format": "unipruning-folder/1", "kind": "comparison"}\n', "new/x": "theirs"},
        {"new/thesis.tex": "theirs"},
        {f"{LOCK}/thesis.tex": "theirs"},
    ],
    ids=["file", "marker", "kind", "new", "lock"],
)
def test_a_folder_of_someone_else_in_the_place_of_ours_is_refused(content, tmp_path):
    out = tmp_path / "out"
    fill(out / UNFINISHED, content)
    before = tree(tmp_path)
    with pytest.raises(OutputError, match="was not made here; move it"), working(out / UNFINISHED, out, "run", last=()):
        pytest.fail("it is not ours")
    assert tree(tmp_path) == before


def test_what_a_user_added_to_our_folder_is_refused_by_name(tmp_path):
    out = tmp_path / "out"
    (out / UNFINISHED).mkdir(parents=True)
    mark(out / UNFINISHED, "run")
    fill(out / UNFINISHED, {"thesis.tex": "years"})
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=r"'thesis\.tex'; move it"), working(out / UNFINISHED, out, "run", last=()):
        pytest.fail("it is not all ours")
    assert tree(tmp_path) == before


def test_a_link_in_the_place_of_our_folder_is_not_followed(tmp_path):
    fill(
        tmp_path, {"theirs/.unipruning.json": '{"format": "unipruning-folder/1", "kind": "run"}\n', "theirs/new/x": ""}
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / UNFINISHED).symlink_to(tmp_path / "theirs")
    before = tree(tmp_path)
    with pytest.raises(OutputError), working(tmp_path / "out" / UNFINISHED, tmp_path / "out", "run", last=()):
        pytest.fail("it leads elsewhere")
    assert tree(tmp_path) == before


def test_a_list_of_old_files_that_was_changed_is_refused(tmp_path):
    import json

    out = tmp_path / "out"
    listed = sealed({"files": ["last", "old"]})
    fill(out / UNFINISHED, {"whole/last": "new", "old.json": json.dumps(listed | {"files": ["last", "mine"]})})
    mark(out / UNFINISHED, "run")
    fill(out, {"last": "old", "old": "old", "mine": "years"})
    with pytest.raises(OutputError, match="its checksum is"), working(out / UNFINISHED, out, "run", last=LAST):
        pytest.fail("it would delete what is not ours")
    assert sorted(path.name for path in out.iterdir()) == ["last", "mine", "old", UNFINISHED]


@pytest.mark.parametrize("names", [["../theirs"], ["/theirs"], [1], "x", None], ids=str)
def test_a_list_of_old_files_that_leads_elsewhere_is_refused(names, tmp_path):
    import json

    out = tmp_path / "out"
    fill(out / UNFINISHED, {"whole/last": "new", "old.json": json.dumps(sealed({"files": names}))})
    mark(out / UNFINISHED, "run")
    fill(tmp_path, {"theirs": "years"})
    with pytest.raises(OutputError, match=r"old\.json' is damaged"), working(out / UNFINISHED, out, "run", last=()):
        pytest.fail("it would delete what is not ours")
    assert (tmp_path / "theirs").exists()


def test_too_little_space_names_what_is_wanted_and_what_is_free(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    wanted = 2 * free + 10**15
    with pytest.raises(OutputError, match=rf"needs {wanted} bytes, but its disk has \d+ free"):
        check_space(tmp_path / "no" / "such" / "out", wanted)
    check_space(tmp_path / "no" / "such" / "out", free // 2)


@pytest.mark.parametrize(
    ("out", "other", "overlap"),
    [
        ("a", "a", True),
        ("a", "a/b", True),
        ("a/b", "a", True),
        ("link", "a", True),
        ("link/new", "a", True),
        ("a", "link/file", True),
        ("a2", "a", False),
        ("b", "a/b", False),
    ],
)
def test_an_output_that_overlaps_what_is_read_is_refused(out, other, overlap, tmp_path):
    fill(tmp_path, {"a/file": ""})
    (tmp_path / "link").symlink_to("a")
    if overlap:
        with pytest.raises(OutputError, match=r"and text .* overlap; choose another output"):
            check_apart(tmp_path / out, "text", [tmp_path / other])
    else:
        check_apart(tmp_path / out, "text", [tmp_path / other])


def test_a_folder_under_another_name_overlaps_too(tmp_path, monkeypatch):
    """As one does that is mounted twice: only its number tells."""
    fill(tmp_path, {"a/file": "", "b/file": ""})
    same = os.path.samestat
    monkeypatch.setattr(outputs.os.path, "samestat", lambda one, two: True if one != two else same(one, two))
    with pytest.raises(OutputError, match="overlap"):
        check_apart(tmp_path / "a", "text", [tmp_path / "b" / "file"])


@pytest.mark.parametrize("name", ["new.json", "old.json", "link.json", "x" * 230])
def test_a_file_is_written_whole(name, tmp_path):
    fill(tmp_path, {"old.json": "old", "target": "old"})
    (tmp_path / "link.json").symlink_to("target")
    before = tree(tmp_path)
    check_file(tmp_path / name)
    assert tree(tmp_path) == before
    write_whole(tmp_path / name, "new")
    assert tree(tmp_path) == before | {name: b"new"} | ({"target": b"new"} if name == "link.json" else {})
    assert (tmp_path / "link.json").is_symlink()


@pytest.mark.parametrize("name", ["folder", "old/below", "no/such/file", "x" * 300, "nul\0", "loop"])
def test_a_file_that_cannot_be_written_is_one_sentence(name, tmp_path):
    fill(tmp_path, {"old": "", "folder/x": ""})
    (tmp_path / "loop").symlink_to("loop")
    for attempt in (check_file, lambda path: write_whole(path, "new")):
        with pytest.raises(OutputError, match=r"could not be written: .*; (choose|replace) ") as caught:
            attempt(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_what_is_no_file_is_written_to_as_it_is():
    check_file(outputs.Path("/dev/null"))
    write_whole(outputs.Path("/dev/null"), "new")


def test_what_is_no_json_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []

"""What a folder takes on disk."""

from unipruning_core.storage.files import bytes_in


def test_files_below_count_and_one_that_goes_meanwhile_does_not(tmp_path, monkeypatch):
    (tmp_path / "below").mkdir()
    (tmp_path / "one").write_bytes(b"12345")
    (tmp_path / "below" / "two").write_bytes(b"123")
    assert bytes_in(tmp_path) == 8
    lock, listed = tmp_path / "lock", type(tmp_path).is_file
    lock.write_bytes(b"1234")

    def released(path):
        found = listed(path)
        lock.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(type(tmp_path), "is_file", released)
    assert bytes_in(tmp_path) == 8

"""Triton's cache of compiled kernels: the one that triton uses, and refused where others can write to it."""

import os

import unipruning_cuda


def test_the_cache_is_the_one_that_triton_uses(monkeypatch):
    for name in ("TRITON_CACHE_DIR", "TRITON_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    assert unipruning_cuda._cache() == "/home/me/.triton/cache"
    monkeypatch.setenv("TRITON_HOME", "/scratch")
    assert unipruning_cuda._cache() == "/scratch/.triton/cache"
    monkeypatch.setenv("TRITON_CACHE_DIR", "/elsewhere")
    assert unipruning_cuda._cache() == "/elsewhere"


def test_a_cache_that_others_can_write_to_is_not_used(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    assert unipruning_cuda._distrusted(str(folder)) is None
    folder.mkdir(mode=0o755)
    assert unipruning_cuda._distrusted(str(folder)) is None
    folder.chmod(0o777)
    assert "can be written to by everybody" in unipruning_cuda._distrusted(str(folder))
    folder.chmod(0o755)
    if os.getuid() == 0:
        os.chown(folder, 1234, -1)
        assert unipruning_cuda._distrusted(str(folder)) is None, "a cache mounted into a container"
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    assert "belongs to another user" in unipruning_cuda._distrusted(str(folder))


def test_the_probe_refuses_such_a_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "3.7.0")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    tmp_path.chmod(0o777)
    probe = unipruning_cuda.probe()
    assert not probe.available
    assert "set TRITON_CACHE_DIR to a folder of your own" in probe.detail

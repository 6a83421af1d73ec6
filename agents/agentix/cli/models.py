"""Commands about models on disk: pull, ls, show, rm.

Who uses it: __main__.py. What must hold: a model that is being pulled is in nobody's way and never looks
whole; only what was pulled is ever deleted; Ollama's files are read and never touched.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib.metadata
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from agentix.cli.engine import ask
from agentix.cli.exits import CommandError, Exit
from agentix.cli.table import pairs, size, table
from kernel.engine import modelfile
from kernel.engine.modelfile import HUB, MAGIC, OLLAMA, Listed, ModelFile, ModelFileError

INSPECT = "kernel.engine.inspect"
PULLING = ".pulling"  # folder of the store for what is on its way


def pull(options: argparse.Namespace) -> int:
    """Fetch a file of a hub into the store, or look whether Ollama has a model."""
    reference = options.model
    with _sentences():
        if reference.startswith(OLLAMA):
            file = modelfile.resolve(reference)
            print(f"{reference} is there: {size(file.size_bytes)}, read in place from {file.path}")
            return Exit.OK
        if not reference.startswith(HUB):
            text = f"{reference!r} is nothing to pull: give {HUB}owner/repo/file.gguf or {OLLAMA}name"
            raise CommandError(Exit.USAGE, text)
        file = _fetch(reference)
    print(f"{reference}: {size(file.size_bytes)} in {file.path}")
    return Exit.OK


def ls(options: argparse.Namespace) -> int:
    """List the models of the store and of Ollama."""
    listed = [*modelfile.stored(), *modelfile.ollama_models()]
    facts = _facts([model.file for model in listed if model.file is not None])
    models = [_listing(model, facts) for model in listed]
    if options.json:
        print(json.dumps(models, indent=2))
    elif not models:
        print(f"no models in {modelfile.store_dir()}: `agentix pull {HUB}owner/repo/file.gguf` fetches one")
    else:
        headings = ("MODEL", "SIZE", "FAMILY", "PARAMETERS", "QUANTISATION", "WINDOW", "")
        rows = [
            (
                model["model"], _or_none(model.get("size_bytes"), size), model.get("family"),
                _or_none(model.get("parameters"), count), model.get("quantisation"),
                model.get("trained_tokens"), model.get("error", " "),
            )
            for model in models
        ]  # fmt: skip
        print(table(headings, rows))
    return Exit.OK


def show(options: argparse.Namespace) -> int:
    """Say what a model is, what it needs, and whether it fits here."""
    found: dict[str, Any] = {}
    try:
        for line in ask(INSPECT, "--kv-type", options.kv_type, "--", options.model):
            found = line
    except CommandError as error:
        text = f"model {options.model!r}: {error}; the file may be damaged, or too new for this llama.cpp"
        raise CommandError(Exit.NO_MODEL, text) from None
    if "error" in found:
        raise CommandError(Exit.NO_MODEL, found["error"])
    print(json.dumps(found, indent=2) if options.json else pairs(_shown(found)))
    return Exit.OK


def rm(options: argparse.Namespace) -> int:
    """Delete a model from the store."""
    name = options.model
    store = modelfile.store_dir()
    if name.startswith(OLLAMA):
        text = f"{name} is Ollama's: `ollama rm {name.removeprefix(OLLAMA)}` deletes it"
        raise CommandError(Exit.NOT_PERMITTED, text)
    path = Path(os.path.abspath(os.path.expanduser(name)))
    if path.is_relative_to(store):
        name = str(path.relative_to(store))
    elif path.exists():
        text = f"{name} is not in {store}, and nothing else is deleted: delete the file yourself"
        raise CommandError(Exit.NOT_PERMITTED, text)
    with _sentences():
        name = modelfile.in_store(name)
    first = store / name
    freed_bytes = 0
    for part in modelfile.part_names(first.name):
        with contextlib.suppress(FileNotFoundError):
            freed_bytes += first.with_name(part).stat().st_size
            first.with_name(part).unlink()
    for folder in first.parents:
        if folder == store or any(folder.iterdir()):
            break
        folder.rmdir()
    print(f"deleted {name}, {size(freed_bytes)}")
    return Exit.OK


# -- fetching ---------------------------------------------------------------------------------


def _fetch(reference: str) -> ModelFile:
    repository, file_name = modelfile.hub_file(reference)
    path = modelfile.store_path(reference)
    with contextlib.suppress(ModelFileError):
        return modelfile.whole(reference, path)
    folder, _, last = file_name.rpartition("/")
    names = [f"{folder}/{part}" if folder else part for part in modelfile.part_names(last)]
    scratch = modelfile.store_dir() / PULLING / f"{repository}/{file_name}".replace("/", "--")
    with _alone_in(scratch):
        with contextlib.suppress(ModelFileError):  # another process was faster
            return modelfile.whole(reference, path)
        fetched = [_download(repository, name, scratch) for name in names]
        for file, name in zip(fetched, names, strict=True):
            with file.open("rb") as opened:
                if (magic := opened.read(len(MAGIC))) != MAGIC:
                    text = f"{HUB}{repository}/{name} starts with {magic!r}, not {MAGIC!r}"
                    raise CommandError(Exit.NO_MODEL, f"{text}: it is no GGUF file")
        path.parent.mkdir(parents=True, exist_ok=True)
        for file in reversed(fetched):  # the first part last: without it nothing looks like a model
            os.replace(file, path.with_name(file.name))
        shutil.rmtree(scratch, ignore_errors=True)
    return modelfile.whole(reference, path)


def _download(repository: str, name: str, scratch: Path) -> Path:
    """Return one file of a hub's repository, downloaded or its download finished."""
    try:
        import huggingface_hub
    except ImportError:
        text = f"needs huggingface_hub: run `{sys.executable} -m pip install huggingface_hub`"
        raise CommandError(Exit.FAILED, f"pulling from a hub {text}") from None
    try:
        return Path(huggingface_hub.hf_hub_download(repository, name, local_dir=scratch))
    except Exception as error:  # of a network, a disk and a library: it has dozens, and they change
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        text = f"{HUB}{repository}/{name} could not be fetched: {reason}"
        raise CommandError(Exit.FAILED, f"{text} (a gated model needs HF_TOKEN)") from None


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Make a folder and hold its lock; the system drops it when this process ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise CommandError(Exit.FAILED, f"{folder}: {error.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


# -- what models are --------------------------------------------------------------------------


def _listing(model: Listed, facts: dict[Path, dict[str, Any]]) -> dict[str, Any]:
    if model.file is None:
        return {"model": model.name, "error": model.problem}
    return facts[model.file.path] | {"model": model.name, "size_bytes": model.file.size_bytes}


def _facts(files: Sequence[ModelFile]) -> dict[Path, dict[str, Any]]:
    """Return what llama.cpp says of files; asking takes a second a file, so the answers are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    cache = Path(os.path.expanduser(base)) / "agentix" / "models.json"
    try:
        kept = json.loads(cache.read_bytes())
    except (OSError, ValueError):
        kept = {}
    marks = {str(file.path): _mark(file) for file in files}
    found = {path: kept[path] for path in marks if kept.get(path, {}).get("mark") == marks[path]}
    unknown = [path for path in marks if path not in found]
    while unknown:
        told: list[dict[str, Any]] = []
        try:
            for line in ask(INSPECT, "--brief", *unknown):
                told.append(line)
        except CommandError as error:  # the next file ended it
            told.append({"error": str(error)})
        if not told:
            raise CommandError(Exit.FAILED, f"{INSPECT} said nothing of {unknown[0]}")
        for path, line in zip(unknown, told, strict=False):
            found[path] = line | {"mark": marks[path]}
        unknown = unknown[len(told) :]
    keep = {path: line for path, line in found.items() if "error" not in line}
    if keep != kept:
        with contextlib.suppress(OSError):
            cache.parent.mkdir(parents=True, exist_ok=True)
            scratch = cache.with_suffix(f".{os.getpid()}")
            scratch.write_text(json.dumps(keep))
            scratch.replace(cache)
    return {Path(path): {name: line[name] for name in line if name != "mark"} for path, line in found.items()}


def _mark(file: ModelFile) -> str:
    """Return what differs when the answer may: the file's size and time, and llama.cpp's version."""
    try:
        version = importlib.metadata.version("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    return f"{file.size_bytes} {file.path.stat().st_mtime_ns} {version}"


def _shown(found: dict[str, Any]) -> dict[str, object]:
    """The lines of `show`."""
    experts = f"{found['experts_used']} of {found['experts']} in use" if found["experts"] else None
    template = None
    if found["has_template"]:
        takes = "takes tools" if found["takes_tools"] else "without tools"
        template = f"yes, {takes}, format {found['chat_format']}"
    shown = {
        "model": found["model"],
        "file": found["path"],
        "files": found["files"] if found["files"] > 1 else None,
        "title": found["title"],
        "architecture": found["architecture"],
        "family": found["family"],
        "contexts": found["exactness"],
        "parameters": count(found["parameters"]),
        "quantisation": found["quantisation"],
        "layers": found["layers"],
        "experts": experts,
        "vocabulary": f"{found['vocab']:,}",
        "window": f"{found['trained_tokens']:,} tokens",
        "sliding window": f"{found['sliding_window']:,} tokens" if found["sliding_window"] else None,
        "pooling": found["pooling"] or None,
        "chat template": template or "no",
        "weights": size(found["weight_bytes"]),
        "each token": f"{size(kv_bytes)} of {found['kv_type']}" if (kv_bytes := found["kv_bytes_per_token"]) else None,
        "each context": size(found["state_bytes"]) if found["state_bytes"] else None,
        "fits here": "yes" if found["fits"] else "no",
        "": found["fit"],
    }
    return {name: value for name, value in shown.items() if value is not None}


def count(value: float) -> str:
    """A number of parameters: 135 M, 7.6 B."""
    for unit, scale in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if value >= scale:
            shown = value / scale
            return f"{shown:.1f} {unit}" if shown < 100 else f"{shown:.0f} {unit}"
    return f"{value:.0f}"


def _or_none(value: Any, kind: Any) -> str | None:
    return None if value is None else kind(value)


@contextlib.contextmanager
def _sentences() -> Iterator[None]:
    """Pass the model files' errors on as this command's."""
    try:
        yield
    except ModelFileError as error:
        raise CommandError(Exit.NO_MODEL, str(error)) from None

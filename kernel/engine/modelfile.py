"""From a model's name to its files: paths, the model store, what was pulled from a hub, and Ollama's store.

Who calls it: boot.py, the `agentix` command and the LLM core. What must hold: it only reads the file system
and imports nothing but the standard library; a file that it returns is there, whole and a GGUF file; a name
that leads nowhere is an error that says what was looked for and what is there instead.

    /models/x.gguf  x.gguf         a file; any part of a split one stands for all
    owner/repo/x.gguf  x.gguf      in the store, by its whole name or one that only it has
    hf:owner/repo/x.gguf           in the store, pulled from the Hugging Face hub
    ollama:name[:tag]              in Ollama's store, read in place
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

MAGIC = b"GGUF"
HUB, OLLAMA = "hf:", "ollama:"
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")  # how llama.cpp names the parts of a split file
_COMPONENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=-]*")  # of a name: no hidden files, no way up
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MODEL_LAYER = "application/vnd.ollama.image.model"
_OLLAMA_SERVICE = Path("/usr/share/ollama/.ollama/models")  # where Ollama's installer for Linux has it
_SAMPLES, _SAMPLE_BYTES = 32, 32 << 10  # of each part, for its fingerprint
_MOST_NAMED = 8  # models, in one sentence


class ModelFileError(Exception):
    """A name that leads to no whole model. The message is for the user and complete."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model's GGUF file, or the parts that it was split into."""

    path: Path  # the file, or the first part: what llama.cpp is given
    parts: tuple[Path, ...]
    size_bytes: int  # of all parts


@dataclass(frozen=True, slots=True)
class Listed:
    """A model that a store has; `file` is None when it is not whole, and `problem` says why."""

    name: str  # what --model takes
    file: ModelFile | None
    problem: str = ""


def resolve(name: str, environment: Mapping[str, str] = os.environ) -> ModelFile:
    """Return the files of a model. Raises ModelFileError."""
    if name.startswith(OLLAMA):
        return _open(name, [_ollama_blob(name, environment)])
    if name.startswith(HUB):
        path = store_path(name, environment)
        if not _is_there(path):
            text = f"model {name!r} is not in {store_dir(environment)}"
            raise ModelFileError(f"{text}: run `agentix pull {name}`")
        return whole(name, path)
    if "\0" in name:
        raise ModelFileError(f"model {name!r}: a file's name has no zero byte")
    path = Path(os.path.expanduser(name)).absolute()
    if path.exists() or Path(name).is_absolute() or name.startswith(("~", ".")):
        return whole(name, path)
    return whole(name, store_dir(environment) / in_store(name, environment))


def whole(name: str, path: Path) -> ModelFile:
    """Return the file at `path` with its other parts. Raises ModelFileError, which calls it `name`."""
    parts = [path.with_name(part) for part in part_names(path.name)]
    missing = [part for part in parts if not part.exists()]
    if missing and len(missing) < len(parts):
        listed = ", ".join(part.name for part in missing[:_MOST_NAMED])
        raise ModelFileError(
            f"model {name!r} lacks {len(missing)} of its {len(parts)} parts ({listed}): put them into"
            f" {path.parent}, or pull it again"
        )
    return _open(name, parts)


def fingerprint(file: ModelFile) -> str:
    """Return what tells a model from others: 32 hexadecimal digits of its size and of samples of all its parts.

    Raises OSError.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path in file.parts:
        with path.open("rb") as part:
            size = os.fstat(part.fileno()).st_size
            digest.update(f"{size} ".encode())
            for number in range(_SAMPLES):
                part.seek(max(0, size - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
                digest.update(part.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def part_names(file_name: str) -> tuple[str, ...]:
    """Return the names of all parts that a file of this name belongs to, its own alone if it is not split."""
    match = _PART.fullmatch(file_name)
    if not match or not 1 <= int(match[2]) <= int(match[3]):
        return (file_name,)
    return tuple(f"{match[1]}-{number:05d}-of-{match[3]}.gguf" for number in range(1, int(match[3]) + 1))


def _open(name: str, parts: list[Path]) -> ModelFile:
    advice = "give --model the path of a GGUF file, or a name that `agentix ls` shows"
    size_bytes = 0
    for part in parts:
        try:
            with part.open("rb") as file:
                magic = file.read(len(MAGIC))
                size_bytes += os.fstat(file.fileno()).st_size
        except OSError as error:
            raise ModelFileError(f"model {name!r}: {error.strerror}: {advice}") from None
        if magic != MAGIC:
            shown = name if len(parts) == 1 else str(part)
            raise ModelFileError(f"model {shown!r} starts with {magic!r}, not {MAGIC!r}: {advice}")
    return ModelFile(parts[0], tuple(parts), size_bytes)


# -- the store --------------------------------------------------------------------------------


def store_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder that `agentix pull` fills: owner/repo/file below it."""
    base = environment.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(os.path.expanduser(base)) / "agentix" / "models"


def hub_file(reference: str) -> tuple[str, str]:
    """Return (owner/repo, file within it) of "hf:owner/repo/path/file.gguf". Raises ModelFileError."""
    components = reference.removeprefix(HUB).split("/")
    if len(components) < 3 or not all(_COMPONENT.fullmatch(one) for one in components):
        raise ModelFileError(f"{reference!r} is no file of a hub: wanted {HUB}owner/repo/file.gguf")
    if not reference.endswith(".gguf"):
        raise ModelFileError(f"{reference!r} names no GGUF file: wanted {HUB}owner/repo/file.gguf")
    return "/".join(components[:2]), "/".join(components[2:])


def store_path(reference: str, environment: Mapping[str, str] = os.environ) -> Path:
    """Return where the store keeps the file of an hf: reference, there or not. Raises ModelFileError."""
    repository, file_name = hub_file(reference)
    return store_dir(environment) / repository / file_name


def in_store(name: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the store's whole name of a model given by it or by a part that no other has.

    Raises ModelFileError.
    """
    names = [listed.name for listed in stored(environment)]
    wanted = name.removeprefix(HUB)
    last = wanted.rpartition("/")[2]
    wanted = wanted[: len(wanted) - len(last)] + part_names(last)[0]
    found = [one for one in names if one == wanted or one.endswith(f"/{wanted}")]
    if len(found) == 1:
        return found[0]
    if found:
        raise ModelFileError(f"model {name!r} is {_listed(found)}: give the whole name")
    store = store_dir(environment)
    there = f"which has {_listed(names)}" if names else "which is empty"
    advice = "give --model the path of a GGUF file, or run `agentix pull hf:owner/repo/file.gguf`"
    raise ModelFileError(f"model {name!r}: no such file, and no such model in {store}, {there}: {advice}")


def stored(environment: Mapping[str, str] = os.environ) -> list[Listed]:
    """Return the store's models by name, split ones once, by their first part."""
    store = store_dir(environment)
    found: dict[str, Path] = {}
    for folder, folders, files in os.walk(store):
        folders[:] = sorted(one for one in folders if not one.startswith("."))  # what is still being pulled
        for file in files:
            if file.endswith(".gguf") and not file.startswith("."):
                path = Path(folder) / part_names(file)[0]
                found[str(path.relative_to(store))] = path
    return [_listing(name, path) for name, path in sorted(found.items())]


def _listing(name: str, path: Path) -> Listed:
    try:
        return Listed(name, whole(name, path))
    except ModelFileError as error:
        return Listed(name, None, str(error))


def _is_there(path: Path) -> bool:
    return any(path.with_name(part).exists() for part in part_names(path.name))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


# -- Ollama's store ---------------------------------------------------------------------------


def ollama_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """Return Ollama's folder of models: the user's own, else that of a server that the system runs."""
    if given := environment.get("OLLAMA_MODELS"):
        return Path(given)
    own = Path(os.path.expanduser("~/.ollama/models"))
    return own if own.exists() or not _OLLAMA_SERVICE.exists() else _OLLAMA_SERVICE


def ollama_models(environment: Mapping[str, str] = os.environ) -> list[Listed]:
    """Return the models that Ollama has pulled, as "ollama:name:tag"."""
    found = []
    for name in _ollama_names(environment):
        try:
            found.append(Listed(name, resolve(name, environment)))
        except ModelFileError as error:
            found.append(Listed(name, None, str(error)))
    return found


def _ollama_names(environment: Mapping[str, str]) -> Iterator[str]:
    manifests = ollama_dir(environment) / "manifests"
    for path in sorted(manifests.glob("*/*/*/*")):
        host, owner, name, tag = path.relative_to(manifests).parts
        if host == "registry.ollama.ai":
            yield f"{OLLAMA}{name}:{tag}" if owner == "library" else f"{OLLAMA}{owner}/{name}:{tag}"
        else:
            yield f"{OLLAMA}{host}/{owner}/{name}:{tag}"


def _ollama_blob(reference: str, environment: Mapping[str, str]) -> Path:
    """Return the file of weights that an ollama: name stands for."""
    name, _, tag = reference.removeprefix(OLLAMA).partition(":")
    components = name.split("/")
    if len(components) > 3 or not all(_COMPONENT.fullmatch(one) for one in (*components, tag or "latest")):
        raise ModelFileError(f"{reference!r} is no name of Ollama's: wanted {OLLAMA}name or {OLLAMA}name:tag")
    defaults = ["registry.ollama.ai", "library"]
    store = ollama_dir(environment)
    manifest = store.joinpath("manifests", *defaults[: 3 - len(components)], *components, tag or "latest")
    try:
        layers = json.loads(manifest.read_bytes())["layers"]
        found = [layer for layer in layers if layer["mediaType"] == _MODEL_LAYER]
        sizes = {layer["digest"]: int(layer["size"]) for layer in found}
    except OSError:
        names = list(_ollama_names(environment))
        there = f"it has {_listed(names)}" if names else "it has none"
        text = f"model {reference!r} is not in Ollama's store {store} ({there})"
        raise ModelFileError(f"{text}: run `ollama pull {reference.removeprefix(OLLAMA)}`") from None
    except (ValueError, LookupError, TypeError):
        text = f"model {reference!r}: {manifest} is no manifest that agentix can read"
        raise ModelFileError(text) from None
    if len(sizes) != 1 or not all(_DIGEST.fullmatch(str(digest)) for digest in sizes):
        raise ModelFileError(f"model {reference!r} has {len(sizes)} GGUF files in Ollama's store, wanted one")
    ((digest, size_bytes),) = sizes.items()
    blob = store / "blobs" / digest.replace(":", "-")
    try:
        is_whole = blob.stat().st_size == size_bytes
    except OSError:
        is_whole = False
    if not is_whole:
        text = f"model {reference!r} is not whole in Ollama's store: {blob} is not {size_bytes} bytes long"
        raise ModelFileError(f"{text}: run `ollama pull {reference.removeprefix(OLLAMA)}`")
    return blob

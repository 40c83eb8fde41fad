"""Weights of the catalog's models: fetched from the hub once, pinned, checked, and found again without a network.

`fetch` asks the hub what the repository holds, checks gate and disk before the first byte, downloads (a broken
download goes on where it stopped, in the next run too), compares each file's hash with the hub's, only then puts it
into the hub's own shared cache, and writes what it resolved to into a lock file. `locate` is what adapters use: it
touches no network, and refuses what is missing, truncated or changed since. Every refusal is a BadWeights that says
what to do.

Settings are the hub's own variables: HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_HUB_OFFLINE.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.base import BadWeights, ModelUnavailable
from models.catalog import Entry
from models.installing import pip_install

log = logging.getLogger(__name__)

TEXTS = (".json", ".txt", ".model", ".jinja")  # configurations and vocabularies; never .py: no remote code
SAFE = (".safetensors",)
PICKLES = (".pt", ".pth", ".bin", ".ckpt")
BESIDE = (".data", "_data")  # behind an ONNX file's name: its weights, where they are too many for one protobuf
LOCK = "streetvision.lock.json"
SPARE = 1 << 30  # bytes of disk left free
CHUNK = 1 << 22

Report = Callable[[str, int], None]  # file name, bytes that came


@dataclass(frozen=True, slots=True)
class File:
    """One file of a repository. digest: "sha256:..." of large files, "git:..." (blob id) of small ones."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a repository holds at one commit."""

    repository: str
    revision: str
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(file.size for file in self.files)

    @property
    def directory(self) -> Path:
        """Where the hub's cache keeps this commit: links into `blobs`, which are named by their hash."""
        return self._root / "snapshots" / self.revision

    def blob(self, file: File) -> Path:
        """Where the content of a file lies."""
        return self._root / "blobs" / file.digest.partition(":")[2]

    @property
    def _root(self) -> Path:
        return cache_directory() / f"models--{self.repository.replace('/', '--')}"


def cache_directory() -> Path:
    """The hub's shared cache: HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface"))
    return Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def inspect(entry: Entry, *, allow_pickled: bool = False) -> Snapshot:
    """What `fetch` would bring, without bringing it. Raises BadWeights, ModelUnavailable (no huggingface_hub)."""
    wanted = entry.revision or locked(entry).get("revision") or "main"
    with _remedies(entry):
        info = (
            _hub()
            .HfApi(endpoint=_endpoint())
            .model_info(entry.repository, revision=wanted, files_metadata=True, timeout=30, token=_token())
        )
        if info.gated:
            _hub().HfApi(endpoint=_endpoint()).auth_check(entry.repository, token=_token())
    files = [
        File(each.rfilename, each.size or 0, f"sha256:{each.lfs.sha256}" if each.lfs else f"git:{each.blob_id}")
        for each in info.siblings or ()
    ]
    return Snapshot(entry.repository, str(info.sha), tuple(_needed(entry, files, allow_pickled)))


def fetch(entry: Entry, *, allow_pickled: bool = False, report: Report = lambda name, size: None) -> Path:
    """Bring the weights of one model, check and pin them. Returns the directory they lie in.

    Whole files that lie in the cache already are not downloaded again, broken ones go on where they stopped. Raises
    BadWeights (gate, disk, hash, hub) and ModelUnavailable (huggingface_hub is missing); both say what to do.
    """
    if offline():
        return locate(entry)
    snapshot = inspect(entry, allow_pickled=allow_pickled)
    require_room([snapshot])
    for file in snapshot.files:
        _bring(entry, snapshot, file, report)
    _write_lock(entry, snapshot)
    return snapshot.directory


def missing(snapshots: Sequence[Snapshot]) -> int:
    """Bytes that are not in the cache yet."""
    return sum(file.size for each in snapshots for file in each.files if not each.blob(file).exists())


def require_room(snapshots: Sequence[Snapshot]) -> None:
    """Raises BadWeights when the disk of the cache cannot hold what is still missing."""
    cache, wanted = cache_directory(), missing(snapshots)
    free = shutil.disk_usage(next(path for path in (cache, *cache.parents) if path.exists())).free
    if wanted + SPARE > free:
        raise BadWeights(
            f"{wanted / 1e9:.1f} GB are missing and {free / 1e9:.1f} GB are free in {cache}; "
            "free some, or set HF_HOME to a larger disk"
        )


def locate(entry: Entry) -> Path:
    """The directory of the weights of one model, as fetched, without a network. Raises BadWeights.

    A file's hash is taken again whenever its size or time changed since it was last seen whole. Of a model that was
    trained here it is the folder, as it is: the model's own card tells whether that is whole.
    """
    if entry.folder:
        if not Path(entry.folder).is_dir():
            raise BadWeights(f"{entry.key}: no folder {entry.folder}; train it again, or mend the catalog")
        return Path(entry.folder)
    lock = locked(entry)
    remedy = f"fetch it: ./run_miner.sh fetch {entry.key}"
    if not lock:
        raise BadWeights(f"{entry.key}: {entry.repository} is not in {cache_directory()}; {remedy}")
    if entry.revision and lock["revision"] != entry.revision:
        raise BadWeights(f"{entry.key}: fetched at {lock['revision']}, pinned to {entry.revision}; {remedy}")
    directory = cache_directory() / str(lock["directory"])
    for name, seen in lock["files"].items():
        path = directory / name
        if not path.exists():
            raise BadWeights(f"{entry.key}: {path} is missing; {remedy}")
        size = path.stat().st_size
        if size != seen["size"]:
            raise BadWeights(f"{entry.key}: {path} has {size} bytes, expected {seen['size']}: truncated; {remedy}")
        if path.stat().st_mtime_ns != seen["mtime_ns"] and not _intact(path, File(name, size, seen["digest"])):
            raise BadWeights(f"{entry.key}: {path} has another hash than when it was fetched; {remedy}")
    return directory


def locked(entry: Entry) -> Mapping[str, Any]:
    """What the lock file holds of one model: revision, directory, files; empty if it was never fetched."""
    path = cache_directory() / LOCK
    if not path.is_file():
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise BadWeights(f"{path} is no JSON; remove it and fetch again (files that are whole stay)") from None
    return dict(found.get(_lock_name(entry), {}))


def _needed(entry: Entry, files: Sequence[File], allow_pickled: bool) -> Iterator[File]:
    """Configurations, and the weights: safetensors, or the one file that is named (a pickle if that was allowed)."""
    top = [file for file in files if "/" not in file.name]  # sub-folders hold other forms of the same weights
    if entry.file:
        beside = tuple(entry.file + ending for ending in BESIDE)
        weights = [file for file in top if file.name == entry.file]
        weights += [file for file in top if weights and file.name.startswith(beside)]
    else:
        weights = [file for file in top if file.name.endswith(SAFE)]
    if not weights:
        pickles = [file.name for file in top if file.name.endswith(PICKLES)]
        what = f"only pickled weights ({', '.join(pickles)}), which can run any code" if pickles else "no weights"
        raise BadWeights(f"{entry.key}: {entry.repository} holds {what}; expected {entry.file or '*.safetensors'}")
    if any(file.name.endswith(PICKLES) for file in weights) and not (entry.pickled and allow_pickled):
        raise BadWeights(
            f"{entry.key}: {entry.file} is a pickle and can run any code when loaded; if you trust {entry.repository}, "
            "fetch it with --allow-pickled"
        )
    yield from weights
    yield from (file for file in top if file.name.endswith(TEXTS))


def _bring(entry: Entry, snapshot: Snapshot, file: File, report: Report) -> None:
    """One file into the cache. Its hash is known before it is there; a wrong one is fetched anew once."""
    blob = snapshot.blob(file)
    if blob.exists() and not _intact(blob, file):
        blob.unlink()
    if blob.exists():
        report(file.name, file.size)
    else:
        partial = blob.with_name(blob.name + ".streetvision")
        for _ in range(2):
            _download(entry, snapshot, file, partial, report)
            if _intact(partial, file):
                partial.replace(blob)
                break
            partial.unlink()
        else:
            raise BadWeights(
                f"{entry.key}: {file.name} came twice with another hash than the hub announces ({file.digest}). "
                "Something between here and the hub changes files: check proxy and HF_ENDPOINT"
            )
    link = snapshot.directory / file.name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(blob, link.parent))


def _download(entry: Entry, snapshot: Snapshot, file: File, partial: Path, report: Report) -> None:
    hub = _hub()
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.touch()
    with _remedies(entry), partial.open("r+b") as stream:
        came = stream.seek(0, os.SEEK_END)
        if came > file.size:
            came = stream.truncate(0)
            stream.seek(0)
        report(file.name, came)
        hub.file_download.http_get(
            hub.hf_hub_url(snapshot.repository, file.name, revision=snapshot.revision, endpoint=_endpoint()),
            stream,
            resume_size=came,
            headers=hub.utils.build_hf_headers(token=_token()),
            expected_size=file.size,
            tqdm_class=_reporting(file.name, report),
        )


def _reporting(name: str, report: Report) -> Any:
    """A progress bar that prints nothing and reports what came: the only hook that the hub's downloader has."""
    from tqdm import tqdm

    class Reporting(tqdm):  # type: ignore[type-arg]  # its stubs are generic, the class is not
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> None:
            report(name, int(n or 0))

    return Reporting


@contextmanager
def _remedies(entry: Entry) -> Iterator[None]:
    """The hub's errors as BadWeights that say what to do. Nothing of the request is repeated: it holds the token."""
    errors = _hub().errors
    page = f"{_endpoint() or 'https://huggingface.co'}/{entry.repository}"
    try:
        yield
    except errors.GatedRepoError:
        todo = "ask for access there" if _token() else "ask for access there, then set HF_TOKEN"
        raise BadWeights(f"{entry.key}: {page} is gated; {todo}") from None
    except errors.RepositoryNotFoundError:
        raise BadWeights(f"{entry.key}: {page} is not there, or private; check the name, or set HF_TOKEN") from None
    except errors.RevisionNotFoundError:
        raise BadWeights(f"{entry.key}: {page} has no revision {entry.revision or 'main'}; pin another") from None
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        if getattr(error, "errno", None) == 28:
            raise BadWeights(
                f"{entry.key}: the disk of {cache_directory()} is full; free some and fetch again"
            ) from None
        kind = type(error).__name__
        raise BadWeights(
            f"{entry.key}: {page} cannot be reached or broke off ({kind}); fetch again, it goes on where it stopped, "
            "or set HF_HUB_OFFLINE=1 to use what the cache holds"
        ) from error
    except Exception as error:  # the hub's HTTP library has an exception tree of its own, and changes it
        if not type(error).__module__.startswith(("http", "requests")):
            raise
        raise BadWeights(
            f"{entry.key}: {page} cannot be reached ({type(error).__name__}); check the network and HF_ENDPOINT, "
            "or set HF_HUB_OFFLINE=1 to use what the cache holds"
        ) from error


def _intact(path: Path, file: File) -> bool:
    if path.stat().st_size != file.size:
        return False
    kind, _, expected = file.digest.partition(":")
    # Small files are known by git's blob id: SHA-1 over a header and the content.
    digest = hashlib.sha256() if kind == "sha256" else hashlib.sha1(f"blob {file.size}\0".encode())
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == expected


def _write_lock(entry: Entry, snapshot: Snapshot) -> None:
    path = cache_directory() / LOCK
    everything = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    files = {
        file.name: {
            "size": file.size,
            "digest": file.digest,
            "mtime_ns": (snapshot.directory / file.name).stat().st_mtime_ns,
        }
        for file in snapshot.files
    }
    everything[_lock_name(entry)] = {
        "repository": snapshot.repository,
        "revision": snapshot.revision,
        "directory": str(snapshot.directory.relative_to(cache_directory())),
        "files": files,
    }
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(everything, indent=1), encoding="utf-8")
    draft.replace(path)
    log.info("%s: %s at %s, %.2f GB", entry.key, snapshot.repository, snapshot.revision, snapshot.size / 1e9)


def _lock_name(entry: Entry) -> str:
    return f"{entry.repository}/{entry.file}" if entry.file else entry.repository


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _token() -> str | None:
    """HF_TOKEN, else what `hf auth login` stored."""
    return os.environ.get("HF_TOKEN") or _hub().get_token()


def _hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.file_download
    except ImportError as error:
        raise ModelUnavailable(
            f"weights come through the package huggingface_hub: {pip_install('huggingface-hub>=0.30')}"
        ) from error
    return huggingface_hub

"""The archives that data sets come in: found, downloaded, read; never trusted blindly."""

import contextlib
import dataclasses
import gzip
import hashlib
import http.client
import io
import logging
import os
import queue
import sys
import tarfile
import threading
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from imae_jax.errors import UserError

logger = logging.getLogger(__name__)

# Seconds: for an answer to the request, name look-up included, and for each block after.
ANSWER_TIMEOUT = 12
READ_TIMEOUT = 12
BLOCK = 1 << 18  # bytes

# What a damaged file raises. A zip whose directory is damaged may look encrypted or
# compressed in an unknown way (RuntimeError).
DAMAGE = (
    EOFError,
    RuntimeError,
    UnicodeDecodeError,
    gzip.BadGzipFile,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclasses.dataclass(frozen=True)
class Archive:
    """Where an archive comes from and how to know it.

    Attributes:
      url: its address; the last part is its file name.
      size: in bytes.
      digest: `ALGORITHM:HEX`, such as `sha256:c4a3...`; only downloads are held to it, so
        that a smaller archive of the same layout can be put in its place.
    """

    url: str
    size: int
    digest: str

    @property
    def filename(self) -> str:
        """What the file is called on disk."""
        return self.url.rsplit("/", 1)[-1]

    def put_it(self, folder: Path) -> str:
        """What to do when it cannot be downloaded."""
        return (
            f"put {self.filename} ({megabytes(self.size)}, "
            f"{self.digest.replace(':', ' ')}) into {folder} yourself and run again"
        )


class FromArchive:
    """A TFDS builder whose archive may lie elsewhere than the copy it prepares."""

    def __init__(self, *, archive_dir: str | os.PathLike | None = None, **options):
        """`archive_dir`: where the archive lies or is put; None: in `data_dir`."""
        super().__init__(**options)
        self.archive_dir = self.data_dir_root if archive_dir is None else archive_dir


def megabytes(size: int) -> str:
    """Bytes in words, 1 MB = 10^6."""
    return f"{size / 1e6:.3g} MB"


def find(data_dir: str | os.PathLike, archive: Archive) -> Path:
    """The archive's path in `data_dir`; it is downloaded first if it is not there.

    A download goes to `FILENAME.part` and takes the file's name only when it is whole and
    its digest is right. One that was interrupted goes on where it stood.

    Raises:
      UserError: if it can be neither found nor downloaded; within 20 seconds if there is
        no network.
    """
    folder = Path(data_dir)
    path = folder / archive.filename
    if path.exists():
        return path
    part = path.with_name(f"{path.name}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        start = part.stat().st_size if part.exists() else 0
        if start < archive.size:
            _download(archive, part, start)
        _check_digest(archive, part)
        os.replace(part, path)
    except OSError as error:  # only the disk's: the network's are UserErrors by now
        if path.exists():  # another run was faster
            return path
        raise UserError(
            f"{part} ({megabytes(archive.size)}) cannot be written: "
            f"{error.strerror or error}"
        ) from error
    return path


def _download(archive: Archive, part: Path, start: int) -> None:
    """Writes `part` from byte `start` on."""
    with _network_errors(archive, part):
        response = _request(archive.url, start)
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        start = 0  # the server does not resume
    bar = tqdm(
        desc=archive.filename,
        total=archive.size,
        initial=start,
        unit="B",
        unit_scale=True,
        dynamic_ncols=True,
        disable=not sys.stderr.isatty(),
    )
    if bar.disable:
        line = f"downloading {archive.url} ({megabytes(archive.size)})"
        logger.warning(line)
    part.touch()
    # Written in place, not appended: of two runs that download at the same time, both
    # write the same bytes to the same places.
    with response, bar, open(part, "r+b") as file:
        file.seek(start)
        while True:
            with _network_errors(archive, part):
                block = response.read(BLOCK)
            if not block:
                break
            file.write(block)
            bar.update(len(block))
        file.flush()
        os.fsync(file.fileno())
        received = file.tell() - start
    # `read` returns what there is and ends quietly when the connection does.
    promised = response.headers.get("Content-Length")
    if promised is not None and received < int(promised):
        with _network_errors(archive, part):
            raise ConnectionError(f"broke off after {megabytes(start + received)}")


@contextlib.contextmanager
def _network_errors(archive: Archive, part: Path) -> Iterator[None]:
    """Turns what the network raises into a UserError that says what to do."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code == 416:
            part.unlink()  # it cannot go on from there, so the next run starts anew
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise UserError(
            f"{archive.filename} is not in {part.parent}, and {archive.url} cannot be "
            f"downloaded ({reason}): {archive.put_it(part.parent)}"
        ) from error


def _request(url: str, start: int) -> http.client.HTTPResponse:
    """Asks for a file from byte `start` on; raises OSError after ANSWER_TIMEOUT."""
    request = urllib.request.Request(url)
    if start:
        request.add_header("Range", f"bytes={start}-")
    answers = queue.SimpleQueue()

    def ask():
        try:
            answers.put(urllib.request.urlopen(request, timeout=READ_TIMEOUT))
        except Exception as error:
            answers.put(error)

    # urlopen's time limit holds for each address of the host by itself and not for
    # looking up its name, which can take half a minute without a network.
    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=ANSWER_TIMEOUT)
    except queue.Empty:
        raise TimeoutError(f"no answer within {ANSWER_TIMEOUT} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _check_digest(archive: Archive, part: Path) -> None:
    algorithm, expected = archive.digest.split(":")
    with open(part, "rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found != expected:
        part.unlink()
        raise UserError(
            f"{archive.url} was downloaded, but its {algorithm} is {found} and should be "
            f"{expected}; it was deleted: {archive.put_it(part.parent)}"
        )


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Around code that reads an archive: turns what it raises into a UserError."""
    try:
        yield
    except DAMAGE as error:
        raise UserError(
            f"{path} is damaged or only half there ({megabytes(path.stat().st_size)}; "
            f"{error}): delete it and run again"
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def read_tar(path: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Reads files out of a .tar.gz, which takes as much memory as all of it unpacked.

    Raises:
      UserError: if the archive is damaged anywhere or lacks one of the files.
    """
    with reading(path):
        # To the end, where gzip keeps its checksum, before any of it is believed.
        with gzip.open(path) as file:
            unpacked = io.BytesIO(file.read())
        with tarfile.open(fileobj=unpacked, mode="r:") as tar:
            members = {member.name: member for member in tar if member.isfile()}
            for name in names:
                if name not in members:
                    raise UserError(f"{path} holds no {name}: delete it and run again")
            return {name: tar.extractfile(members[name]).read() for name in names}

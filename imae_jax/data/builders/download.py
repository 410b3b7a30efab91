"""Finds, downloads, verifies and reads the archives of data sets."""

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
from typing import IO, Any, cast

from tqdm import tqdm

from imae_jax.errors import UserError
from imae_jax.storage import atomic_files

logger = logging.getLogger(__name__)

# Seconds for the response to a request, name look-up included, and for each block.
ANSWER_TIMEOUT = 12
READ_TIMEOUT = 12
BLOCK = 1 << 18  # bytes

# Exceptions raised for damaged files. A zip with a damaged directory may look encrypted or
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
    """Source and digest of an archive.

    Attributes:
      url: address; the last part is the file name.
      size: size in bytes.
      digest: `ALGORITHM:HEX`, such as `sha256:c4a3...`; checked for downloads only, so that
        a smaller archive of the same layout can take its place.
    """

    url: str
    size: int
    digest: str

    @property
    def filename(self) -> str:
        """Name of the file on disk."""
        return self.url.rsplit("/", 1)[-1]

    def put_it(self, folder: Path) -> str:
        """Advice if it cannot be downloaded."""
        return (
            f"put {self.filename} ({megabytes(self.size)}, "
            f"{self.digest.replace(':', ' ')}) into {folder} yourself and run again"
        )


class FromArchive:
    """Mixin of TFDS builders whose archive may be outside their `data_dir`."""

    # Of TFDS's builder.
    name: str
    info: Any
    data_dir_root: Path

    def __init__(
        self, *, archive_dir: str | os.PathLike | None = None, **options: Any
    ) -> None:
        """Takes the folder of the archive; None: `data_dir`."""
        super().__init__(**options)
        self.archive_dir = self.data_dir_root if archive_dir is None else archive_dir


def megabytes(size: int) -> str:
    """Formats bytes in MB (10^6)."""
    return f"{size / 1e6:.3g} MB"


def find(data_dir: str | os.PathLike, archive: Archive) -> Path:
    """Returns the archive's path in `data_dir`, downloading it first if it is missing.

    A download goes to `FILENAME.part` and is renamed once it is complete and its digest is
    right. An interrupted download is resumed.

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
        atomic_files.replace(part, path)
    except OSError as error:  # of the disk: network errors are UserErrors already
        if path.exists():  # downloaded by another run
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
    # Written in place, not appended: two concurrent downloads write the same bytes to the
    # same places.
    with response, bar, open(part, "r+b") as file:
        file.seek(start)
        while True:
            with _network_errors(archive, part):
                block = response.read(BLOCK)
            if not block:
                break
            file.write(block)
            bar.update(len(block))
        atomic_files.sync(file)
        received = file.tell() - start
    # `read` does not raise when the connection ends early.
    promised = response.headers.get("Content-Length")
    if promised is not None and received < int(promised):
        with _network_errors(archive, part):
            raise ConnectionError(f"broke off after {megabytes(start + received)}")


@contextlib.contextmanager
def _network_errors(archive: Archive, part: Path) -> Iterator[None]:
    """Turns network errors into a UserError with advice."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code == 416:
            part.unlink()  # cannot be resumed: the next run starts anew
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise UserError(
            f"{archive.filename} is not in {part.parent}, and {archive.url} cannot be "
            f"downloaded ({reason}): {archive.put_it(part.parent)}"
        ) from error


def _request(url: str, start: int) -> http.client.HTTPResponse:
    """Requests a file from byte `start` on; raises OSError after ANSWER_TIMEOUT."""
    request = urllib.request.Request(url)
    if start:
        request.add_header("Range", f"bytes={start}-")
    answers: queue.SimpleQueue = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(urllib.request.urlopen(request, timeout=READ_TIMEOUT))
        except Exception as error:
            answers.put(error)

    # urlopen's timeout applies to each address of the host separately and not to the name
    # look-up, which can take half a minute without a network.
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
    """Turns errors from reading an archive into a UserError."""
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
    """Reads files from a .tar.gz, unpacking all of it in memory.

    Raises:
      UserError: if the archive is damaged anywhere or lacks one of the files.
    """
    with reading(path):
        # Read to the end first: gzip's checksum is there.
        with gzip.open(path) as file:
            unpacked = io.BytesIO(file.read())
        with tarfile.open(fileobj=unpacked, mode="r:") as tar:
            members = {member.name: member for member in tar if member.isfile()}
            for name in names:
                if name not in members:
                    raise UserError(f"{path} holds no {name}: delete it and run again")
            # A regular file has content.
            files = {
                name: cast(IO[bytes], tar.extractfile(members[name])) for name in names
            }
            return {name: file.read() for name, file in files.items()}

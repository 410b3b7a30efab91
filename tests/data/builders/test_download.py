"""Archives from a server on this machine: whole, wrong, cut off, resumed or not there."""

import hashlib
import http.server
import io
import os
import socket
import tarfile
import threading
import time
import zipfile

import numpy as np
import pytest

from imae_jax.data.builders import download
from imae_jax.errors import UserError

DATA = np.random.default_rng(0).bytes(1_000_000)
SHA = hashlib.sha256(DATA).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.ranges.append(self.headers["Range"])
        self.server.answer(self)

    def log_message(self, *args):
        pass

    def send(self, data, length=None, status=200):
        self.send_response(status)
        self.send_header("Content-Length", str(length or len(data)))
        self.end_headers()
        self.wfile.write(data)


def whole(handler):
    handler.send(DATA)


def resuming(handler):
    asked = handler.headers["Range"]
    start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
    handler.send(DATA[start:], status=206 if asked else 200)


def cut(handler):
    handler.send(DATA[:400_000], length=len(DATA))


def stalled(handler):
    cut(handler)
    handler.wfile.flush()
    handler.server.over.wait()


def wrong(handler):
    handler.send(b"<html>Log in to this network first.</html>")


@pytest.fixture
def server():
    """A server whose `answer` can be set; `ranges` are the ranges it was asked for."""
    with http.server.ThreadingHTTPServer(("localhost", 0), Handler) as server:
        server.answer, server.ranges, server.over = whole, [], threading.Event()
        server.archive = download.Archive(
            url=f"http://localhost:{server.server_port}/set.zip",
            size=len(DATA),
            digest=f"sha256:{SHA}",
        )
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


def error_of(function, *args):
    """The message of the UserError that a call ends in: always one line."""
    with pytest.raises(UserError) as caught:
        function(*args)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_what_is_there_is_used_as_it_is(server, tmp_path):
    (tmp_path / "set.zip").write_bytes(b"a subset")
    assert download.find(tmp_path, server.archive) == tmp_path / "set.zip"
    assert (tmp_path / "set.zip").read_bytes() == b"a subset"
    assert not server.ranges


def test_download(server, tmp_path, capfd):
    folder = tmp_path / "new" / "folder"
    path = download.find(str(folder), server.archive)
    assert path.read_bytes() == DATA
    assert os.listdir(folder) == ["set.zip"]
    download.find(folder, server.archive)
    assert server.ranges == [None]
    # One line and no bar where there is no terminal.
    assert capfd.readouterr() == ("", f"downloading {server.archive.url} (1 MB)\n")


def test_md5(server, tmp_path):
    md5 = hashlib.md5(DATA).hexdigest()
    known = download.Archive(server.archive.url, len(DATA), f"md5:{md5}")
    assert download.find(tmp_path, known).read_bytes() == DATA


def test_wrong_checksum(server, tmp_path):
    server.answer = wrong
    message = error_of(download.find, tmp_path, server.archive)
    found = hashlib.sha256(b"<html>Log in to this network first.</html>").hexdigest()
    assert f"its sha256 is {found} and should be {SHA}; it was deleted" in message
    assert f"put set.zip (1 MB, sha256 {SHA}) into {tmp_path} yourself" in message
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("answer", [resuming, whole])
def test_cut_connection_goes_on_where_it_stood_or_anew(server, tmp_path, answer):
    server.answer = cut
    message = error_of(download.find, tmp_path, server.archive)
    assert "(broke off after 0.4 MB)" in message and "run again" in message
    assert os.listdir(tmp_path) == ["set.zip.part"]
    server.answer = answer
    assert download.find(tmp_path, server.archive).read_bytes() == DATA
    assert server.ranges == [None, "bytes=400000-"]
    assert os.listdir(tmp_path) == ["set.zip"]


@pytest.mark.parametrize("size", [300_000, len(DATA), len(DATA) + 1])
def test_a_rotten_part_is_never_taken_for_the_file(server, tmp_path, size):
    (tmp_path / "set.zip.part").write_bytes(bytes(size))
    server.answer = resuming
    assert "should be" in error_of(download.find, tmp_path, server.archive)
    assert download.find(tmp_path, server.archive).read_bytes() == DATA


def test_a_part_killed_before_its_check_is_not_downloaded_again(server, tmp_path):
    (tmp_path / "set.zip.part").write_bytes(DATA)
    assert download.find(tmp_path, server.archive).read_bytes() == DATA
    assert not server.ranges


def test_a_part_that_the_server_cannot_continue_is_dropped(server, tmp_path):
    (tmp_path / "set.zip.part").write_bytes(DATA[:10])
    server.answer = lambda handler: handler.send(b"", status=416)
    assert "Range" in error_of(download.find, tmp_path, server.archive)
    server.answer = whole
    assert download.find(tmp_path, server.archive).read_bytes() == DATA
    assert server.ranges == ["bytes=10-", None]


def test_refused(tmp_path, unused_port):
    url = f"http://localhost:{unused_port}/set.zip"
    message = error_of(download.find, tmp_path, download.Archive(url, 162_000_000, "md5:0"))
    assert f"set.zip is not in {tmp_path}, and {url} cannot be downloaded" in message
    assert "Connection refused" in message
    assert f"put set.zip (162 MB, md5 0) into {tmp_path} yourself and run again" in message
    assert not os.listdir(tmp_path)


# Addresses kept for documentation (RFC 5737, RFC 2606): nobody answers there.
@pytest.mark.parametrize("host", ["192.0.2.1", "nowhere.invalid"])
def test_no_way_to_the_server_is_known_in_time(tmp_path, host):
    began = time.monotonic()
    url = f"http://{host}/set.zip"
    message = error_of(download.find, tmp_path, download.Archive(url, 1, "md5:0"))
    assert time.monotonic() - began < 20
    assert url in message


def test_slow_name_look_up_and_several_addresses_count_together(
    server, tmp_path, monkeypatch
):
    def look_up(*args, **kwargs):
        server.over.wait(30)
        raise socket.gaierror("no network")

    assert download.ANSWER_TIMEOUT < 20
    monkeypatch.setattr(download, "ANSWER_TIMEOUT", 0.3)
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    began = time.monotonic()
    assert "(no answer within 0.3 s)" in error_of(download.find, tmp_path, server.archive)
    assert time.monotonic() - began < 5


def test_a_download_that_stalls(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "READ_TIMEOUT", 0.3)
    server.answer = stalled
    began = time.monotonic()
    assert "(timed out)" in error_of(download.find, tmp_path, server.archive)
    assert time.monotonic() - began < 5
    assert not (tmp_path / "set.zip").exists()


def test_not_found(server, tmp_path):
    server.answer = lambda handler: handler.send(b"", status=404)
    assert "Not Found" in error_of(download.find, tmp_path, server.archive)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_disk_full(server, tmp_path):
    (tmp_path / "set.zip.part").symlink_to("/dev/full")
    message = error_of(download.find, tmp_path, server.archive)
    part = tmp_path / "set.zip.part"
    assert message == f"{part} (1 MB) cannot be written: No space left on device"


FILES = {f"folder/{n}é.txt": DATA[n * 200 : (n + 1) * 200] for n in range(3)}


def tar_of(files):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def zip_of(files, compression):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return packed.getvalue()


def read_zip(path, names):
    with download.reading(path), zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in names if name in archive.namelist()}


PACKED = {
    "set.tar.gz": (tar_of(FILES), download.read_tar),
    "set.zip": (zip_of(FILES, zipfile.ZIP_DEFLATED), read_zip),
    "stored.zip": (zip_of(FILES, zipfile.ZIP_STORED), read_zip),
}


@pytest.mark.parametrize("name", PACKED)
def test_a_whole_archive_is_read(name, tmp_path):
    packed, read = PACKED[name]
    (tmp_path / name).write_bytes(packed)
    assert read(tmp_path / name, list(FILES)) == FILES


@pytest.mark.parametrize("name", PACKED)
def test_a_half_there_archive_is_named_wherever_it_ends(name, tmp_path):
    packed, read = PACKED[name]
    path = tmp_path / name
    for size in range(0, len(packed), 7):
        path.write_bytes(packed[:size])
        message = error_of(read, path, list(FILES))
        expected = f"{path} is damaged or only half there ({download.megabytes(size)}; "
        assert message.startswith(expected)
        assert message.endswith("): delete it and run again")


@pytest.mark.parametrize("name", PACKED)
def test_damage_is_named_and_never_read_as_content(name, tmp_path):
    packed, read = PACKED[name]
    path = tmp_path / name
    rng = np.random.default_rng(1)
    named = 0
    for place in range(len(packed)):
        damaged = bytearray(packed)
        damaged[place] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            found = read(path, list(FILES))
        except UserError as error:
            assert str(path) in str(error)
            named += 1
        else:  # a date, say
            assert found.items() <= FILES.items()
    assert named > 0.7 * len(packed)


@pytest.mark.parametrize("name", PACKED)
def test_a_web_page_in_an_archives_place_is_damage(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"<html>Moved.</html>")
    message = error_of(PACKED[name][1], path, list(FILES))
    assert message.startswith(f"{path} is damaged or only half there (1.9e-05 MB; ")


def test_a_missing_member_is_named(tmp_path):
    path = tmp_path / "set.tar.gz"
    path.write_bytes(tar_of(FILES))
    message = error_of(download.read_tar, path, ["folder/9.txt"])
    assert message == f"{path} holds no folder/9.txt: delete it and run again"

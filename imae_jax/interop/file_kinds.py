"""Names files that are no weights by their first bytes."""

# Beginnings of files that are often taken for weights, and descriptions.
_KINDS = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer in place of the file itself: get it with git lfs pull",
    ),
    (b"<!doctype html", "an HTML page, maybe an error of a download"),
    (b"<html", "an HTML page, maybe an error of a download"),
    (b"<?xml", "an XML document, maybe an error of a download"),
    (b"\x89png", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"gif8", "a GIF picture"),
    (b"riff", "a RIFF file, such as a WebP picture"),
    (b"bm", "a BMP picture"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"bzh", "a bzip2 archive: unpack it first"),
    (b"\xfd7zxz", "an xz archive: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive: unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it first"),
    (b"rar!", "a RAR archive: unpack it first"),
    (b"pk", "a ZIP archive: unpack it first"),
    (b"\x89hdf", "an HDF5 file, such as Keras writes"),
    (b"\x93numpy", "a single NumPy array"),
    (b"gguf", "a GGUF file"),
    (b"%pdf", "a PDF document"),
    (b"\x7felf", "a program"),
    (b"{", "a JSON text"),
)
_TAR_MAGIC = b"ustar", 257
HEAD = 512  # bytes that are looked at


def name_kind(head: bytes) -> str:
    """Describes a file by its first `HEAD` bytes, to follow "it is" in a message."""
    if not head:
        return "it is empty"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for magic, kind in _KINDS:
        if start.startswith(magic):
            return f"it is {kind}"
    magic, place = _TAR_MAGIC
    if head[place:].startswith(magic):
        return "it is a tar archive: unpack it first"
    return "it begins like neither a safetensors file nor one of PyTorch's or NumPy's"

"""Random damage of files."""


def mutated(data: bytes, random) -> bytes:
    """Returns the bytes with one thing changed: flipped, blank, cut, new or reversed."""
    data = bytearray(data)
    kind = random.integers(7)
    start, stop = sorted(random.integers(0, len(data) + 1, 2))
    if kind == 0:
        data[random.integers(len(data))] ^= 1 << random.integers(8)
    elif kind == 1:
        data[start:stop] = bytes(stop - start)
    elif kind == 2:
        del data[start:stop]
    elif kind == 3:
        data[start:stop] = random.bytes(stop - start)
    elif kind == 4:
        data[start:start] = random.bytes(1 + stop - start)
    elif kind == 5:
        data.clear()
    else:
        data.reverse()
    return bytes(data)

"""QR codes: drawn as a picture or out of a terminal's characters, read out of a picture. A code is a secret: nothing is logged."""

import io
import struct
import zlib
from collections.abc import Iterator, Sequence

import segno

Matrix = Sequence[Sequence[int]]
"""Rows of modules; not 0 is dark."""
QUIET = 4
"""Light modules around a code. ISO/IEC 18004, 5.3.8"""
PIXELS = 8
"""Of a module, each way."""
COLOURS, PLAIN = "\x1b[38;5;16;48;5;231m", "\x1b[0m"
"""Black on white whatever the terminal's theme is: these two of its 256 colours no theme changes."""
_MAGIC = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
MOST_PIXELS = 4_000_000


def matrix(text: str) -> Matrix:
    """The code that says `text`."""
    return segno.make_qr(text, error="l").matrix


def png(text: str) -> bytes:
    """The code that says `text`, as a picture."""
    out = io.BytesIO()
    segno.make_qr(text, error="l").save(out, kind="png", scale=PIXELS, border=QUIET)
    return out.getvalue()


def in_terminal(code: Matrix, *, coloured: bool = True) -> list[str]:
    """Lines of a terminal that show the code, two rows of modules each.

    Without colours it is light on dark, as most terminals are.
    """
    width = len(code[0]) + 2 * QUIET
    light = [0] * width
    side = [0] * QUIET
    rows = [light] * QUIET + [[*side, *row, *side] for row in code] + [light] * QUIET
    if len(rows) % 2:
        rows.append(light)
    signs = " ▀▄█" if coloured else "█▄▀ "
    lines = [
        "".join(signs[bool(upper) + 2 * bool(lower)] for upper, lower in zip(*pair, strict=True))
        for pair in zip(rows[::2], rows[1::2], strict=True)
    ]
    return [f"{COLOURS}{line}{PLAIN}" for line in lines] if coloured else lines


def read(picture: bytes) -> Matrix | None:
    """The code on a picture that shows it upright and nothing else, as programs draw it; None where that cannot be made out."""
    try:
        rows = [list(row) for row in _dark(picture)]
    except (ValueError, IndexError, KeyError, struct.error, zlib.error):
        return None
    filled = [n for n, row in enumerate(rows) if any(row)]
    if not filled:
        return None
    top = rows[filled[0]]
    left = top.index(True)
    right = max(len(row) - row[::-1].index(True) for row in rows if any(row))
    edge = top[left:]
    # Its upper left corner is a dark line of seven modules.
    module = (edge.index(False) if False in edge else len(edge)) / 7
    size = round((right - left) / module)
    if (size - 17) % 4 or not 21 <= size <= 177 or filled[-1] + 1 - filled[0] != right - left:
        return None
    middles = [int((n + 0.5) * module) for n in range(size)]
    return [[rows[filled[0] + y][left + x] for x in middles] for y in middles]


def _dark(picture: bytes) -> Iterator[list[bool]]:
    """Each row of a PNG's pixels: whether they are dark. Raises ValueError for one that is not as programs write them.

    https://www.w3.org/TR/png-3/
    """
    if not picture.startswith(_MAGIC):
        raise ValueError("no PNG")
    chunks, at = dict[bytes, bytes](), len(_MAGIC)
    while at < len(picture):
        length, name = struct.unpack_from(">I4s", picture, at)
        chunks[name] = chunks.get(name, b"") + picture[at + 8 : at + 8 + length]
        at += length + 12
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    if interlaced or depth > 8 or not 0 < width * height <= MOST_PIXELS:
        raise ValueError("not read here")
    channels = _CHANNELS[colour]
    step = max(1, channels * depth // 8)
    length = (width * channels * depth + 7) // 8
    data = zlib.decompressobj().decompress(chunks[b"IDAT"], height * (length + 1))
    palette, clear = chunks.get(b"PLTE", b""), chunks.get(b"tRNS", b"")
    before = bytearray(length)
    for n in range(height):
        start = n * (length + 1)
        line = bytearray(data[start + 1 : start + 1 + length])
        _unfilter(data[start], line, before, step)
        before = line
        samples = line if depth == 8 else _samples(line, depth)
        yield [
            _is_dark(samples[x * channels : (x + 1) * channels], colour, depth, palette, clear)
            for x in range(width)
        ]


def _samples(line: bytearray, depth: int) -> list[int]:
    mask = (1 << depth) - 1
    return [byte >> shift & mask for byte in line for shift in range(8 - depth, -1, -depth)]


def _is_dark(pixel: Sequence[int], colour: int, depth: int, palette: bytes, clear: bytes) -> bool:
    """Whether a pixel is dark on white paper."""
    if colour == 3:
        index = pixel[0]
        if index < len(clear) and clear[index] < 128:
            return False
        return sum(palette[3 * index : 3 * index + 3]) < 384
    if colour in {4, 6} and pixel[-1] < 128:
        return False
    if colour in {0, 4}:
        return pixel[0] * 2 < 1 << depth
    return sum(pixel[:3]) < 384


def _unfilter(kind: int, line: bytearray, before: bytearray, step: int) -> None:
    """Makes a line what it was before it was written as differences to its neighbours."""
    for x in range(len(line)):
        left = line[x - step] if x >= step else 0
        up = before[x]
        corner = before[x - step] if x >= step else 0
        match kind:
            case 0:
                return
            case 1:
                guess = left
            case 2:
                guess = up
            case 3:
                guess = (left + up) // 2
            case 4:
                nearest = left + up - corner
                guess = min((left, up, corner), key=lambda near: abs(nearest - near))
            case _:
                raise ValueError("no such filter")
        line[x] = (line[x] + guess) & 255

"""The archive below a saved model: an uncompressed `.npz` with a header, read without trusting it."""

import json
import math
import os
import struct
import zipfile
from io import BytesIO
from typing import IO

import numpy as np

FORMAT, VERSION, HEADER = "chainrule", 1, "header.json"
NATIVE = {"bool", "float16", "float32", "float64", "complex64", "complex128"}
NATIVE |= {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}


def read_members(file: IO[bytes], max_bytes: int) -> dict[str, bytes]:
    """Read all members of an archive, if it is one that `save` could have written."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            if HEADER not in names:
                raise ValueError(f"not a chainrule file: it has no {HEADER}")
            total = sum(member.file_size for member in members)
            if total > max_bytes:
                raise ValueError(f"it holds {total:,} bytes; if you trust it, allow them with max_bytes={total}")
            # Nothing is compressed or shared: what is read cannot be larger than the file itself.
            plain = all(member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & 1 for member in members)
            if not plain or total > os.fstat(file.fileno()).st_size or len(set(names)) != len(names):
                raise ValueError(
                    "its members are compressed, encrypted, repeated or overlapping; save() writes none such"
                )
            return {member.filename: archive.read(member) for member in members}
    except (zipfile.BadZipFile, struct.error, EOFError, OverflowError, OSError, RuntimeError) as error:
        file.seek(0)
        problem = "truncated or damaged" if file.read(2) == b"PK" else "not a chainrule file"
        raise ValueError(f"{problem} ({error})") from error


def read_header(data: bytes) -> dict:
    """Read the header, and check that this version understands it."""
    try:
        header = json.loads(data.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"damaged: {HEADER} cannot be read ({error})") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT or type(header.get("version")) is not int:
        raise ValueError(f"not a chainrule file: its {HEADER} does not say so")
    if header["version"] > VERSION:
        raise ValueError(f"a newer chainrule wrote it (format {header['version']}, known here: {VERSION}); upgrade")
    if header["version"] != VERSION or type(header.get("x64")) is not bool or "model" not in header:
        raise ValueError(f"damaged: its {HEADER} is incomplete")
    return header


def _no_constant(text: str):
    raise ValueError(f"{text} is not JSON")


def parse_array(name: str, data: bytes) -> np.ndarray:
    """Read one array, over the bytes that are there (`np.load` would allocate whatever shape it is told)."""
    file = BytesIO(data)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError(f"damaged: array {name!r} is not of the kind that save() writes")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    size = len(data) - file.tell()
    if dtype.name not in NATIVE or min(shape, default=0) < 0 or size != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"damaged: array {name!r} holds {size} bytes, not the {dtype} of shape {shape} it announces")
    return np.ndarray(shape, dtype, buffer=data, offset=file.tell(), order="F" if fortran else "C")

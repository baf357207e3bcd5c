"""In which encoding a file is, and what stands between its cells: found out from the file, or as it was said."""

import codecs
import csv
import io
from collections.abc import Collection
from typing import BinaryIO

from app.engine.files.faults import BadFile, Fault

BLOCK = 2**16
SAMPLE = 2**16  # bytes, to guess from
# What spreadsheets write that do not write UTF-8. Among all that there are, the guess would be worse.
GUESSED = [*("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp874")]
GUESSED += ["cp932", "gb18030", "big5", "cp949"]
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}
MARKS |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # which UTF-32's begin with
# Python has them among its encodings, but no file is in them; some take time that grows with the square.
NO_ENCODINGS = ("idna", "mbcs", "oem", "punycode", "raw-unicode-escape", "undefined", "unicode-escape", "utf-7")
SEPARATORS = (",", ";", "\t", "|")


def encoding_of(file: BinaryIO, wanted: str = "") -> str:
    """The encoding in which all of `file` can be read. Raises BadFile if there is none, or it is not the `wanted`."""
    file.seek(0)
    head = file.read(BLOCK)
    encoding = _known(wanted) if wanted else next((MARKS[mark] for mark in MARKS if head.startswith(mark)), "")
    if not encoding and b"\0" in head:
        raise BadFile(Fault(None, None, "That is no text. Save it as CSV in UTF-8, or name its encoding.", "no_text"))
    try:
        check(file, encoding or "utf-8")
    except Undecodable as error:
        encoding = "" if encoding else _guess(file, error.place)
        if not encoding:
            raise BadFile(error.fault) from None
        try:
            check(file, encoding)
        except Undecodable:
            raise BadFile(error.fault) from None
    return "utf-8-sig" if encoding in ("", "utf-8") else encoding


def separator_of(text: io.TextIOBase, columns: Collection[str], most: int) -> str:
    """Which of SEPARATORS makes the most `columns` of the first line; where none does, the most cells.

    csv.Sniffer guesses from how often letters occur; names that are known leave nothing to guess.
    """
    text.seek(0)
    head = text.readline(most)

    def found(separator: str) -> tuple[int, int]:
        names = [name.strip() for name in next(csv.reader([head], delimiter=separator), [])]
        return len({*names} & {*columns}), len(names)

    return max(SEPARATORS, key=found)


def _known(name: str) -> str:
    try:
        known = codecs.lookup(name)
        is_text = known._is_text_encoding  # io.TextIOWrapper asks for it as well
    except (LookupError, ValueError):  # a NUL in the name
        is_text = False
    if not is_text or known.name in NO_ENCODINGS:
        raise BadFile(Fault(None, "encoding", "That is no encoding: try utf-8 or cp1252.", "no_encoding"))
    return known.name


class Undecodable(Exception):
    """The first bytes that cannot be read, at `place`."""

    def __init__(self, place: int, line: int, encoding: str) -> None:
        self.place = place
        self.fault = Fault(line, None, f"That is not {encoding}. Name the encoding of the file.", "undecodable")


def check(file: BinaryIO, encoding: str) -> None:
    """Raise Undecodable unless all of `file` can be read in `encoding`."""
    file.seek(0)
    decoder, line, is_last = codecs.getincrementaldecoder(encoding)(), 1, False
    while not is_last:
        block = file.read(BLOCK)
        is_last = not block
        try:
            line += _breaks(decoder.decode(block, is_last))
        except UnicodeError as error:
            before = error.object[: error.start] if isinstance(error, UnicodeDecodeError) else b""
            # What the decoder had kept of the block before is in it too.
            place = file.tell() - max(len(block) - len(before), 0)
            raise Undecodable(place, line + _breaks(before.decode(encoding, "ignore")), encoding) from None


def _breaks(text: str) -> int:
    return text.count("\n") or text.count("\r")


def _guess(file: BinaryIO, place: int) -> str:
    """The encoding of what stands around `place`, or nothing: also without the library that can tell."""
    try:
        from charset_normalizer import from_bytes  # an optional extra: who keeps to UTF-8 need not have it
    except ImportError:
        return ""
    file.seek(max(place - SAMPLE // 2, 0))
    found = from_bytes(file.read(SAMPLE), cp_isolation=GUESSED).best()
    if found and found.encoding == "cp1250" and "cp1252" in found.could_be_from_charset:
        return "cp1252"  # most texts of western Europe could be in either, and are in this one
    return found.encoding if found else ""

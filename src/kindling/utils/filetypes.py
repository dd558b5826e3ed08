"""Supported image formats, and the type of other files by their first bytes.

Imports nothing from Kindling: a TorchServe archive contains a copy of this file.
"""

import codecs

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")  # names of Pillow's plug-ins; no others are tried

# Signatures of other files: offset, bytes, file type.
SIGNATURES = (
    (0, b"II*\0", "a TIFF or camera raw file"),
    (0, b"MM\0*", "a TIFF or camera raw file"),
    *((4, b"ftyp" + brand, "a HEIC or AVIF image") for brand in (b"hei", b"hev", b"mif", b"msf", b"avif", b"avis")),
    (4, b"ftyp", "a video"),
    (0, b"\x1aE\xdf\xa3", "a video"),
    (8, b"AVI ", "a video"),
    (0, b"\0\0\x01\xba", "a video"),
    (0, b"%PDF", "a PDF"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"\0\0\0\x0cjP", "a JPEG 2000 image"),
    (0, b"\0\0\0\x0cJXL", "a JPEG XL image"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (0, b"\0\0\x01\0", "an icon"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (128, b"DICM", "a DICOM file"),
    *((0, start, "an archive") for start in (b"PK\3\4", b"7z\xbc\xaf", b"Rar!", b"\x1f\x8b", b"\xfd7zXZ", b"BZh")),
    (257, b"ustar", "an archive"),
)
HEAD = 264  # bytes that determine the type of a file
UNKNOWN = "of an unknown format"


def kind_of(head: bytes) -> str:
    """Return the type of a file in an unsupported format, by its first `HEAD` bytes, for messages."""
    if not head:
        return "empty"
    for start, signature, kind in SIGNATURES:
        if head.startswith(signature, start):
            return kind
    return "text" if is_text(head) else UNKNOWN


def is_text(head: bytes) -> bool:
    """Return whether the first bytes of a file are UTF-8 text; the last character may be incomplete."""
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(head)
    return "\ufffd" not in text and not any(character < " " and character not in "\t\n\r\f" for character in text)

"""Pictures as an endpoint takes them: base64 in a data URL, the file's bytes as they are."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from expllm_jax.engine.narration import NarratorFailed

# First bytes of the formats that endpoints take. WebP's name stands behind the length of its container.
_FORMATS = (
    (b"\xff\xd8\xff", 0, "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", 0, "image/png"),
    (b"WEBP", 8, "image/webp"),
    (b"GIF8", 0, "image/gif"),
)


@dataclass(frozen=True)
class Picture:
    """The bytes of a picture file and what they are."""

    content: bytes = field(repr=False)
    media_type: str

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes, 64 hex digits."""
        return hashlib.sha256(self.content).hexdigest()

    def data_url(self) -> str:
        """ "data:image/jpeg;base64,…"."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.content).decode()}"


def read_picture(path: Path, most_bytes: int) -> Picture:
    """A picture to send.

    Raises:
      NarratorFailed: it cannot be read, is larger than `most_bytes`, or is of a kind that endpoints do not take. The
        face is then set aside, to be tried again when the picture is mended.
    """
    try:
        size = path.stat().st_size
        if size > most_bytes:
            raise NarratorFailed(
                f"the picture {path} has {size:,} bytes, more than the {most_bytes:,} that may be sent"
            )
        content = path.read_bytes()
    except OSError as error:
        raise NarratorFailed(f"the picture {path} cannot be read ({error.strerror})") from error
    for magic, offset, media_type in _FORMATS:
        if content[offset : offset + len(magic)] == magic:
            return Picture(content, media_type)
    raise NarratorFailed(f"the picture {path} is neither JPEG, PNG, WebP nor GIF")

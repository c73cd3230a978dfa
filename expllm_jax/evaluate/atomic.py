"""Files that are either wholly there or not there at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from expllm_jax.errors import ExpllmError


def write_atomic(path: str | Path, content: bytes | str) -> Path:
    """Writes `content` to `path` through a temporary file beside it and a rename; makes missing folders.

    Text is written as UTF-8. Raises ExpllmError, leaving the old file as it was, when the folder cannot be written.
    """
    path = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        # mkstemp makes files private; a report is to be read by whoever may read the folder.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise ExpllmError(
            f"cannot write {path}: {error.strerror or error}", "name a folder that exists, is yours and has space left"
        ) from error
    return path

"""Where checkpoints lie: local and mounted folders, or a bucket such as ``gs://BUCKET/PATH``."""

from __future__ import annotations

import os

from etils import epath


def is_remote(folder: epath.Path) -> bool:
    """Whether it is in a bucket, named by a scheme."""
    return "://" in os.fspath(folder)


def absolute(folder: epath.Path) -> epath.Path:
    """The same folder from anywhere, as Orbax asks for it."""
    return folder if is_remote(folder) else epath.Path(os.path.abspath(folder))

"""Where dann keeps what it can make again."""

import os
from pathlib import Path


def user_cache() -> Path:
    """``dann`` in the user's cache: ``XDG_CACHE_HOME``, else ``~/.cache``; :class:`RuntimeError` without a home."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "dann"

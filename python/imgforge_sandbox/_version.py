"""The version of the package."""

from __future__ import annotations

from importlib import metadata

try:
    __version__ = metadata.version("imgforge-sandbox")
except metadata.PackageNotFoundError:
    # It runs from its source, without being installed.
    __version__ = "0"

"""Which tests run in one process where several share them out (`pytest -n 2 --dist loadgroup`)."""

from __future__ import annotations

import pytest

SHARED = {"cli"}  # folders whose files share what takes long to make


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps the tests of a file together, and those of some folders: what they share is then made once."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        name = item.path.parent.name if item.path.parent.name in SHARED else str(item.path)
        item.add_marker(pytest.mark.xdist_group(name))

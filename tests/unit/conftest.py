"""Storages without a server."""

from __future__ import annotations

import pytest

from asynctune.storage import LocalStorage
from scripted_storage import ScriptedStorage


@pytest.fixture(params=["scripted", "local"])
def storage(request, tmp_path):
    return ScriptedStorage() if request.param == "scripted" else LocalStorage(tmp_path / "remote")


@pytest.fixture
def scripted():
    return ScriptedStorage()

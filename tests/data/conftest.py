"""Tests keep what they build in a cache of their own."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache_directory(session_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One cache for all tests of a session; a test that breaks things sets another."""
    monkeypatch.setenv("KINTSUGI_CACHE", str(session_cache))
    return session_cache

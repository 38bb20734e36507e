"""What the tests share: a cache folder of their own, so that a test run leaves the user's alone."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def emotion_cache(tmp_path_factory):
    """The folder that compiled checkpoints go to."""
    folder = tmp_path_factory.mktemp("emotion_cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOTION_CACHE", str(folder))
        yield folder

"""What all unit tests share."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")  # how long a test takes says more about the machine


@pytest.fixture(scope="session", autouse=True)
def _dumpable() -> Iterator[None]:
    """The tests' own process stays open to debuggers; what commands do for good is seen in processes of their own."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("keys", "key_commands", "supervisor"):
            patch.setattr(f"sluice.{module}.keep_memory_private", lambda: None)
        yield

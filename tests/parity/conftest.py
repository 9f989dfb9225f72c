"""Makes comparisons with other implementations use the programs that users run."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def as_users_run_them(optimized_programs):
    """Compiles optimized programs for every module here."""

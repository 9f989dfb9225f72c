"""Makes comparisons with other implementations use the programs that users run."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def as_users_run_them(optimized_programs):
    """Every module here asks for optimized programs."""

"""How many random examples a test draws."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings


def fuzzed(usual: int, share: int = 1) -> settings:
    """Settings of a test of random programs: always the same ones, or as many new ones as ``FUZZ_EXAMPLES`` says.

    Args:
        usual: how many without that.
        share: what part of ``FUZZ_EXAMPLES`` a test draws whose examples take longer: one in so many.
    """
    asked = os.environ.get("FUZZ_EXAMPLES")
    return settings(
        max_examples=usual if asked is None else max(int(asked) // share, 1),
        deadline=None,
        derandomize=asked is None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )

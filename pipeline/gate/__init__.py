"""Has a change made anything worse? `python -m pipeline.gate`"""

PASSED, REGRESSED, NO_VERDICT = 0, 1, 2  # the exit statuses

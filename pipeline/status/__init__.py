"""A study looked at while it runs: what each run is at, what is left, what it would take."""

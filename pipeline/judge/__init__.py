"""A verdict on scores that were not made here: tables of other tools, and several results.json."""

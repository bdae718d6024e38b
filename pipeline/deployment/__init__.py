"""A trained network outside of its study."""

"""What a case is scored by."""

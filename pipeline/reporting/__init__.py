"""What people look at: figures, tables, cards and the page."""

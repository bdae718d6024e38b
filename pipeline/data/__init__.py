"""From archives and folders to raw cases, and from those to what is checked and divided."""

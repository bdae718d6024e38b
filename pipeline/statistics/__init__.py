"""From scores to a verdict. Of files only those of a run's scores and results.json are known."""

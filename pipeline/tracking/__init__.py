"""MLflow as a view of the run folders: `python -m pipeline.tracking sync` levels its store."""

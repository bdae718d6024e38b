"""Has a change made anything worse? `python -m pipeline.gate`"""

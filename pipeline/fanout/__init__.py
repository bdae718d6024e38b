"""The runs of a study on many GPUs or machines at once: `python -m pipeline.fanout [study]`"""

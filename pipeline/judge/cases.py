"""Names of cases made of the files that they were scored from."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.study.values import printable

# Endings of images, the longest first; what else follows a point may be part of a case's name.
ENDINGS = (
    *(".nii.gz", ".seg.nrrd", ".ome.tiff", ".ome.tif"),
    *(".nii", ".nrrd", ".mha", ".mhd", ".dcm", ".h5", ".hdf5", ".npy", ".npz", ".b2nd", ".pt"),
    *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp"),
)


def name_cases(files: Sequence[Sequence[str]]) -> list[list[str]]:
    """Of each run's files, paths of any machine, the cases' names: the file's name without ending,
    with as many folders before it as make the names of each run differ where paths do."""
    paths = [[path.replace("\\", "/").rstrip("/").split("/") for path in run] for run in files]
    deepest = max((len(path) for run in paths for path in run), default=1)
    for depth in range(1, deepest + 1):
        named = [["/".join(path[-depth:]) for path in run] for run in paths]
        if all(len(set(names)) == len(set(run)) for names, run in zip(named, files, strict=True)):
            break
    return [[printable(_without_ending(name)) for name in run] for run in named]


def _without_ending(name: str) -> str:
    ending = next((end for end in ENDINGS if name.lower().endswith(end)), "")
    return name[: len(name) - len(ending)] or name

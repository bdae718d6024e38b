"""A study whose stages are a script of milliseconds: DVC, the files and the matrix are real."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]

# Goes on where it was interrupted, as a training does; `log` has a line for each epoch of it.
WORK = """
import hashlib, json, os, pathlib, sys, time

stage, *run = sys.argv[1:]
folder = pathlib.Path("runs", *run)
folder.mkdir(parents=True, exist_ok=True)
if stage == "train":
    state = pathlib.Path(".resume", "-".join(run))
    state.parent.mkdir(exist_ok=True)
    digest = state.read_text().split() if state.exists() else ["start"]
    setup = json.loads(pathlib.Path("params.yaml").read_text())
    for epoch in range(len(digest), setup["train"]["epochs"] + 1):
        with open("log", "a") as log:
            threads = os.environ.get("OMP_NUM_THREADS")
            log.write(f"{'-'.join(run)} {epoch} {threads} {time.monotonic()}\\n")
        time.sleep(setup["train"]["batch_size"] / 1000)
        text = f"{digest[-1]}{run}{setup['models'][run[0]]}" + pathlib.Path("data.txt").read_text()
        digest.append(hashlib.sha256(text.encode()).hexdigest())
        partial = state.with_suffix(".partial")
        partial.write_text(" ".join(digest))
        partial.replace(state)
    if setup["train"]["batch_size"] == 666:
        sys.exit("error: no such luck")
    weights = folder / "weights"
    weights.unlink(missing_ok=True)
    weights.write_text(digest[-1])
    state.unlink()
elif stage == "average":
    table = pathlib.Path("reports", "averaged", run[0] + ".csv")
    table.parent.mkdir(parents=True, exist_ok=True)
    files = sorted(folder.glob("*/*/metrics.json"))
    table.write_text("".join(f"{file} {file.read_text()}\\n" for file in files))
elif stage == "export":
    out = pathlib.Path("reports", "exported", run[0])
    out.mkdir(parents=True)
    (out / "model").write_text((folder / "weights").read_text())
else:
    metrics = folder / "metrics.json"
    metrics.write_text(json.dumps({"dice": int((folder / "weights").read_text()[:8], 16)}))
print(stage, *run)
"""

RUN = "${item.variant} ${item.seed} ${item.fold}"
FOLDER = "runs/${item.variant}/${item.seed}/${item.fold}"
MATRIX = {"variant": "${variants}", "seed": "${seeds}", "fold": "${folds}"}
PIPELINE = {
    "stages": {
        "preprocess": {"cmd": "cp raw.txt data.txt", "deps": ["raw.txt"], "outs": ["data.txt"]},
        "train": {
            "matrix": MATRIX,
            "cmd": f"python -S ${{code}}/work.py train {RUN}",
            "deps": ["${code}/work.py", "data.txt"],
            "params": ["train", "models.${item.variant}"],
            "outs": [f"{FOLDER}/weights"],
        },
        "evaluate": {
            "matrix": MATRIX,
            "cmd": f"python -S ${{code}}/work.py evaluate {RUN}",
            "deps": ["${code}/work.py", f"{FOLDER}/weights"],
            "metrics": [f"{FOLDER}/metrics.json"],
        },
        "compare": {
            "cmd": "cat runs/*/*/*/metrics.json > results.txt",
            "deps": ["runs"],
            "outs": ["results.txt"],
        },
    }
}

AFTER_RUNS = {
    "average": {
        "matrix": {"variant": "${variants}"},
        "cmd": "python -S ${code}/work.py average ${item.variant}",
        "deps": ["${code}/work.py", "runs/${item.variant}"],
        "params": ["averaging", "seeds", "folds"],
        "outs": ["reports/averaged/${item.variant}.csv"],
    },
    "export": {
        "matrix": {"variant": "${export}", "seed": ["${seeds[0]}"], "fold": ["${folds[0]}"]},
        "cmd": f"python -S ${{code}}/work.py export {RUN}",
        "deps": ["${code}/work.py", f"{FOLDER}/weights"],
        "outs": ["reports/exported/${item.variant}"],
    },
    "exported": {
        "cmd": ["mkdir -p reports/exported", "echo none > reports/exported/README.txt"],
        "outs": ["reports/exported/README.txt"],
    },
    "compare": {
        "cmd": "cat reports/averaged/* > results.txt; ls reports/exported >> results.txt",
        "deps": ["runs", "reports/averaged", "reports/exported"],
        "outs": ["results.txt"],
    },
}


class LightStudy:
    """A git repository with DVC and one study, of `variants` x `seeds` runs.

    milliseconds: that an epoch takes; 666 fails in the end.
    """

    def __init__(
        self,
        root: Path,
        *,
        variants: int = 2,
        seeds: int = 2,
        epochs: int = 2,
        milliseconds: int = 10,
    ) -> None:
        self.root, self.folder = root, root / "studies" / "light"
        self.folder.mkdir(parents=True)
        params = yaml.safe_load((REPOSITORY / "studies" / "demo" / "params.yaml").read_text())
        names = params["variants"][:variants]
        params |= {"name": "light", "variants": names, "seeds": list(range(seeds))}
        params["compare"]["baseline"] = None
        params["averaging"] = []
        params["train"] |= {"epochs": epochs, "batch_size": milliseconds}
        params["train"]["schedule"]["warmup_epochs"] = 0  # not the demo's: one epoch may do
        params["train"]["optimizer"]["learning_rate"] = 0.001
        self.params = params
        self.write_params()
        (root / "work.py").write_text(WORK)
        (self.folder / "raw.txt").write_text("raw\n")
        (self.folder / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE, sort_keys=False))
        (self.folder / ".dvcignore").write_text(".resume/\n")
        (root / ".gitignore").write_text("log\n.resume/\nruns/\nreports/\n")
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "DVC_NO_ANALYTICS": "1",
        }
        self.run("git", "init", "-q")
        self.run("dvc", "--cd", "studies/light", "init", "-q", "--subdir")
        self.commit()

    def take_real_stages(self) -> None:
        """Have the repository's own dvc.yaml, with all that train and evaluate read made up."""
        shutil.copy(REPOSITORY / "dvc.yaml", self.folder)
        stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
        for dep in {*stages["train"]["deps"], *stages["evaluate"]["deps"]}:
            for variant in self.params["variants"]:
                path = dep.replace("${code}", str(self.root)).replace("${item.variant}", variant)
                if "${" not in path:
                    (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
                    (self.folder / path).write_text(dep)

    def write_params(self, **train: Any) -> None:
        """Write params.yaml, as JSON, which the script can read fast; `train`: keys to replace."""
        self.params["train"] |= train
        (self.folder / "params.yaml").write_text(json.dumps(self.params, indent=2))

    def average_and_export(self, *variants: str) -> None:
        """Have the stages that average, and that export these variants."""
        self.params["export"] = list(variants)
        self.write_params()
        pipeline = {"stages": PIPELINE["stages"] | AFTER_RUNS}
        (self.folder / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))

    def copy(self, root: Path) -> LightStudy:
        """Another repository with everything that this one has."""
        other = copy.copy(self)
        other.root, other.folder = root, root / "studies" / "light"
        other.params = copy.deepcopy(self.params)
        other.environment = dict(self.environment)
        shutil.copytree(self.root, root)
        return other

    def commit(self) -> None:
        self.run("git", "add", "-A")
        author = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        self.run("git", *author, "commit", "-qm", "light")

    def run(self, *command: str, status: int = 0) -> str:
        """Run a command in the root; what it printed, both streams."""
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == status, done.stdout[-3000:]
        return done.stdout

    def start(self, *arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        """`python -m pipeline.fanout` on the study, in a session of its own."""
        return subprocess.Popen(
            [*prefix, sys.executable, "-m", "pipeline.fanout", "studies/light", *arguments],
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # Python minds Ctrl-C only if who started it did, and a shell's background job does not.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def repro(self) -> list[str]:
        """`dvc repro`; the stages that ran."""
        printed = self.run("dvc", "--cd", "studies/light", "repro")
        return re.findall(r"Running stage '(?:[^':]+:)?([^':]+)':", printed)

    def status(self) -> set[str]:
        """What `dvc status` would say of the study: the names of the stages that changed."""
        from dvc.repo import Repo

        found = Repo(str(self.folder)).status()
        return {name.rpartition(":")[2] for name in found}

    def metrics(self) -> dict[str, str]:
        files = sorted(self.folder.glob("runs/*/*/*/metrics.json"))
        return {str(file.relative_to(self.folder)): file.read_text() for file in files}

    def epochs(self) -> list[str]:
        """Every epoch trained, in order: variant-seed-fold, epoch, threads, when it began."""
        log = self.folder / "log"
        return log.read_text().splitlines() if log.exists() else []

    def locked(self) -> dict[str, Any]:
        lock = self.folder / "dvc.lock"
        return yaml.safe_load(lock.read_text())["stages"] if lock.exists() else {}

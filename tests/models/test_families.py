"""models/__init__.py: a family is a folder that no other file names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import yaml
from conftest import REPOSITORY

from models import families
from models.attenresunet import AttenResUNetConfig
from models.smp import SmpConfig

CODE = """
import torch
from models import build_model
from pipeline.study.reading import load_study
from pipeline.training.optimisation import build_optimizer
study = load_study()
network = build_model(study.models["my_tiny"])
build_optimizer(network, study.train).step()
print(study.models["my_tiny"], *network(torch.zeros(2, 3, 32, 64)).shape)
"""


def test_the_suites_families_are_found_by_their_folders():
    assert families() == {"attenresunet": AttenResUNetConfig, "smp": SmpConfig}


def test_a_family_as_the_docs_show_it_is_a_variant(tmp_path):
    text = (REPOSITORY / "docs" / "networks.md").read_text()
    config, network = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    variant = yaml.safe_load(re.search(r"^models:\n  my_tiny: .*$", text, re.MULTILINE)[0])
    shutil.copytree(REPOSITORY / "models", tmp_path / "models")
    shutil.copytree(REPOSITORY / "pipeline", tmp_path / "pipeline")
    folder = tmp_path / "models" / "tiny"
    folder.mkdir()
    (folder / "__init__.py").write_text(config)
    (folder / "network.py").write_text(network)
    params = yaml.safe_load((REPOSITORY / "studies" / "demo" / "params.yaml").read_text())
    params["train"]["optimizer"]["learning_rate"] = 0.001
    params |= {"models": variant["models"], "variants": ["my_tiny"], "export": []}
    params["compare"]["baseline"] = None
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.endswith("width=8) 2 1 32 64\n"), done.stdout + done.stderr

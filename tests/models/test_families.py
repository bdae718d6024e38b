"""models/__init__.py: families, each a folder that no other file names, and their sources."""

from __future__ import annotations

import hashlib

from conftest import REPOSITORY

from models import families, source_hashes
from models.attenresunet import AttenResUNetConfig
from models.module import ModuleConfig
from models.smp import SmpConfig


def test_the_suites_families_are_found_by_their_folders():
    assert families() == {
        "attenresunet": AttenResUNetConfig, "module": ModuleConfig, "smp": SmpConfig
    }  # fmt: skip


def test_a_network_is_made_of_its_own_familys_files_and_the_contracts():
    for config in (AttenResUNetConfig(), SmpConfig(architecture="Unet", encoder="resnet18")):
        files = [*REPOSITORY.glob("models/*.py"), *REPOSITORY.glob(f"models/{config.family}/*.py")]
        assert source_hashes(config) == {
            str(file.relative_to(REPOSITORY)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in files
        }

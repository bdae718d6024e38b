"""MLflow beside the run folders: `python -m pipeline.tracking sync | ui`

sync, in a study's folder: bring MLflow's store level with its runs and results.
ui: print where each study's pages are, and serve them on this machine alone.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from typing import TYPE_CHECKING, NoReturn

from pipeline.study.errors import UserError, run_command
from pipeline.study.reading import load_study
from pipeline.study.stages import at_stage
from pipeline.study.values import option
from pipeline.tracking.connection import faults_told, open_store
from pipeline.tracking.sync import sync
from pipeline.tracking.views import Port, addresses

if TYPE_CHECKING:
    from mlflow import MlflowClient


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.tracking",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("sync", help="record the study's runs and results in MLflow's store")
    pages = commands.add_parser("ui", help="print the addresses of MLflow's pages, and serve them")
    pages.add_argument("--port", type=option(Port), default=5000, help="default: 5000")
    arguments = parser.parse_args()
    if arguments.command == "sync":
        _sync()
    else:
        _serve(arguments.port)


def _sync() -> None:
    study = load_study()
    again = (
        "; the runs are in their folders: run `python -m pipeline.tracking sync` again when it is "
        "back"
    )
    with faults_told(again), at_stage(study, "track"):
        recorded, unchanged = sync(study)
    print(f"tracking: {recorded} runs recorded, {unchanged} already there, study {study.name}")


def _serve(port: int) -> None:
    """Ends where a server has the store: it has the pages as well."""
    import mlflow

    client = open_store()
    store = mlflow.get_tracking_uri()
    if store.startswith(("http://", "https://")):
        _print_addresses(client, store.rstrip("/"))
        return
    with socket.socket() as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            own.bind(("127.0.0.1", port))
            own.listen()
        except OSError as error:
            raise UserError(
                f"port {port} cannot be used: {error.strerror}; choose another: make mlflow "
                f"PORT={port + 1}"
            ) from None
    _print_addresses(client, f"http://127.0.0.1:{port}")
    print("Serving them until Ctrl-C.", flush=True)
    _become("mlflow", "ui", "--backend-store-uri", store, "--port", str(port))


def _print_addresses(client: MlflowClient, server: str) -> None:
    with faults_told():
        studies = [found for found in client.search_experiments() if "folder" in found.tags]
        for study in sorted(studies, key=lambda found: found.name):
            own = client.search_runs([study.experiment_id], "tags.role = 'study'", max_results=1)
            parent_id = own[0].info.run_id if own else None
            print(f"Study {study.name}")
            for shown, address in addresses(server, study.experiment_id, parent_id).items():
                print(f"  {shown:8}  {address}")
    if not studies:
        print(f"No study is recorded yet: {server}")


def _become(module: str, *arguments: str) -> NoReturn:
    """Run a module in this process's place, which then gets the terminal's Ctrl-C itself."""
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])


if __name__ == "__main__":
    run_command(main)

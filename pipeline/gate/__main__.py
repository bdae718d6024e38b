"""`python -m pipeline.gate`: what cannot even be imported is no verdict either."""

from __future__ import annotations

from pipeline.gate import NO_VERDICT
from pipeline.study.errors import run_command


def main() -> None:
    from pipeline.gate import command

    command.main()


if __name__ == "__main__":
    run_command(main, failure=NO_VERDICT)

"""`python -m pipeline.judge`: the verdict from a table of scores, or from printed means."""

from __future__ import annotations

from pipeline.study.errors import run_command


def main() -> None:
    from pipeline.judge import cli

    cli.main()


if __name__ == "__main__":
    run_command(main)

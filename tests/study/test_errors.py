"""study/errors.py: how a command ends, told in one message and an exit status."""

from __future__ import annotations

import gc
import io
import os
import subprocess
import sys

import pytest

from models import NetworkError
from models.config import OWN_FOLDERS
from pipeline.study.errors import UserError, run_command


@pytest.fixture(autouse=True)
def thawed():
    yield
    gc.unfreeze()  # as at the end of a process


def ending(error: BaseException | None, capsys) -> tuple[object, str]:
    def main() -> None:
        if error is not None:
            raise error

    try:
        run_command(main)
    except SystemExit as stop:
        return stop.code, capsys.readouterr().err
    return 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (None, 0, ""),
        (UserError("params.yaml: seeds is missing"), 1, "error: params.yaml: seeds is missing\n"),
        (NetworkError("networks/own.py: no build"), 1, "error: networks/own.py: no build\n"),
        (KeyboardInterrupt(), 130, "stopped; run again to complete it\n"),
    ],
)
def test_a_command_ends_with_a_sentence_and_a_status(error, status, told, capsys):
    assert ending(error, capsys) == (status, told)


def test_what_is_printed_may_hold_what_its_encoding_has_not(monkeypatch):
    printed = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(printed, encoding="ascii"))
    run_command(lambda: print("results in é/o\udce9"))
    assert printed.getvalue() == b"results in \\xe9/o\\udce9\n"


def test_what_a_studys_own_file_raises_is_told_with_its_line(tmp_path, capsys, monkeypatch):
    own = tmp_path / "networks" / "own.py"
    monkeypatch.setitem(OWN_FOLDERS, own.parent, "networks")
    own.parent.mkdir()
    own.write_text("def fail():\n    raise ValueError('too wide')\n")
    names: dict = {}
    exec(compile(own.read_text(), own, "exec"), names)
    with pytest.raises(ValueError, match="too wide") as raised:
        names["fail"]()
    status, told = ending(raised.value, capsys)
    assert status == 1
    assert told.startswith("error: ")
    assert "own.py, line 2: ValueError: too wide" in told


@pytest.mark.parametrize("failure", [1, 2])
@pytest.mark.parametrize(
    "error", [ZeroDivisionError("in the suite"), RecursionError(), BrokenPipeError("another's")]
)
def test_a_fault_of_the_suite_itself_keeps_its_traceback_and_has_the_commands_status(
    error, failure, capfd
):
    """A broken pipe that is not that of `| head`, too: here somebody reads what is printed."""
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: (_ for _ in ()).throw(error), failure)
    assert ended.value.code == failure
    told = capfd.readouterr().err
    assert told.startswith("Traceback")
    assert type(error).__name__ in told


def test_a_file_name_of_any_bytes_is_printed_escaped(tmp_path):
    code = (
        "import os; from pipeline.study.errors import run_command;"
        "run_command(lambda: print(os.fsdecode(b'caf\\xe9.png'), 'mäßig'))"
    )
    for locale in ("C", "C.UTF-8"):
        environment = os.environ | {"LC_ALL": locale}
        told = subprocess.run([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
        assert told.returncode == 0
        assert told.stdout.decode() == "caf\\udce9.png mäßig\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("into", "status", "told"),
    [
        (">&-", 0, ""),
        (">&- 2>&-", 0, ""),
        (
            ">/dev/full",
            1,
            "error: what is printed, or a temporary file, cannot be written: No space left on "
            "device; make room, then run again\n",
        ),
    ],
)
def test_a_command_whose_printing_is_closed_ends_well_and_where_it_is_full_in_a_line(
    into, status, told, unbuffered
):
    code = "from pipeline.study.errors import run_command; run_command(lambda: print('done'))"
    done = subprocess.run(
        ["sh", "-c", f'"$0" -c "{code}" {into}', sys.executable],
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert (done.returncode, done.stderr) == (status, told)


def test_a_warning_without_a_place_to_be_printed_is_not_printed_among_results():
    code = "from pipeline.study.errors import run_command, warn; run_command(lambda: warn('odd'))"
    command = ["sh", "-c", f'"$0" -c "{code}" 2>&-', sys.executable]
    assert subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout == b""

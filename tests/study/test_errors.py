"""study/errors.py: how a command ends, told in one message and an exit status."""

from __future__ import annotations

import gc
import io

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


def test_a_fault_of_the_suite_itself_keeps_its_traceback(capsys):
    with pytest.raises(ZeroDivisionError):
        ending(ZeroDivisionError("in the suite"), capsys)


def test_a_broken_pipe_of_another_process_keeps_its_traceback(capfd):
    """Not that of `| head`: here somebody reads what is printed."""
    with pytest.raises(BrokenPipeError):
        run_command(lambda: (_ for _ in ()).throw(BrokenPipeError()))

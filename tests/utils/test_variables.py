"""Settings from environment variables."""

from pathlib import Path

import pytest

from benchmark.errors import UserError
from benchmark.utils import variables


@pytest.fixture
def environment(monkeypatch):
    """`environment(NAME="value")` sets variables, and unsets all others that the suite reads."""

    def change(**values: str) -> None:
        for name in (variables.DATA, variables.PASSWORD, "HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return change


def without_user(path: Path) -> Path:
    raise RuntimeError("Could not determine home directory.")


class TestDataRoot:
    def test_default_and_variable(self, environment, tmp_path):
        environment(HOME=str(tmp_path))
        assert variables.default_data_root() == tmp_path / ".cache" / "benchmark"
        environment(HOME=str(tmp_path), BENCHMARK_DATA="")
        assert variables.default_data_root() == tmp_path / ".cache" / "benchmark", "empty counts as not set"
        environment(HOME=str(tmp_path), BENCHMARK_DATA="~/sets")
        assert variables.default_data_root() == tmp_path / "sets"

    def test_without_a_home(self, environment, tmp_path, monkeypatch):
        monkeypatch.setattr(Path, "expanduser", without_user)
        environment(BENCHMARK_DATA=str(tmp_path))
        monkeypatch.setattr(Path, "home", without_user)
        with pytest.raises(UserError, match="home folder is unknown"):
            variables.default_data_root()

    @pytest.mark.parametrize("home", ["", "relative"])
    def test_home_that_is_no_folder(self, environment, home):
        environment(HOME=home)
        with pytest.raises(
            UserError, match="the home folder is unknown: give --data-root FOLDER, or set BENCHMARK_DATA"
        ):
            variables.default_data_root()

    def test_file_instead_of_a_folder(self, environment, tmp_path):
        (tmp_path / "file").touch()
        environment(BENCHMARK_DATA=str(tmp_path / "file"))
        with pytest.raises(UserError, match=r"BENCHMARK_DATA=.*file: not a folder: set BENCHMARK_DATA, or give --data"):
            variables.default_data_root()


def test_archive_password(environment):
    environment()
    assert variables.archive_password() is None
    environment(BENCHMARK_ARCHIVE_PASSWORD="")
    assert variables.archive_password() is None
    environment(BENCHMARK_ARCHIVE_PASSWORD="gehéim")
    assert variables.archive_password() == "gehéim".encode()


def test_misspelled(environment):
    environment(BENCHMARK_DATA_ROOT="data", BENCHMARK_VERBOSE="1")
    assert variables.misspelled() == [
        "the environment variable BENCHMARK_DATA_ROOT has no effect; did you mean BENCHMARK_DATA?"
    ]

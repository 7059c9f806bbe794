"""The version and git commit of the suite that is running."""

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = Path(__file__).parent


def package_version() -> str:
    """Return the installed distribution's version, or "unknown" in a checkout that is not installed."""
    try:
        return version("retrieval-distill-benchmark")
    except PackageNotFoundError:
        return "unknown"


def commit() -> str | None:
    """Return the git commit (40 hexadecimal digits) of the code that is running.

    "-dirty" is appended if tracked files differ from the commit. In a checkout the commit is read from git. An
    installed copy reads it from `commit.txt`, which setup.py writes into wheels and source distributions.

    Returns:
        The commit, or None if it is unknown (built or run without git).
    """
    checkout = PACKAGE.parent
    # git must not search the parent folders: an installed copy may be inside another repository.
    if not (checkout / ".git").exists():
        built = PACKAGE / "commit.txt"
        return built.read_text(encoding="utf-8").strip() if built.exists() else None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None

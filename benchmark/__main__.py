"""`python -m benchmark` and `benchmark` run the command line."""

import sys

from benchmark.utils import lifetime


def main() -> None:
    """Run the command line in a process of its own. Signals are handled from here on, during imports, too."""
    try:
        code = _run()
        lifetime.ignore_signals()
    except BaseException as error:  # a signal after the command; a second one does not interrupt this block
        lifetime.ignore_signals()
        code = lifetime.interruption(error) or 1
    lifetime.finish(code)


def _run() -> int:
    try:
        lifetime.start()
        from benchmark import cli

        cli.main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException as error:
        code = lifetime.interruption(error)
        if code is None:
            sys.excepthook(type(error), error, error.__traceback__)
            return 1
        print("benchmark: interrupted", file=sys.stderr)
        return code
    return 0


if __name__ == "__main__":
    main()

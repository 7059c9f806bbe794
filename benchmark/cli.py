"""The command line. Thin: every command imports what it needs when it runs, so that help and completion are instant."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmark.errors import UserError

app = typer.Typer(
    name="benchmark",
    help="Compare distillation methods on image retrieval under one protocol.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data = typer.Typer(help="Look at a dataset.", no_args_is_help=True)
app.add_typer(data, name="data")


def _data_root() -> Path:
    return Path(os.environ.get("BENCHMARK_DATA", Path.home() / ".cache" / "benchmark"))


DataRoot = Annotated[
    Path | None,
    typer.Option(help="Where datasets live. Default: $BENCHMARK_DATA, else ~/.cache/benchmark.", show_default=False),
]
Plugins = Annotated[
    list[Path] | None, typer.Option("--plugin", help="A Python file that registers methods or datasets; repeatable.")
]


@app.command()
def run(
    method: Annotated[str | None, typer.Option(help="A registered method; `benchmark list methods`.")] = None,
    dataset: Annotated[str | None, typer.Option(help="A registered dataset; `benchmark list datasets`.")] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML recipe, laid over the built-in ones.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe; repeatable.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the student's run.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    data_root: DataRoot = None,
    work_dir: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs"),
    leaderboards: Annotated[
        Path, typer.Option(help="Folder of records and pages; the run's record is added to it.")
    ] = Path("leaderboards"),
    resume: Annotated[bool, typer.Option("--resume", help="Continue an unfinished run.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard events into the run.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print recipe, costs and counts; train nothing.")] = False,
    plugin: Plugins = None,
) -> None:
    """Train a teacher (once), distil a student from it, measure both, record the result."""
    _load(plugin)
    from benchmark.recipe import compose

    recipe = compose(method, dataset, config, [*(settings or []), *["runtime.tensorboard=true"] * tensorboard], seed)
    from benchmark.commands.run import execute, preview

    root = data_root or _data_root()
    if dry_run:
        preview(recipe, work_dir, root, device)
    else:
        execute(recipe, work_dir, root, device, leaderboards, resume)


@app.command("list")
def list_(kind: Annotated[str, typer.Argument(help="methods, datasets or backbones")], plugin: Plugins = None) -> None:
    """List what can be named in a recipe."""
    _load(plugin)
    from benchmark.commands.listing import listing

    listing(kind)


@app.command()
def show(name: str, plugin: Plugins = None) -> None:
    """Print the card of a method or dataset: citation, equation or counts, parameters with defaults, needs."""
    _load(plugin)
    from benchmark.commands.show import show as card

    card(name)


@app.command()
def leaderboard(
    folder: Annotated[Path, typer.Option(help="Holds records/ and gets the pages.")] = Path("leaderboards"),
) -> None:
    """Write the Markdown pages anew from the records."""
    from benchmark.results.leaderboard import generate

    if not (folder / "records").is_dir():
        raise UserError(f"there is no folder {folder / 'records'}: `benchmark run` makes it, or give another --folder")
    for page in generate(folder):
        typer.echo(page)


@data.command()
def check(dataset: str, data_root: DataRoot = None, plugin: Plugins = None) -> None:
    """Compare a dataset on disk with what is published; exit with 1 where they differ."""
    report = _dataset(dataset, data_root, plugin).check()
    typer.echo(report)
    if not report.ok:
        raise typer.Exit(1)


@data.command()
def sample(
    dataset: str,
    split: Annotated[str, typer.Option(help="train, query or gallery.")] = "train",
    rows: Annotated[int, typer.Option(min=1, help="Identities to show.")] = 12,
    output: Annotated[
        Path | None, typer.Option(help="Default: <dataset>-<split>.png here.", show_default=False)
    ] = None,
    data_root: DataRoot = None,
    plugin: Plugins = None,
) -> None:
    """Draw a contact sheet: a row per identity, a column per camera."""
    from benchmark.data.contact_sheet import contact_sheet
    from benchmark.data.retrieval_dataset import SPLITS
    from benchmark.errors import nearest

    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}{nearest(split, SPLITS)} Choose train, query or gallery.")
    target = output or Path(f"{dataset}-{split}.png")
    if target.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"--output {target}: a picture's name ends in .png or .jpg")
    contact_sheet(_dataset(dataset, data_root, plugin), split, rows, target)
    typer.echo(target)


def _dataset(name: str, data_root: Path | None, plugin: list[Path] | None):
    _load(plugin)
    from benchmark.registry import DATASETS

    dataset = DATASETS.find(name)(data_root or _data_root())
    dataset.prepare()
    return dataset


def _load(plugins: list[Path] | None) -> None:
    if plugins:
        from benchmark.registry import load_plugin

        for path in plugins:
            load_plugin(path)


def main() -> None:
    """Run the command line. A user's mistake is a line of text and exit code 2; Ctrl-C is 130."""
    try:
        app()
    except UserError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        known = error.filename is not None and error.strerror is not None
        print(f"benchmark: {f'{error.filename}: {error.strerror}' if known else repr(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("benchmark: interrupted; the same command with --resume continues", file=sys.stderr)
        sys.exit(130)

"""The command line. Thin: every command imports what it needs when it runs, so that help and completion are instant."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from benchmark.data import default_data_root
from benchmark.errors import UserError

app = typer.Typer(
    name="benchmark",
    help="Compare distillation methods on image retrieval under one protocol.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data = typer.Typer(help="Prepare, check and view a dataset.", no_args_is_help=True)
app.add_typer(data, name="data")


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
    cache: Annotated[
        Path | None, typer.Option(help="Keep decoded images in this folder, for this run and later ones.")
    ] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave out and count images that cannot be read, instead of stopping.")
    ] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard events into the run.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print recipe, costs and counts; train nothing.")] = False,
    plugin: Plugins = None,
) -> None:
    """Train a teacher (once), distil a student from it, measure both, record the result."""
    _load(plugin)
    from benchmark.recipe import compose

    flags = {"tensorboard": tensorboard, "skip_broken": skip_broken, "cache": cache}
    runtime = [f"runtime.{key}={json.dumps(value, default=str)}" for key, value in flags.items() if value]
    recipe = compose(method, dataset, config, [*(settings or []), *runtime], seed)
    from benchmark.commands.run import preview
    from benchmark.commands.run import run as run_recipe
    from benchmark.experiment.environment import choose_device
    from benchmark.experiment.experiment import Experiment

    experiment = Experiment(
        recipe,
        work_dir=work_dir,
        data_root=data_root or default_data_root(),
        device=choose_device(device),
        resume=resume,
    )
    if dry_run:
        preview(experiment)
        return
    with _interruptible():
        run_recipe(experiment, leaderboards)


@app.command()
def reproduce(
    record: Annotated[Path, typer.Argument(help="A record, such as a file in leaderboards/records.")],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    data_root: DataRoot = None,
    work_dir: Annotated[
        Path, typer.Option(help="Folder for the new runs, apart from the runs that made the records.")
    ] = Path("reproduced"),
    resume: Annotated[bool, typer.Option("--resume", help="Continue an unfinished run.")] = False,
    plugin: Plugins = None,
) -> None:
    """Run the recipe of a record again; exit with 1 if the result differs by more than the spread of the seeds."""
    _load(plugin)
    from benchmark.commands.reproduce import reproduce as run_again

    with _interruptible():
        agrees = run_again(record, work_dir, data_root or default_data_root(), device, resume)
    if not agrees:
        raise typer.Exit(1)


@app.command()
def suite(
    file: Annotated[
        Path | None, typer.Argument(help="A YAML file with the keys methods, datasets, seeds, config and set.")
    ] = None,
    methods: Annotated[str | None, typer.Option(help="Comma-separated names, or all.")] = None,
    datasets: Annotated[str | None, typer.Option(help="Comma-separated names, or all.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Comma-separated seeds. Default: 0.")] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML recipe that is applied to every run.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one value of every recipe; repeatable."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Maximum number of runs at the same time.")] = 1,
    ray: Annotated[
        str | None,
        typer.Option(help="Run on the Ray cluster at this address; auto: the cluster that this machine belongs to."),
    ] = None,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs per run on the cluster; 0.5: two runs share one GPU.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    data_root: DataRoot = None,
    work_dir: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
    leaderboards: Annotated[Path, typer.Option(help="Folder of records and pages.")] = Path("leaderboards"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the commands of the pending runs; run nothing.")
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Run methods x datasets x seeds: skip finished runs, resume interrupted ones, and continue if a run fails."""
    _load(plugin)
    if gpus and ray is None:
        raise UserError(f"--gpus {gpus:g}: only for --ray; use --device to choose the device of local runs")
    from benchmark.commands.suite import suite as run_suite
    from benchmark.suite.grid import Grid
    from benchmark.suite.job import RunOptions

    def split(names: str | None) -> list[str] | None:
        return None if names is None else [name for name in names.split(",") if name]

    try:
        numbers = None if seeds is None else [int(seed) for seed in seeds.split(",") if seed]
    except ValueError:
        raise UserError(f"--seeds {seeds}: must be comma-separated integers, such as 0,1,2") from None
    grid = Grid.from_file(
        file,
        methods=split(methods),
        datasets=split(datasets),
        seeds=numbers,
        config=config,
        settings=settings or [],
    )
    options = RunOptions(
        device=device,
        data_root=data_root or default_data_root(),
        work_dir=work_dir,
        leaderboards=leaderboards,
        plugins=plugin or [],
    )
    try:
        succeeded = run_suite(grid, options, jobs=jobs, ray=ray, gpus=gpus, dry_run=dry_run)
    except KeyboardInterrupt:
        typer.echo("benchmark: interrupted; repeat the command to resume", err=True)
        raise typer.Exit(130) from None
    if not succeeded:
        raise typer.Exit(1)


@app.command("list")
def list_(
    kind: Annotated[str, typer.Argument(help="What to list: methods, datasets or backbones.")], plugin: Plugins = None
) -> None:
    """List the methods, datasets or timm backbones that a recipe can name."""
    _load(plugin)
    from benchmark.commands.cards import list_names

    list_names(kind)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A method, a combination such as kd+rkd, or a dataset.")],
    plugin: Plugins = None,
) -> None:
    """Print the card of a method or dataset: citation, equation or image counts, needs, parameters with defaults."""
    _load(plugin)
    from benchmark.commands.cards import show as show_card

    show_card(name)


@app.command()
def cards(
    output: Annotated[Path, typer.Option(help="Markdown file to write.")] = Path("methods") / "README.md",
    plugin: Plugins = None,
) -> None:
    """Write the cards of all methods to a Markdown page."""
    _load(plugin)
    from benchmark.commands.cards import write_cards

    write_cards(output)
    typer.echo(output)


@app.command()
def leaderboard(
    folder: Annotated[Path, typer.Option(help="The folder with records/, to which the pages are written.")] = Path(
        "leaderboards"
    ),
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Write nothing; exit with 2 if a record has impossible values, with 1 if a file is out of date.",
        ),
    ] = False,
) -> None:
    """Generate the leaderboards from the records: Markdown pages, a web page, plots and a CSV file."""
    if not (folder / "records").is_dir():
        raise UserError(f"{folder / 'records'}: no such folder; `benchmark run` creates it, or give another --folder")
    if check:
        from benchmark.commands.leaderboard import check as differing

        for page in (pages := differing(folder)):
            typer.echo(f"{page} does not match the records; run `benchmark leaderboard`")
        if pages:
            raise typer.Exit(1)
        return
    from benchmark.results.leaderboard import generate

    for page in generate(folder):
        typer.echo(page)


@app.command()
def evaluate(
    run: Annotated[Path | None, typer.Option(help="Folder of a finished run, whose student is evaluated.")] = None,
    embeddings: Annotated[
        Path | None,
        typer.Option(help="A .npz file of arrays query, query_ids, query_cams, gallery, gallery_ids, gallery_cams."),
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="Dataset whose protocol scores --embeddings.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Evaluate --run on this dataset instead of its own.")] = None,
    gallery: Annotated[
        str, typer.Option(help="Network that embeds the gallery for --run: student or teacher.")
    ] = "student",
    flip: Annotated[
        bool, typer.Option("--flip", help="Flip test-time augmentation: average an image and its mirror image.")
    ] = False,
    index: Annotated[
        str | None,
        typer.Option(help="Compare approximate search by a faiss index with the exact search: flat, hnsw or ivfpq."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change an evaluation setting, such as evaluate.reranking.k1=20; repeatable.",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the scores of every query to this JSON file.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    data_root: DataRoot = None,
    plugin: Plugins = None,
) -> None:
    """Score a finished run with another dataset, gallery or protocol, or score embeddings of any origin."""
    _load(plugin)
    if (run is None) == (embeddings is None):
        raise UserError("give either --run FOLDER or --embeddings FILE, and not both")
    from benchmark.commands.evaluate import Options, evaluate_file, evaluate_run

    options = Options(
        data_root=data_root or default_data_root(),
        settings=settings or [],
        device=device,
        index=index,
        output=output,
    )
    if run is not None:
        if protocol is not None:
            raise UserError(f"--protocol {protocol}: only for --embeddings; use --dataset to change a run's protocol")
        evaluate_run(run, options, dataset=dataset, gallery=gallery, flip=flip)
    elif embeddings is not None:
        if protocol is None:
            raise UserError("--embeddings needs --protocol DATASET; `benchmark list datasets` shows the names")
        if dataset is not None or flip or gallery != "student":
            raise UserError(
                "--dataset, --gallery and --flip: only for --run, because --embeddings are not computed here"
            )
        evaluate_file(embeddings, protocol, options)


@app.command()
def inspect(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    worst: Annotated[int, typer.Option(min=1, help="Number of queries to show, lowest average precision first.")] = 20,
    neighbors: Annotated[int, typer.Option(min=1, help="Number of gallery images to show per query.")] = 12,
    output: Annotated[
        Path | None,
        typer.Option(
            help="The page to write; a contact sheet (.png) is written next to it. Default: RUN/inspect.html.",
            show_default=False,
        ),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Evaluate on this dataset instead of the run's own.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one evaluation setting; repeatable."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    data_root: DataRoot = None,
    plugin: Plugins = None,
) -> None:
    """Write a web page of the queries with the lowest AP, and of the largest drops from teacher to student."""
    _load(plugin)
    from benchmark.commands.inspect import inspect as inspect_run

    inspect_run(
        run,
        worst=worst,
        neighbors=neighbors,
        output=output,
        dataset=dataset,
        settings=settings or [],
        data_root=data_root or default_data_root(),
        device=device,
    )


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of two or more finished runs.")],
    output: Annotated[Path, typer.Option(help="The plot to write, an .svg or .png.")] = Path("compare.svg"),
) -> None:
    """Compare finished runs with the first one: scores, costs, recipes, training curves and AP of every query."""
    from benchmark.commands.compare import compare as compare_runs

    compare_runs(runs, output)


DatasetName = Annotated[str, typer.Argument(help="A registered dataset; `benchmark list datasets`.")]
Options = Annotated[
    list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", help="An option of the dataset; repeatable.")
]


@data.command()
def check(
    dataset: DatasetName,
    decode: Annotated[bool, typer.Option("--decode", help="Decode every image and list the broken ones.")] = False,
    settings: Options = None,
    data_root: DataRoot = None,
    plugin: Plugins = None,
) -> None:
    """Compare a dataset on disk with the published one; exit with code 1 if it has defects."""
    _load(plugin)
    from benchmark.commands import data as commands

    commands.check(dataset, settings or [], data_root or default_data_root(), decode=decode)


@data.command()
def prepare(
    dataset: DatasetName,
    archive: Annotated[
        Path | None, typer.Argument(help="The official archive: zip, tar, tar.gz, tar.bz2 or tar.xz.")
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Download the archive first, if no agreement is required.")
    ] = False,
    settings: Options = None,
    data_root: DataRoot = None,
    plugin: Plugins = None,
) -> None:
    """Unpack an archive into the data root, completely or not at all, and check the dataset."""
    _load(plugin)
    from benchmark.commands import data as commands

    commands.prepare(dataset, archive, settings or [], data_root or default_data_root(), download=download)


@data.command()
def sample(
    dataset: DatasetName,
    split: Annotated[str, typer.Option(help="Split to show: train, query or gallery.")] = "train",
    rows: Annotated[int, typer.Option(min=1, help="Number of identities to show.")] = 12,
    output: Annotated[
        Path | None, typer.Option(help="Image file to write. Default: ./<dataset>-<split>.png.", show_default=False)
    ] = None,
    settings: Options = None,
    data_root: DataRoot = None,
    plugin: Plugins = None,
) -> None:
    """Write a contact sheet: an image with a row per identity and a column per camera."""
    _load(plugin)
    from benchmark.commands import data as commands

    root = data_root or default_data_root()
    commands.sample(dataset, settings or [], root, split=split, rows=rows, output=output)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Exit with 130 on Ctrl-C, and print how to continue the run."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("benchmark: interrupted; run the same command with --resume to continue", err=True)
        raise typer.Exit(130) from None


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
        print("benchmark: interrupted; run the same command with --resume to continue", file=sys.stderr)
        sys.exit(130)

"""The command line.

Each command imports its modules when it runs, which keeps help and shell completion fast.
"""

import io
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from benchmark.data import default_data_root
from benchmark.errors import UserError
from benchmark.utils.launch import launch
from benchmark.utils.lifetime import BROKEN_PIPE, describe, interruption, is_broken_pipe, notes
from benchmark.utils.machine import shortage
from benchmark.utils.paths import user_path
from benchmark.utils.variables import misspelled

_CFG_OPTIONS = "--cfg-options"
_RESUME = "run the same command with --resume to continue"


class _Commands(TyperGroup):
    """The commands, whose option `--cfg-options` takes several values, as in mmengine."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat `--cfg-options` before each of its values."""
        repeated: list[str] = []
        for argument in args:
            follows = len(repeated) > 1 and repeated[-2] == _CFG_OPTIONS and repeated[-1] != _CFG_OPTIONS
            repeated += [_CFG_OPTIONS] if follows and _is_setting(argument) else []
            repeated.append(argument)
        return super().parse_args(ctx, repeated)


def _is_setting(argument: str) -> bool:
    return re.match(r"[^-=][^=]*=", argument) is not None


app = typer.Typer(
    name="benchmark",
    cls=_Commands,
    help="Compare distillation methods for image retrieval under one protocol.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
data = typer.Typer(help="Prepare, check and view a dataset.", no_args_is_help=True)
app.add_typer(data, name="data")
teacher = typer.Typer(help="List, publish and add trained teachers.", no_args_is_help=True)
app.add_typer(teacher, name="teacher")


def _print_version(requested: bool) -> None:
    if requested:
        from benchmark.version import commit, package_version

        typer.echo(f"benchmark {package_version()} (commit {commit() or 'unknown'})")
        raise typer.Exit


def _load_plugins(context: typer.Context, paths: list[Path]) -> list[Path]:
    if paths and not context.resilient_parsing:  # not during shell completion
        from benchmark.registry import load_plugin

        for path in paths:
            load_plugin(path)
    return paths


def _require_folder(path: Path) -> Path:
    # Also a link to nothing exists: no folder can be created in its place.
    if os.path.lexists(path) and not path.is_dir():
        raise UserError(f"--data-root {path}: not a folder: give another --data-root, or set BENCHMARK_DATA")
    return path


_SHARED = ("run", "evaluate")
"""Commands that several processes can share."""


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print version and commit.")
    ] = False,
) -> None:
    """Options that come before the command."""
    started = launch()
    if started.processes > 1 and context.invoked_subcommand not in _SHARED:
        raise UserError(
            f"{started.processes} processes were started, and `benchmark {context.invoked_subcommand}` is for a single "
            f"one: start it without the launcher; {' and '.join(_SHARED)} share their work among processes"
        )
    for argument in sys.argv[1:]:
        if not argument or re.fullmatch("--[a-z-]+=", argument):  # such as `--data-root "$UNSET"`
            raise UserError(f"an empty argument{f', {argument}' if argument else ''}: give a value, or leave it out")
    for sentence in misspelled():
        typer.echo(f"warning: {sentence}", err=True)


# Options that several commands share. The commands take them as keywords, because an option with a default factory has
# no default in the signature.
Settings = Annotated[
    list[str],
    typer.Option(
        "--set",
        _CFG_OPTIONS,
        metavar="KEY=VALUE",
        default_factory=list,
        show_default=False,
        help="Change one value of the recipe; repeatable. --cfg-options takes several.",
    ),
]
EvaluationSettings = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        default_factory=list,
        show_default=False,
        help="Change one evaluation setting, such as evaluate.reranking.k1=20; repeatable.",
    ),
]
DatasetSettings = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="OPTION=VALUE",
        default_factory=list,
        show_default=False,
        help="Set an option of the dataset; repeatable.",
    ),
]
Arguments = Annotated[
    str | None,
    typer.Option(
        "--settings",
        help="Arguments of the method: published, or a file that `benchmark tune` has written.",
        show_default=False,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        help="Released settings of another project, over which --config is merged; `benchmark list presets`.",
        show_default=False,
    ),
]


def _complete_pair(incomplete: str) -> list[str]:
    from benchmark.recipe.pair import pair_names

    return [name for name in pair_names() if name.startswith(incomplete)]


Pair = Annotated[
    str | None,
    typer.Option(
        help="A published result with its settings, to compare the run with, in place of a preset; "
        "`benchmark list pairs`.",
        show_default=False,
        autocompletion=_complete_pair,
    ),
]
Device = Annotated[str, typer.Option(help="auto (CUDA if available), cpu, cuda, cuda:1, xpu or mps.")]
DataRoot = Annotated[
    Path,
    typer.Option(
        default_factory=default_data_root,
        callback=_require_folder,
        show_default="$BENCHMARK_DATA, or ~/.cache/benchmark",
        help="Folder of all datasets.",
    ),
]
WorkDir = Annotated[Path, typer.Option(help="Folder of all runs.")]
Leaderboards = Annotated[Path, typer.Option(help="Folder of records and pages, to which results are added.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an unfinished run.")]
Plugins = Annotated[
    list[Path],
    typer.Option(
        "--plugin",
        default_factory=list,
        show_default=False,
        callback=_load_plugins,
        is_eager=True,
        help="Python file that registers methods, datasets or teachers; repeatable.",
    ),
]
DatasetName = Annotated[str, typer.Argument(help="A registered dataset; `benchmark list datasets`.")]
UpdatedLeaderboards = Annotated[
    Path, typer.Option(help="Folder of records, in which the record is updated if the run is there.")
]
RunFolder = Annotated[Path, typer.Argument(help="Folder of a finished run.")]


@contextmanager
def _resumable(advice: str) -> Iterator[None]:
    """If a signal interrupts the command, let `main` print how to continue it."""
    try:
        yield
    except BaseException as error:
        if interruption(error) is not None:
            error.add_note(advice)
        raise


@app.command()
@_resumable(_RESUME)
def run(
    *,
    method: Annotated[
        str | None, typer.Option(help="A registered method, or several joined by +; `benchmark list methods`.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="A registered dataset; `benchmark list datasets`.")] = None,
    preset: Preset = None,
    pair: Pair = None,
    config: Annotated[Path | None, typer.Option(help="YAML recipe, merged over the built-in recipes.")] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            help="A published teacher (sha256:...), a run folder or a file of weights; `train` to train one. "
            "Repeatable, for methods that take several."
        ),
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="MACs of the student as a fraction of the teacher's, such as 0.3.")
    ] = None,
    arguments: Arguments = None,
    settings: Settings,
    seed: Annotated[int | None, typer.Option(help="Seed of the student's training; 0 by default.")] = None,
    device: Device = "auto",
    data_root: DataRoot,
    work_dir: WorkDir = Path("runs"),
    leaderboards: Leaderboards = Path("leaderboards"),
    resume: Resume = False,
    cache: Annotated[Path | None, typer.Option(help="Folder in which decoded images are kept for later runs.")] = None,
    skip_broken: Annotated[
        bool,
        typer.Option("--skip-broken", help="Leave out and count images that cannot be decoded, instead of stopping."),
    ] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard events to the run folder.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the recipe, image counts and network costs; train nothing.")
    ] = False,
    plugin: Plugins,
) -> None:
    """Train a teacher if there is none yet, distill a student, evaluate both, and update the leaderboards."""
    from benchmark.recipe import compose, remarks, student_only, use_teacher, with_budget, with_settings

    flags = {"tensorboard": tensorboard, "skip_broken": skip_broken, "cache": cache}
    runtime = [
        f"runtime.{key}={json.dumps(value, default=str, ensure_ascii=False)}" for key, value in flags.items() if value
    ]
    options = [*use_teacher(teacher), *with_budget(budget), *with_settings(arguments)]
    recipe = compose(method, dataset, config, [*options, *settings, *runtime], seed, preset, pair)
    sentences = student_only(config, settings) if any(each.is_trained for each in recipe.teachers) else []
    for sentence in (*sentences, *remarks(recipe.pair)):
        typer.echo(f"note: {sentence}", err=True)

    from benchmark.commands.run import preview
    from benchmark.commands.run import run as run_experiment
    from benchmark.experiment.environment import choose_device
    from benchmark.experiment.experiment import Experiment
    from benchmark.utils.distributed import on_main, process_group

    chosen = choose_device(device)
    with process_group(chosen):
        experiment = Experiment(recipe, work_dir=work_dir, data_root=data_root, device=chosen, resume=resume)
        if dry_run:
            on_main(lambda: preview(experiment, leaderboards))
        else:
            run_experiment(experiment, leaderboards)


@app.command()
@_resumable(_RESUME)
def reproduce(
    record: Annotated[Path, typer.Argument(help="A record, such as a file in leaderboards/records.")],
    *,
    settings: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            default_factory=list,
            show_default=False,
            help="Set where your own images are (dataset.path), or how the run is executed (runtime.*); repeatable.",
        ),
    ],
    device: Device = "auto",
    data_root: DataRoot,
    work_dir: Annotated[
        Path, typer.Option(help="Folder for the new runs; not the folder of the runs that made the records.")
    ] = Path("reproduced"),
    resume: Resume = False,
    plugin: Plugins,
) -> None:
    """Run the recipe of a record again; exit with 1 if the result differs by more than the spread of the seeds."""
    from benchmark.commands.reproduce import reproduce as run_again

    agrees = run_again(record, settings, work_dir=work_dir, data_root=data_root, device=device, resume=resume)
    if not agrees:
        raise typer.Exit(1)


@app.command()
@_resumable("repeat the command to resume")
def suite(
    file: Annotated[
        Path | None,
        typer.Argument(help="A YAML file: methods, datasets, seeds, budgets, preset, pair, config and set."),
    ] = None,
    *,
    methods: Annotated[str | None, typer.Option(help="Comma-separated names, or all.")] = None,
    datasets: Annotated[str | None, typer.Option(help="Comma-separated names, or all.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Comma-separated seeds; 0 by default.")] = None,
    budgets: Annotated[
        str | None, typer.Option(help="Comma-separated budgets, as for `benchmark run --budget`.")
    ] = None,
    preset: Preset = None,
    pair: Pair = None,
    config: Annotated[Path | None, typer.Option(help="YAML recipe that is applied to every run.")] = None,
    arguments: Arguments = None,
    settings: Settings,
    jobs: Annotated[int, typer.Option(min=1, help="Maximum number of runs at the same time.")] = 1,
    ray: Annotated[
        str | None,
        typer.Option(help="Run on the Ray cluster at this address; auto: the cluster that this machine belongs to."),
    ] = None,
    gpus: Annotated[
        float, typer.Option(min=0, help="GPUs per process of a run on the cluster; 0.5: two runs share one GPU.")
    ] = 0,
    processes_per_run: Annotated[
        int, typer.Option(min=1, help="Number of processes that share each run, with a GPU each if there are GPUs.")
    ] = 1,
    device: Device = "auto",
    data_root: DataRoot,
    work_dir: WorkDir = Path("runs"),
    leaderboards: Leaderboards = Path("leaderboards"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the commands of the pending runs; run nothing.")
    ] = False,
    plugin: Plugins,
) -> None:
    """Run methods x datasets x seeds: skip finished runs, resume interrupted ones, and continue if a run fails."""
    if gpus and ray is None:
        raise UserError(f"--gpus {gpus:g}: only for --ray; use --device to choose the device of local runs")
    from benchmark.commands.suite import suite as run_suite
    from benchmark.recipe import with_settings
    from benchmark.suite.grid import Grid
    from benchmark.suite.job import RunOptions

    try:
        numbers = None if seeds is None else [int(seed) for seed in seeds.split(",") if seed]
    except ValueError:
        raise UserError(f"--seeds {seeds}: must be comma-separated integers, such as 0,1,2") from None
    try:
        fractions = None if budgets is None else [float(budget) for budget in budgets.split(",") if budget]
    except ValueError:
        raise UserError(f"--budgets {budgets}: must be comma-separated fractions, such as 0.42,0.15") from None
    grid = Grid.from_file(
        file,
        methods=_split(methods),
        datasets=_split(datasets),
        seeds=numbers,
        budgets=fractions,
        preset=preset,
        pair=pair,
        config=config,
        settings=[*with_settings(arguments), *settings],
    )
    options = RunOptions(
        device=device,
        data_root=data_root,
        work_dir=work_dir,
        leaderboards=leaderboards,
        plugins=plugin,
        processes=processes_per_run,
    )
    raise typer.Exit(run_suite(grid, options, jobs=jobs, ray=ray, gpus=gpus, dry_run=dry_run))


def _split(names: str | None) -> list[str] | None:
    return None if names is None else [name for name in names.split(",") if name]


@app.command()
@_resumable("repeat the command to resume")
def tune(
    *,
    methods: Annotated[str, typer.Option(help="Comma-separated names, or all.")] = "all",
    dataset: Annotated[str, typer.Option(help="A registered dataset; `benchmark list datasets`.")],
    trials: Annotated[int, typer.Option(min=1, help="Number of trials of every method.")] = 16,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Number of epochs of a trial.", show_default="a third of the recipe's"),
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="MACs of the student as a fraction of the teacher's, such as 0.3.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML recipe that is applied to every run.")] = None,
    settings: Settings,
    seed: Annotated[int, typer.Option(help="Seed of the trials.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Maximum number of runs at the same time.")] = 1,
    output: Annotated[Path | None, typer.Option(help="File to write.", show_default="settings/<dataset>.yaml")] = None,
    device: Device = "auto",
    data_root: DataRoot,
    work_dir: WorkDir = Path("runs"),
    plugin: Plugins,
) -> None:
    """Choose arguments of methods on the validation images: the same number of trials for every method."""
    from benchmark.commands.tune import tune as run_tuning
    from benchmark.suite.job import RunOptions
    from benchmark.suite.tuning import TuningGrid

    grid = TuningGrid(
        methods=_split(methods) or [],
        dataset=dataset,
        trials=trials,
        epochs=epochs,
        budget=budget,
        config=config,
        settings=settings,
        seed=seed,
    )
    options = RunOptions(
        device=device, data_root=data_root, work_dir=work_dir, leaderboards=work_dir / "tuning", plugins=plugin
    )
    if not run_tuning(grid, options, jobs=jobs, output=output or Path("settings") / f"{dataset}.yaml"):
        raise typer.Exit(1)


@app.command("list")
def list_(
    kind: Annotated[str, typer.Argument(help="methods, datasets, presets, pairs or backbones.")],
    *,
    plugin: Plugins,
) -> None:
    """List the methods, datasets, presets, pairs or timm backbones."""
    from benchmark.commands.cards import list_names

    list_names(kind)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A method, a combination such as kd+rkd, a dataset, a preset or a pair.")],
    *,
    plugin: Plugins,
) -> None:
    """Print the card of a method, dataset, preset or pair: citation, equation, counts, parameters, sources, recipe."""
    from benchmark.commands.cards import show as show_card

    show_card(name)


@app.command()
def cards(
    *,
    output: Annotated[Path, typer.Option(help="Markdown file to write.")] = Path("methods") / "README.md",
    plugin: Plugins,
) -> None:
    """Write the cards of all methods to a Markdown page."""
    from benchmark.commands.cards import write_cards
    from benchmark.utils.console import echo

    write_cards(output)
    echo(output)


@app.command()
def leaderboard(
    folder: Annotated[
        Path,
        typer.Option("--leaderboards", "--folder", help="Folder of records and pages, to which pages are written."),
    ] = Path("leaderboards"),
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Write nothing; exit with 2 if a record has impossible values, with 1 if a file is out of date.",
        ),
    ] = False,
    against: Annotated[
        str | None,
        typer.Option(
            help="Write only plots of mAP against another cost: parameters, bytes, bytes-per-image or latency."
        ),
    ] = None,
) -> None:
    """Generate the leaderboards from the records: Markdown pages, a web page, plots and a CSV file."""
    if not (folder / "records").is_dir():
        raise UserError(
            f"{folder / 'records'}: no such folder; `benchmark run` creates it, or give another --leaderboards"
        )
    if check and against is not None:
        raise UserError("--check and --against exclude each other: plots against other costs are not compared")
    from benchmark.utils.console import echo

    if check:
        from benchmark.commands.leaderboard import check as check_records

        for page in (pages := check_records(folder)):
            echo(f"{page} does not match the records; run `benchmark leaderboard`")
        if pages:
            raise typer.Exit(1)
        return
    from benchmark.commands.leaderboard import generate, plot_against

    for page in generate(folder) if against is None else plot_against(folder, against):
        echo(page)


@app.command()
def evaluate(
    *,
    run: Annotated[Path | None, typer.Option(help="Folder of a finished run, whose student is evaluated.")] = None,
    embeddings: Annotated[
        Path | None,
        typer.Option(help="A .npz file of arrays query, query_ids, query_cams, gallery, gallery_ids, gallery_cams."),
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="Dataset whose protocol scores --embeddings.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Dataset to evaluate --run on; by default its own.")] = None,
    gallery: Annotated[
        str, typer.Option(help="Network that embeds the gallery of the run: student or teacher.")
    ] = "student",
    flip: Annotated[
        bool, typer.Option("--flip", help="Flip test-time augmentation: average an image and its mirror image.")
    ] = False,
    embedding: Annotated[
        list[str],
        typer.Option(
            default_factory=list,
            show_default="that of the run",
            metavar="FORMAT[,FORMAT...]",
            help="How gallery embeddings are stored: float32, float16, int8, binary, pca:64, pq:32x8 or matryoshka:64. "
            "Several are compared in one table; repeatable.",
        ),
    ],
    train_embeddings: Annotated[
        Path | None,
        typer.Option(
            help="A .npz file with embeddings of training images, from which int8, pca and pq are learned, unless "
            "--embeddings has them as the array train."
        ),
    ] = None,
    clustering: Annotated[
        bool, typer.Option("--clustering", help="Also cluster the gallery by k-means: NMI and AMI of the clusters.")
    ] = False,
    index: Annotated[
        str | None,
        typer.Option(help="Compare approximate search by a faiss index with the exact search: flat, hnsw or ivfpq."),
    ] = None,
    settings: EvaluationSettings,
    output: Annotated[Path | None, typer.Option(help="Write the scores of every query to this JSON file.")] = None,
    device: Device = "auto",
    data_root: DataRoot,
    plugin: Plugins,
) -> None:
    """Score a finished run with another dataset, gallery or settings, or score embeddings in a file."""
    if (run is None) == (embeddings is None):
        raise UserError("give either --run FOLDER or --embeddings FILE, and not both")
    from benchmark.commands.evaluate import Options, evaluate_file, evaluate_run

    options = Options(
        data_root=data_root,
        settings=settings,
        device=device,
        embedding=embedding,
        index=index,
        clustering=clustering,
        output=output,
    )
    if run is not None:
        if train_embeddings is not None:
            raise UserError("--train-embeddings: only for --embeddings; the training images of a run are embedded here")
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
        evaluate_file(embeddings, protocol, options, training=train_embeddings)


@app.command()
def inspect(
    run: RunFolder,
    *,
    worst: Annotated[int, typer.Option(min=1, help="Number of queries to show, lowest average precision first.")] = 20,
    neighbors: Annotated[int, typer.Option(min=1, help="Number of gallery images to show per query.")] = 12,
    projection: Annotated[str, typer.Option("--map", help="Map of the embeddings: pca, tsne, or none.")] = "pca",
    explained: Annotated[
        int,
        typer.Option(
            "--saliency",
            min=0,
            help="Number of queries of which the page shows the parts that make the first result similar.",
        ),
    ] = 3,
    output: Annotated[
        Path | None,
        typer.Option(
            show_default="RUN/inspect.html",
            help="The page to write; a contact sheet (.png) is written next to it.",
        ),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Dataset to evaluate on; by default the run's own.")] = None,
    settings: EvaluationSettings,
    device: Device = "auto",
    data_root: DataRoot,
    plugin: Plugins,
) -> None:
    """Write a web page of the queries with the lowest AP, and of the largest drops from teacher to student."""
    from benchmark.commands.inspect import inspect as inspect_run

    inspect_run(
        run,
        worst=worst,
        neighbors=neighbors,
        projection=projection,
        explained=explained,
        output=output,
        dataset=dataset,
        settings=settings,
        data_root=data_root,
        device=device,
    )


@app.command()
def export(
    run: RunFolder,
    *,
    to: Annotated[str, typer.Option("--to", help="Format: onnx, torch-export, openvino or tensorrt.")],
    preprocessing: Annotated[
        str,
        typer.Option(
            help="Where pixels are normalized. With inside, the exported network takes uint8 pixels; with outside, it "
            "takes normalized floats, and a file in the same folder describes them."
        ),
    ] = "inside",
    int8: Annotated[
        bool,
        typer.Option(
            "--int8", help="Quantize the network to int8, with ranges of training images; only with --to onnx."
        ),
    ] = False,
    output: Annotated[Path | None, typer.Option(show_default="RUN/exports/FORMAT", help="Folder to write.")] = None,
    device: Device = "auto",
    data_root: DataRoot,
    leaderboards: UpdatedLeaderboards = Path("leaderboards"),
    plugin: Plugins,
) -> None:
    """Export the student of a run to another runtime, compare it with PyTorch on the test images, and measure it."""
    from benchmark.commands.export import Options
    from benchmark.commands.export import export as export_run

    options = Options(to=to, preprocessing=preprocessing, int8=int8, output=output, device=device, data_root=data_root)
    export_run(run, options, leaderboards)


@app.command()
def latency(
    run: RunFolder,
    *,
    runtime: Annotated[
        str, typer.Option(help="pytorch, or a format of `benchmark export`, to which the student is exported.")
    ] = "pytorch",
    device: Device = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, show_default="one per core", help="Number of CPU threads.")
    ] = None,
    data_root: DataRoot,
    leaderboards: UpdatedLeaderboards = Path("leaderboards"),
    plugin: Plugins,
) -> None:
    """Measure the latency of a run's student on this machine, and add it to the run's record."""
    from benchmark.commands.latency import latency as measure

    measure(run, runtime=runtime, device=device, threads=threads, data_root=data_root, leaderboards=leaderboards)


@app.command()
@_resumable("repeat the command to continue")
def embed(
    folder: Annotated[Path, typer.Argument(help="Folder of images; those in folders below it are embedded, too.")],
    *,
    student: Annotated[str, typer.Option(help="Folder of a run or of a student, a student.pt, or hf-hub:OWNER/NAME.")],
    output: Annotated[
        Path, typer.Option(help="A .npz file for the embeddings, or a folder for an index that can be searched.")
    ],
    index: Annotated[str, typer.Option(help="Kind of faiss index: flat, hnsw or ivfpq.")] = "flat",
    batch_size: Annotated[int, typer.Option(min=1, help="Number of images embedded at a time.")] = 64,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave out images that cannot be decoded, instead of stopping.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Embed the images of a folder; a repetition embeds only those that are new or have changed."""
    from benchmark.commands.search import embed as embed_folder

    embed_folder(folder, student, output, index=index, batch_size=batch_size, skip_broken=skip_broken, device=device)


@app.command()
def search(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Images to search for.")],
    *,
    index: Annotated[Path, typer.Option(help="Folder that `benchmark embed` has written.")],
    count: Annotated[int, typer.Option(min=1, max=1000, help="Number of similar images to show.")] = 20,
    output: Annotated[Path, typer.Option(help="The page to write.")] = Path("search.html"),
    device: Device = "auto",
) -> None:
    """Write a web page of the images of an index that are most similar to given images."""
    from benchmark.commands.search import search as search_index

    search_index(images, index, count=count, output=output, device=device)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of two or more finished runs.")],
    output: Annotated[Path, typer.Option(help="The plot to write, an .svg or .png.")] = Path("compare.svg"),
) -> None:
    """Compare finished runs with the first one: scores, costs, recipes, training curves and AP of every query."""
    from benchmark.commands.compare import compare as compare_runs

    compare_runs(runs, output)


@data.command()
def check(
    dataset: DatasetName,
    *,
    decode: Annotated[bool, typer.Option("--decode", help="Decode every image and list the broken ones.")] = False,
    settings: DatasetSettings,
    data_root: DataRoot,
    plugin: Plugins,
) -> None:
    """Compare a dataset on disk with the published one; exit with 1 if it has defects."""
    from benchmark.commands import data as commands

    commands.check(dataset, settings, data_root, decode=decode)


@data.command()
def prepare(
    dataset: DatasetName,
    archives: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[ARCHIVE]...", help="The official archive: zip, tar, tar.gz, tar.bz2 or tar.xz."),
    ] = None,
    *,
    download: Annotated[
        bool, typer.Option("--download", help="Download the archive first, if no agreement is required.")
    ] = False,
    settings: DatasetSettings,
    data_root: DataRoot,
    plugin: Plugins,
) -> None:
    """Unpack an archive into the data root, completely or not at all, and check the dataset."""
    from benchmark.commands import data as commands

    commands.prepare(dataset, archives or [], settings, data_root, download=download)


@data.command()
def sample(
    dataset: DatasetName,
    *,
    split: Annotated[str, typer.Option(help="Split to show: train, query or gallery.")] = "train",
    rows: Annotated[int, typer.Option(min=1, max=500, help="Number of identities to show.")] = 12,
    output: Annotated[
        Path | None, typer.Option(show_default="./<dataset>-<split>.png", help="Image file to write.")
    ] = None,
    settings: DatasetSettings,
    data_root: DataRoot,
    plugin: Plugins,
) -> None:
    """Write a contact sheet: an image with a row per identity and a column per camera."""
    from benchmark.commands import data as commands

    commands.sample(dataset, settings, data_root, split=split, rows=rows, output=output)


@teacher.command("list")
def list_teachers() -> None:
    """List the published teachers on this machine."""
    from benchmark.commands import teacher as commands

    commands.list_teachers()


@teacher.command()
def publish(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    *,
    output: Annotated[Path, typer.Option(help="Archive to write.")] = Path("teacher.zip"),
) -> None:
    """Write the trained network of a run to an archive, for others to use as their teacher."""
    from benchmark.commands import teacher as commands

    commands.publish(run, output)


@teacher.command()
def add(
    source: Annotated[
        str, typer.Argument(help="An archive, hf-hub:OWNER/NAME with a teacher.zip, or with --as a file of weights.")
    ],
    *,
    project: Annotated[
        str | None,
        typer.Option(
            "--as",
            help="The project that wrote the file: air-distiller, cdd, clip-reid, fast-reid, reid-strong-baseline or "
            "torchreid. The network is evaluated on --dataset.",
        ),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="The dataset on which the network was trained.")] = None,
    settings: Settings,
    device: Device = "auto",
    data_root: DataRoot,
    work_dir: WorkDir = Path("runs"),
    plugin: Plugins,
    name: Annotated[
        str | None, typer.Option("--name", help="The expected name, sha256:...; another one is refused.")
    ] = None,
) -> None:
    """Add a published teacher to this machine."""
    from benchmark.commands import teacher as commands

    if project is None:
        if dataset or settings or plugin or device != "auto":
            raise UserError(
                "--dataset, --set, --plugin and --device: only for a file of another project: add --as, such as "
                "--as fast-reid"
            )
        commands.add(source, name)
    elif dataset is None:
        raise UserError(f"--as {project}: give the --dataset on which the network was trained")
    elif name is not None:
        raise UserError("--name: only for archives, whose name is known: leave it out")
    else:
        places = commands.Places(data_root=data_root, work_dir=work_dir, device=device)
        commands.convert(Path(source), project, dataset, settings, places)


def _with_home(argument: str) -> str:
    """Return an argument with `~` as the home folder, which shells do not expand in --data-root=~/data."""
    match = re.fullmatch(r"(--[\w-]+=)?(~(?:/.*)?)", argument, re.DOTALL)
    return f"{match[1] or ''}{user_path(match[2])}" if match else argument


def main() -> None:
    """Run the command line.

    Mistakes of the user, and limits of the machine, are printed without a traceback and exit with 2. Ctrl-C exits with
    130, SIGTERM with 143, SIGHUP with 129, SIGUSR1 and a time limit with 75.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for names that the terminal's encoding cannot represent
    try:
        _require_current_folder()
        sys.argv[1:] = map(_with_home, sys.argv[1:])
        app()
    except BaseException as error:
        sys.exit(_exit_code(error))


def _require_current_folder() -> None:
    try:
        Path.cwd()
    except FileNotFoundError as error:  # libraries end the process when they are loaded
        raise UserError("the current folder has been removed: change to another one") from error


def _exit_code(error: BaseException) -> int:
    """Print why the command has ended, if that is not a result, and return its exit code."""
    code, message = 2, shortage(error)
    if (interrupted := interruption(error)) is not None:
        if not (reason := describe(error)):
            return interrupted
        code, message = interrupted, "; ".join([reason, *notes(error)])
    elif isinstance(error, SystemExit):
        if is_broken_pipe(error):  # typer and rich exit with 1
            return BROKEN_PIPE
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    elif isinstance(error, UserError):
        message = str(error)
    elif message is None and isinstance(error, OSError):
        known = error.filename is not None and error.strerror is not None
        message = f"{error.filename}: {error.strerror}" if known else repr(error)
    if message is None:
        raise error
    from benchmark.utils.console import complain

    complain(message)
    return code

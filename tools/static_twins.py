"""Write suites that train the networks that compressing runs have found, from random weights and without compression.

    python tools/static_twins.py runs/glyphs2/cdd/seed* --output leaderboards/studies/controls/suites

For each run there is a suite of `kd` and `none` with the inner widths of the deployed student and, if the method is
`cdd`, a suite of `cdd` with fixed widths, whose losses are those of the run. All have the seed of the run.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import UserError
from benchmark.model.residual_blocks import all_inner_widths
from benchmark.model.serialize import load_network
from benchmark.recipe import Recipe, compose
from benchmark.utils import strict_yaml
from benchmark.utils.atomic import write_text


def widths(student: Path) -> tuple[list[int], list[int]]:
    """Return all inner widths of a deployed student, and the last one of each residual block."""
    found = all_inner_widths(load_network(student))
    return [inner.width for inner in found], [inner.width for inner in found if inner.is_last]


def write_twins(run: Path, output: Path) -> list[Path]:
    """Write the suites of a finished run to a folder, and return the files."""
    recipe = compose(config=run / "recipe.yaml")
    inner, last = widths(run / "student.pt")
    twins = [(method, ["student.like=teacher", f"student.inner_widths={inner}"]) for method in ("kd", "none")]
    if recipe.method.name == "cdd":
        twins.append(("cdd", [f"method.fixed_widths={last}"]))
    return [_write(recipe, method, settings, output) for method, settings in twins]


def _write(recipe: Recipe, method: str, settings: Sequence[str], output: Path) -> Path:
    if recipe.budget is None:
        raise UserError(f"the run of {recipe.method.name} has no budget")
    content = {
        "methods": [method],
        "datasets": [recipe.dataset.name],
        "seeds": [recipe.seed],
        "set": ["budget=null", *settings],
    }
    title = f"# Static twin of {recipe.method.name} at {100 * recipe.budget:g} % of the MACs, trained by {method}.\n"
    path = output / f"{recipe.method.name}-{100 * recipe.budget:g}-by-{method}-seed{recipe.seed}.yaml"
    write_text(path, title + strict_yaml.dump(content))
    return path


def main() -> None:
    """Parse the command line, and write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs of compressing methods")
    parser.add_argument("--output", type=Path, required=True, help="folder of the suites")
    arguments = parser.parse_args()
    for run in arguments.runs:
        for path in write_twins(run, arguments.output):
            print(path)


if __name__ == "__main__":
    main()

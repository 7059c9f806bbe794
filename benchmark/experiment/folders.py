"""Where runs and their records lie."""

from inspect import signature
from pathlib import Path

from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.evaluation import with_seed
from benchmark.recipe import Plugin, Recipe


class RunFolders:
    """`<work_dir>/<dataset>/<method>/seed<k>-<hash>/`; recipes that only judge a network differently share a folder.

    Such a folder holds a record, and a recipe, for every way in which its network was judged: `record.json` for the
    usual one, `record-<hash>.json` for others.

    Args:
        work_dir: Where runs live.
        dataset: Says which of its options only judge.
    """

    def __init__(self, work_dir: Path, dataset: RetrievalDataset) -> None:
        self.work_dir = work_dir
        self.dataset = dataset

    def folder(self, recipe: Recipe, name: str) -> Path:
        """The folder of a recipe's run, under the name of its method, or "teacher"."""
        return self.work_dir / recipe.dataset.name / name / f"seed{recipe.seed}-{self._usual(recipe).hash[:8]}"

    def file(self, recipe: Recipe, folder: Path, name: str) -> Path:
        """The recipe's own "record.json" or "recipe.yaml" in the folder."""
        path = folder / name
        usual = self._usual(recipe).hash == recipe.hash
        return path if usual else path.with_stem(f"{path.stem}-{recipe.hash[:8]}")

    def _usual(self, recipe: Recipe) -> Recipe:
        """The recipe that trains the same network and judges it in the usual way."""
        defaults = {name: option.default for name, option in signature(type(self.dataset)).parameters.items()}
        judged = with_seed({name: defaults[name] for name in self.dataset.evaluation_options}, recipe.seed)
        return recipe.model_copy(
            update={
                "dataset": Plugin(name=recipe.dataset.name, **recipe.dataset.arguments | judged),
                "evaluate": recipe.evaluate.default_rules(),
            }
        )

"""The configuration of a run.

A recipe is merged from the defaults in `sections`, the dataset's recipe, the method's recipe, a preset or a pair,
the user's
`--config` file and `--set key=value`, in this order; later values override earlier ones. The merged recipe is validated
before anything is built, and saved with the run. It contains every value, so it repeats the run even if the built-in
recipes change.
"""

from benchmark.recipe.compose import compose as compose
from benchmark.recipe.compose import replay as replay
from benchmark.recipe.compose import student_only as student_only
from benchmark.recipe.compose import use_teacher as use_teacher
from benchmark.recipe.compose import with_budget as with_budget
from benchmark.recipe.compose import with_settings as with_settings
from benchmark.recipe.pair import Pair as Pair
from benchmark.recipe.pair import find_pair as find_pair
from benchmark.recipe.pair import pair_names as pair_names
from benchmark.recipe.pair import remarks as remarks
from benchmark.recipe.preset import Preset as Preset
from benchmark.recipe.preset import find_preset as find_preset
from benchmark.recipe.preset import preset_names as preset_names
from benchmark.recipe.sections import Augment as Augment
from benchmark.recipe.sections import Component as Component
from benchmark.recipe.sections import Evaluate as Evaluate
from benchmark.recipe.sections import Margin as Margin
from benchmark.recipe.sections import MetricLoss as MetricLoss
from benchmark.recipe.sections import Network as Network
from benchmark.recipe.sections import Optimizer as Optimizer
from benchmark.recipe.sections import Paired as Paired
from benchmark.recipe.sections import Recipe as Recipe
from benchmark.recipe.sections import Runtime as Runtime
from benchmark.recipe.sections import Sampler as Sampler
from benchmark.recipe.sections import Schedule as Schedule
from benchmark.recipe.sections import Task as Task
from benchmark.recipe.sections import Teacher as Teacher
from benchmark.recipe.sections import Train as Train
from benchmark.recipe.sections import Triplet as Triplet

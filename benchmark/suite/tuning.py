"""Tuning of methods: trials of their arguments, scored on the validation images."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.recipe import Recipe, compose, with_budget
from benchmark.recipe.compose import parse_setting
from benchmark.recipe.settings import Tuned, Tuning, comparable
from benchmark.registry import METHODS

_STARTUP = 5
"""Number of trials of random arguments, the defaults among them, before the sampler learns from the earlier ones."""
_DIGITS = 3
"""Significant digits of the proposed arguments."""

Arguments = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Trial:
    """Arguments of a method and the validation mAP of the student trained with them; None if the training failed."""

    arguments: Arguments
    mAP: float | None


class Study:
    """The trials of one method.

    The first trial has the default arguments. The others are proposed by Optuna's tree-structured Parzen estimator
    (Bergstra, Bardenet, Bengio, Kegl: Algorithms for Hyper-Parameter Optimization. NeurIPS 2011) from the scores of the
    earlier ones. Proposals depend on nothing else, so that a tuning that was interrupted continues with the same ones.

    Args:
        method: Name of a method that has a search space.
        defaults: The arguments of the first trial.

    Raises:
        UserError: Optuna is not installed.
    """

    def __init__(self, method: str, defaults: Arguments) -> None:
        try:
            import optuna  # an optional dependency
        except ImportError as error:
            raise UserError("tune needs Optuna: pip install 'retrieval-distill-benchmark[tune]'") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.trials: list[Trial] = []
        self.defaults = {name: defaults[name] for name in METHODS.find(method).search}
        self._optuna = optuna
        self._space: dict[str, Any] = {
            name: optuna.distributions.FloatDistribution(
                min(values.low, self.defaults[name]), max(values.high, self.defaults[name]), log=True
            )
            for name, values in METHODS.find(method).search.items()
        }
        self._study = optuna.create_study(direction="maximize")
        self._study.enqueue_trial(self.defaults)

    def ask(self) -> Arguments:
        """Return the arguments of the next trial."""
        sampler = self._optuna.samplers.TPESampler(n_startup_trials=_STARTUP, seed=len(self.trials))
        self._study.sampler = sampler
        self._trial = self._study.ask(self._space)
        proposed = {name: float(f"{value:.{_DIGITS}g}") for name, value in self._trial.params.items()}
        self._arguments = proposed if self.trials else self.defaults
        return self._arguments

    def tell(self, mAP: float | None) -> None:
        """Add the trial of the arguments that `ask` returned; None if its training failed."""
        failed = self._optuna.trial.TrialState.FAIL
        self._study.tell(self._trial, mAP, state=failed if mAP is None else None)
        self.trials.append(Trial(self._arguments, mAP))

    @property
    def best(self) -> Trial | None:
        """The trial with the highest mAP, the earliest of equals; None if all failed."""
        finished = [trial for trial in self.trials if trial.mAP is not None]
        return max(finished, key=lambda trial: trial.mAP or 0.0, default=None)

    @property
    def hash(self) -> str:
        """SHA-256 of the arguments and scores of all trials."""
        content = json.dumps([[dict(trial.arguments), trial.mAP] for trial in self.trials], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def result(self) -> Tuned:
        """Return the best arguments, and where they come from. A trial must have succeeded."""
        best = self.best
        assert best is not None and best.mAP is not None
        failed = sum(trial.mAP is None for trial in self.trials)
        return Tuned(
            arguments=dict(best.arguments),
            validation_mAP=best.mAP,
            default_mAP=self.trials[0].mAP,
            failed=failed,
            study=self.hash,
        )


@dataclass(frozen=True, kw_only=True)
class TuningGrid:
    """The methods to tune, and what all their trials have in common.

    Raises:
        UserError: A method is unknown, is listed twice or has no search space, or a setting is of a tuned argument.
    """

    methods: Sequence[str]
    """Names of methods; "all" stands for all registered ones with a search space."""
    dataset: str
    trials: int
    epochs: int | None = None
    """Number of epochs of a trial; None for a third of the recipe's."""
    budget: float | None = None
    config: Path | None = None
    settings: Sequence[str] = ()
    """Changes of the recipe, as `key=value`."""
    seed: int = 0

    def __post_init__(self) -> None:
        tunable = [name for name in METHODS.names() if METHODS.find(name).search]
        names = [name for entry in self.methods for name in (tunable if entry == "all" else [entry])]
        if not names:
            raise UserError("tune: no methods: give --methods NAME,... or --methods all")
        for name in names:
            if not METHODS.find(name).search:
                raise UserError(f"tune: {name} has no arguments to tune; leave it out")
            if names.count(name) > 1:
                raise UserError(f"tune: {name} is listed twice; list it once")
        for setting in self.settings:
            given = parse_setting(setting).get("method")
            for name in names:
                taken = {"preset", *METHODS.find(name).search} & set(given if isinstance(given, Mapping) else ())
                if taken:
                    raise UserError(f"tune: --set {setting}: {name} has method.{min(taken)} tuned; leave it out")
        object.__setattr__(self, "methods", names)

    @cached_property
    def shortened(self) -> int:
        """Number of epochs of a trial."""
        if self.epochs is not None:
            return self.epochs
        settings = [*with_budget(self.budget), *self.settings]
        return max(1, compose(self.methods[0], self.dataset, self.config, settings).train.schedule.epochs // 3)

    def study(self, method: str) -> Study:
        """Return the study of a method, without trials."""
        return Study(method, self.recipe(method, self.changes({})).method.arguments)

    def changes(self, arguments: Arguments) -> list[str]:
        """Return the settings of a trial with these arguments of the method, as `key=value`."""
        of_method = [f"method.{name}={value!r}" for name, value in arguments.items()]
        return [*self.settings, f"train.schedule.epochs={self.shortened}", "evaluate.images=validation", *of_method]

    def recipe(self, method: str, settings: Sequence[str]) -> Recipe:
        """Return the recipe of a trial.

        Raises:
            UserError: A name or a setting is invalid.
        """
        return compose(method, self.dataset, self.config, [*with_budget(self.budget), *settings], self.seed)

    def describe(self, data: str) -> Tuning:
        """Return what all trials have in common; `data` is the fingerprint of the images."""
        recipe = self.recipe(self.methods[0], self.changes({}))
        return Tuning(
            dataset=self.dataset,
            options=comparable(recipe.recorded()["dataset"]),
            data=data,
            teacher="+".join(part.teacher.checkpoint or part.for_teacher().hash for part in recipe.per_teacher()),
            budget=recipe.budget,
            epochs=self.shortened,
            trials=self.trials,
            seed=self.seed,
            config=None if self.config is None else hashlib.sha256(self.config.read_bytes()).hexdigest(),
            changes=list(self.settings),
            software=f"optuna {version('optuna')}",
        )

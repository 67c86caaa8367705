"""What each setting matters: by how much a random forest that predicts a metric errs more where a setting is shuffled."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from moco.analysis import charts
from moco.analysis.configurations import Configuration, scored
from moco.analysis.numbers import is_number
from moco.runs.settings import plain, swept

LEAST = 10  # fewer configurations tell nothing
FORESTS, TREES, FOLDS = 8, 40, 5


class Importance(NamedTuple):
    """Of one setting: points of the metric by which predictions err more, mean and deviation over forests."""

    key: str
    mean: float
    deviation: float


def importance(found: Sequence[Configuration], metric: str) -> list[Importance]:
    """The settings that were swept, the one that matters most first; Breiman, Random Forests (2001), section 10.

    Each forest predicts configurations that it was not fitted to (cross-validation in five parts); its error is the root of
    the mean square. Empty for fewer than ten configurations or two settings, and where forests predict no better than the mean.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    pairs = scored(found, metric)
    flats = [one.flat for one, _ in pairs]
    keys = swept(flats) if len(pairs) >= LEAST else []
    if len(keys) < 2:
        return []
    import numpy as np
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.model_selection import KFold

    x = np.array([_column([flat.get(key) for flat in flats]) for key in keys]).T
    y = np.array([score.mean for _, score in pairs])
    gains, errors = list[list[float]](), list[float]()
    for seed in range(FORESTS):
        draw = np.random.default_rng(seed)
        shuffled = [draw.permutation(x[:, i]) for i in range(len(keys))]
        squares = np.zeros((len(keys) + 1, len(y)))  # of errors: as it is, then with each setting shuffled
        for fitted, held in KFold(FOLDS, shuffle=True, random_state=seed).split(x):
            forest = RandomForestRegressor(TREES, random_state=seed).fit(x[fitted], y[fitted])
            changed = np.repeat(x[held][None], len(keys) + 1, axis=0)
            for i, column in enumerate(shuffled):
                changed[i + 1, :, i] = column[held]
            predicted = forest.predict(changed.reshape(-1, len(keys))).reshape(len(keys) + 1, -1)
            squares[:, held] = (predicted - y[held]) ** 2
        plainly, *others = np.sqrt(squares.mean(1)).tolist()
        gains.append([other - plainly for other in others])
        errors.append(plainly)
    if not sum(errors) / FORESTS < float(y.std()):
        return []
    over = np.array(gains)
    means, deviations = over.mean(0).tolist(), over.std(0, ddof=1).tolist()
    return sorted(map(Importance, keys, means, deviations), key=lambda one: -one.mean)


def _column(values: Sequence[object]) -> list[float]:
    """A setting as numbers: its logarithm on a logarithmic axis, the place in their order for words."""
    numbers = [value for value in values if is_number(value)]
    if len(numbers) < len(values):
        texts = charts.ordered({plain(value) for value in values})
        return [float(texts.index(plain(value))) for value in values]
    return [math.log(value) for value in numbers] if charts.axis(values) == "log" else [float(n) for n in numbers]

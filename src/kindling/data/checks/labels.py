"""Labels that may be wrong: different ones of the same sample, and those that a model finds implausible."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from kindling.data.array_types import Indices
from kindling.data.checks.copies import is_chance, is_surprising
from kindling.data.checks.report import Finding
from kindling.data.checks.samples import SampleTable
from kindling.utils.text import count_noun

FOLDS = 5
TREES = 100
MAX_SAMPLES, MAX_VALUES = 10_000, 1_000_000  # samples, and numbers in them, to train on: at most about 10 s
MAX_CLASSES = 100
MAX_OWN = 0.05  # probability of the given class in a suspicious sample
TYPICAL = 0.1  # quantile of the probability of a class among its own samples, which the other class must reach
FAR_RESIDUALS = 8.0  # times the 95% quantile of absolute residuals
FIX = "look at each: correct the label, or remove the sample"


def find_contradictions(samples: SampleTable) -> Iterator[Finding]:
    """Yield a finding if samples with the same inputs have different classes."""
    if not samples.classes or samples.codes is None:
        return
    groups, surprising = defaultdict(list), is_surprising(samples)
    for row, value in enumerate(samples.inputs.tolist()):
        if surprising[row]:
            groups[value].append(row)
    found = [rows for rows in groups.values() if len({int(samples.codes[row]) for row in rows}) > 1]
    where = [" = ".join(f"{samples.names[row]}: {samples.label(row)}" for row in rows) for rows in found]
    if where and not is_chance(samples, len(where)):
        number = count_noun(len(where), "sample has", "samples have")
        names = [tuple(samples.names[row] for row in rows) for rows in found]
        yield Finding("labels", "warning", f"{number} a copy with another label", where, FIX, names)


def find_implausible(samples: SampleTable) -> Iterator[Finding]:
    """Yield a finding if a model that was not trained on a sample is sure that its label is wrong."""
    if samples.features is None or samples.targets is None or samples.targets.ndim > 1:
        return
    limit = min(MAX_SAMPLES, MAX_VALUES // samples.features.shape[1])
    rows = np.random.RandomState(0).permutation(len(samples.names))[:limit]
    if samples.classes:
        counts = np.bincount(samples.targets[rows], minlength=len(samples.classes))
        rows = rows[counts[samples.targets[rows]] >= FOLDS]
    if len(rows) < 2 * FOLDS or len(np.unique(samples.targets[rows])) < 2 or len(samples.classes) > MAX_CLASSES:
        return
    if found := _suspicious_classes(samples, rows) if samples.classes else _far_numbers(samples, rows):
        what = "class" if samples.classes else "number"
        number = count_noun(len(found), "label looks", "labels look")
        message = f"{number} wrong: a model of the other samples predicts another {what}"
        where = [f"{samples.place(row)}: {samples.label(row)}, predicted {text}" for row, text in found.items()]
        yield Finding("labels", "warning", message, where, FIX, [(samples.names[row],) for row in found])


def _suspicious_classes(samples: SampleTable, rows: Indices) -> dict[int, str]:
    """Return the predicted class of each sample that looks like a typical sample of another class, the surest first.

    As in confident learning (Northcutt et al. 2021, arxiv.org/abs/1911.00068), the threshold of a class comes from the
    probabilities of its own samples; a quantile in place of the mean spares samples at the border of two classes.
    """
    from sklearn.ensemble import ExtraTreesClassifier  # imported here because it takes 2 s
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    assert samples.features is not None
    assert samples.targets is not None
    names, targets = np.unique(samples.targets[rows], return_inverse=True)
    # Trees on random thresholds: their votes are graded, where those of boosting are all close to 0 or 1.
    model = ExtraTreesClassifier(TREES, random_state=0, n_jobs=-1)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    votes = cross_val_predict(model, samples.features[rows], targets, cv=folds, method="predict_proba")
    own = votes[np.arange(len(rows)), targets]
    typical = np.array([np.quantile(own[targets == label], TYPICAL) for label in range(len(names))])
    votes[np.arange(len(rows)), targets] = -1
    other = votes.argmax(1)
    sure = votes.max(1)
    found = np.flatnonzero((own <= MAX_OWN) & (sure >= np.maximum(typical[other], 0.5)))
    found = found[np.argsort(-sure[found], kind="stable")]
    return {int(rows[each]): f"{samples.classes[names[other[each]]]} ({sure[each]:.0%})" for each in found}


def _far_numbers(samples: SampleTable, rows: Indices) -> dict[int, str]:
    """Return the prediction for each sample whose target is unusually far from it, the farthest first."""
    from sklearn.ensemble import ExtraTreesRegressor
    from sklearn.model_selection import KFold, cross_val_predict

    assert samples.features is not None
    assert samples.targets is not None
    model = ExtraTreesRegressor(TREES, random_state=0, n_jobs=-1)
    folds = KFold(FOLDS, shuffle=True, random_state=0)
    predicted = cross_val_predict(model, samples.features[rows], samples.targets[rows], cv=folds)
    errors = np.abs(samples.targets[rows] - predicted)
    found = np.flatnonzero(errors > FAR_RESIDUALS * np.quantile(errors, 0.95))
    found = found[np.argsort(-errors[found], kind="stable")]
    return {int(rows[each]): f"{predicted[each]:.4g}" for each in found}

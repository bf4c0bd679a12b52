"""Names that code conventionally uses for modules, and for what is in them, with the lines that import them."""

from __future__ import annotations

from collections.abc import Mapping

# Modules by the name under which code uses them, each as `name.attribute`.
MODULES: Mapping[str, str] = {
    "np": "import numpy as np",
    "pd": "import pandas as pd",
    "plt": "import matplotlib.pyplot as plt",
    "sns": "import seaborn as sns",
    "nx": "import networkx as nx",
    "xr": "import xarray as xr",
    "sm": "import statsmodels.api as sm",
    "smf": "import statsmodels.formula.api as smf",
    "stats": "from scipy import stats",
    "mpl": "import matplotlib as mpl",
    "pl": "import polars as pl",
    "alt": "import altair as alt",
    "px": "import plotly.express as px",
    "go": "import plotly.graph_objects as go",
    "az": "import arviz as az",
    "pm": "import pymc as pm",
    "gpd": "import geopandas as gpd",
    "jnp": "import jax.numpy as jnp",
    "tf": "import tensorflow as tf",
    "cv2": "import cv2",
    "torch": "import torch",
    "requests": "import requests",
    "collections": "import collections",
    "csv": "import csv",
    "datetime": "import datetime",
    "functools": "import functools",
    "itertools": "import itertools",
    "json": "import json",
    "math": "import math",
    "os": "import os",
    "pickle": "import pickle",
    "random": "import random",
    "re": "import re",
    "shutil": "import shutil",
    "statistics": "import statistics",
    "subprocess": "import subprocess",
    "sys": "import sys",
    "time": "import time",
    "warnings": "import warnings",
}
# Classes and functions whose names are used for nothing else, by their modules.
_MEMBERS = {
    "collections": "Counter OrderedDict defaultdict deque namedtuple",
    "dataclasses": "dataclass",
    "datetime": "datetime timedelta",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "functools": "lru_cache partial",
    "pathlib": "Path",
    "matplotlib.animation": "FuncAnimation",
    "numpy.random": "default_rng",
    "scipy.optimize": "curve_fit minimize_scalar",
    "sklearn.cluster": "DBSCAN KMeans",
    "sklearn.compose": "ColumnTransformer",
    "sklearn.datasets": "fetch_california_housing load_breast_cancer load_diabetes load_digits load_iris load_wine"
    " make_blobs make_classification make_moons make_regression",
    "sklearn.decomposition": "PCA TruncatedSVD",
    "sklearn.ensemble": "GradientBoostingClassifier GradientBoostingRegressor HistGradientBoostingClassifier"
    " HistGradientBoostingRegressor RandomForestClassifier RandomForestRegressor",
    "sklearn.feature_extraction.text": "CountVectorizer TfidfVectorizer",
    "sklearn.impute": "SimpleImputer",
    "sklearn.linear_model": "ElasticNet Lasso LinearRegression LogisticRegression Ridge SGDClassifier SGDRegressor",
    "sklearn.manifold": "TSNE",
    "sklearn.metrics": "ConfusionMatrixDisplay accuracy_score classification_report confusion_matrix f1_score"
    " mean_absolute_error mean_squared_error precision_score r2_score recall_score roc_auc_score roc_curve"
    " silhouette_score",
    "sklearn.model_selection": "GridSearchCV KFold RandomizedSearchCV StratifiedKFold cross_val_score"
    " train_test_split",
    "sklearn.naive_bayes": "GaussianNB MultinomialNB",
    "sklearn.neighbors": "KNeighborsClassifier KNeighborsRegressor NearestNeighbors",
    "sklearn.neural_network": "MLPClassifier MLPRegressor",
    "sklearn.pipeline": "Pipeline make_pipeline",
    "sklearn.preprocessing": "LabelEncoder MinMaxScaler OneHotEncoder OrdinalEncoder PolynomialFeatures"
    " StandardScaler",
    "sklearn.svm": "SVC SVR LinearSVC",
    "sklearn.tree": "DecisionTreeClassifier DecisionTreeRegressor plot_tree",
    "torch.utils.data": "DataLoader TensorDataset",
    "tqdm.auto": "tqdm",
    "transformers": "AutoModel AutoModelForCausalLM AutoTokenizer",
    "xgboost": "XGBClassifier XGBRegressor",
}
MEMBERS: Mapping[str, str] = {
    name: f"from {module} import {name}"
    for module, names in _MEMBERS.items()
    for name in names.split()
}

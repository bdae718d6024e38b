"""tracking/serving.py: what a logged network takes, in Python and from MLflow's scoring server."""

from __future__ import annotations

import json
import shutil
import warnings

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel
from mlflow.pyfunc.scoring_server import invocations
from recorded_runs import make_recorded

pytestmark = pytest.mark.slow

SHAPE = (2, 32, 64, 3)
WANTED = r"images must have the shape \(N, 32, 64, 3\), RGB, and whole numbers from 0 to 255; got "
IMAGES = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)


def with_value(value: object, dtype: type = float) -> np.ndarray:
    images = IMAGES.astype(dtype)
    images[0, 0, 0, 0] = value
    return images


REFUSED = {
    "from 0 to 1": (IMAGES / 255, r"numbers from 0 to 1$"),
    "negative": (with_value(-1), r"numbers from -1 to 255$"),
    "too large": (with_value(256), r"numbers from 0 to 256$"),
    "not whole": (with_value(0.5), r"numbers from 0 to 255$"),
    "NaN": (with_value(np.nan), r"numbers from nan to nan$"),
    "infinite": (with_value(np.inf), r"numbers from 0 to inf$"),
    "no number": (with_value("a", object), r"numbers of no common shape, or no numbers$"),
    "nothing": (with_value(None, object), r"numbers of no common shape, or no numbers$"),
    "text": (IMAGES.astype(str), r"numbers of no common shape, or no numbers$"),
    "a text": (with_value("12", object), r"numbers of no common shape, or no numbers$"),
    "booleans": (IMAGES > 127, r"numbers of no common shape, or no numbers$"),
    "a boolean": (with_value(True, object), r"numbers of no common shape, or no numbers$"),
    "huge": (with_value(10**400, object), r"numbers of no common shape, or no numbers$"),
    "grey": (IMAGES[..., :1], r"shape \(2, 32, 64, 1\)$"),
    "with alpha": (np.zeros((2, 32, 64, 4), np.uint8), r"shape \(2, 32, 64, 4\)$"),
    "one image": (IMAGES[0], r"shape \(32, 64, 3\)$"),
    "channels first": (IMAGES.transpose(0, 3, 1, 2), r"shape \(2, 3, 32, 64\)$"),
    "another size": (IMAGES[:, :16], r"shape \(2, 16, 64, 3\)$"),
}


@pytest.fixture(scope="module")
def uri(drawn_study, empty_store, tmp_path_factory):
    """The address of a network in a store of its own."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(drawn_study, folder / "study")
    shutil.copy(empty_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "study")
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            study = make_recorded()
        assert [str(one.message) for one in warned if issubclass(one.category, UserWarning)] == []
        runs = mlflow.search_runs(
            experiment_names=[study.name], filter_string="tags.seed = '0'", output_format="list"
        )
        yield f"runs:/{runs[0].info.run_id}/model"


@pytest.fixture(scope="module")
def model(uri):
    return mlflow.pyfunc.load_model(uri)


def served(model: PyFuncModel, content: object) -> np.ndarray:
    """As MLflow's scoring server answers."""
    schema = model.metadata.get_input_schema()
    answer = invocations(json.dumps(content), "application/json", model, schema)
    assert answer.status == 200
    return np.array(json.loads(answer.response)["predictions"])


def test_whole_numbers_of_any_type_are_one_image(model):
    probabilities = model.predict(IMAGES)
    assert probabilities.shape == (2, 32, 64)
    assert probabilities.std() > 0.01
    for dtype in (np.int64, np.float32, object):
        np.testing.assert_array_equal(model.predict(IMAGES.astype(dtype)), probabilities)
    for key in ("inputs", "instances"):
        for images in (IMAGES, IMAGES.astype(float)):
            np.testing.assert_allclose(
                served(model, {key: images.tolist()}), probabilities, atol=1e-7
            )


@pytest.mark.parametrize("kind", REFUSED)
def test_other_input_is_refused_with_what_is_wanted(model, kind):
    images, told = REFUSED[kind]
    with pytest.raises(MlflowException, match=WANTED + told):
        model.predict(images)
    for key in ("inputs", "instances"):
        with pytest.raises(MlflowException) as refused:
            served(model, {key: images.tolist()})
        assert refused.value.get_http_status_code() == 400
        assert "images must have the shape" in refused.value.message


def test_images_of_several_sizes_and_tables_are_refused(model):
    with pytest.raises(MlflowException) as refused:
        served(model, {"inputs": [IMAGES[0].tolist(), IMAGES[0, :16].tolist()]})
    assert refused.value.get_http_status_code() == 400
    with pytest.raises(MlflowException):
        model.predict(pd.DataFrame({"images": [0.8, 0.2]}))

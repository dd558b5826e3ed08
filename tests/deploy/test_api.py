"""The description at /openapi.json is true: what it allows is answered as it says, and the rest is refused."""

import io
from typing import Any

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from servers import app_of, serving_here
from torch import Tensor

from kindling.deploy.model_card import ModelCard
from kindling.deploy.predictor import Predictor

pytestmark = pytest.mark.xdist_group("server")

NUMBER = {"kind": "number", "decimal": ".", "units": [], "range": [18.0, 80.0], "missing_values": [], "median": 38.0}
COLUMNS: list[dict[str, Any]] = [
    {"name": "age", **NUMBER, "center": 38.0, "scale": 26.0, "limit": 5.0, "missing": True},
    {"name": "plan", "kind": "category", "values": ["basic", "gold", "team"], "missing": False, "missing_values": []},
    {"name": "since", **NUMBER, "kind": "date", "day_first": False, "center": 738000.0, "scale": 99.0, "limit": 5.0}
    | {"median": 738000.0, "range": [737000.0, 739000.0], "missing": False},
]


def constant(outputs: list[float]) -> Any:
    def compute(inputs: Tensor) -> Tensor:
        return inputs.new_tensor(outputs).expand(len(inputs), *([-1] * (len(outputs) > 1))).reshape(len(inputs), -1)

    return compute


MODELS = {
    "images": Predictor(constant([0.1, 0.7, 0.2]), ModelCard("Images", ("a", "b", "c"), (1, 2, 3))),
    "numbers": Predictor(lambda inputs: inputs.sum(1), ModelCard("Numbers", (), (3,), task="regression")),
    "labels": Predictor(constant([0.9, 0.2]), ModelCard("Labels", ("a", "b"), (2,), task="multilabel")),
    "rows": Predictor(constant([0.4, 0.6]), ModelCard("Rows", ("no", "yes"), (6,), COLUMNS)),
}


# What the description cannot say: which texts are numbers, which numbers overflow in a model, and that a category which
# is unseen in all of 20 rows is a mistake.
INCOMPLETE: dict[str, Any] = {
    "rows": [negative_data_rejection, positive_data_acceptance],
    "numbers": [positive_data_acceptance],
}


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((5, 4), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


schemathesis.openapi.format("binary", st.just(png()))
for kind in ("image/png", "image/jpeg"):
    schemathesis.openapi.media_type(kind, st.just(png()))


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("name", MODELS)
def test_schemathesis_finds_nothing(name: str, mode: GenerationMode) -> None:
    with serving_here(app_of(MODELS[name])) as server:
        schema = schemathesis.openapi.from_url(f"http://{server.host}:{server.port}/openapi.json")
        operations = [each.ok() for each in schema.get_all_operations() if isinstance(each, Ok)]
        assert {f"{operation.method.upper()} {operation.path}" for operation in operations} == {
            *("POST /predict", "GET /info", "POST /models/default/predict", "GET /models/default/info"),
            *("GET /models", "GET /health", "GET /ready", "GET /metrics"),
        }
        for operation in operations:
            if "/default/" in operation.path or (mode == GenerationMode.NEGATIVE and operation.method == "get"):
                continue  # the same as without the name of the model, or takes nothing that could be wrong

            @settings(
                max_examples=15, deadline=None, database=None, derandomize=True, suppress_health_check=[*HealthCheck]
            )
            @given(case=operation.as_strategy(mode))
            def ask(case: Any) -> None:
                case.call_and_validate(excluded_checks=INCOMPLETE.get(name, []))

            ask()


@pytest.mark.parametrize("name", MODELS)
def test_the_examples_are_answered(name: str) -> None:
    with serving_here(app_of(MODELS[name])) as server:
        schema = server.ask("GET", "/openapi.json")[1]
        content = schema["paths"]["/predict"]["post"]["requestBody"]["content"]
        status, found = server.predict(content["application/json"]["example"])
        assert (status, len(found["predictions"])) == (200, 1)
        assert ("multipart/form-data" in content) == (name == "images")


def test_the_description_of_a_table_names_its_columns() -> None:
    with serving_here(app_of(MODELS["rows"])) as server:
        schema = server.ask("GET", "/openapi.json")[1]
    body = schema["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    assert body["example"] == {"rows": [{"age": 38.0, "plan": "basic", "since": "2021-07-30"}]}
    assert body["schema"]["properties"]["rows"]["items"]["required"] == ["age", "plan", "since"]
    answer = schema["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer == {"$ref": "#/components/schemas/ClassPredictions"}
    example = schema["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"]["example"]
    (prediction,) = example["predictions"]
    assert [each["class"] for each in prediction["top"]] == ["no", "yes"]
    assert prediction["class"] == "no"
    description = schema["paths"]["/predict"]["post"]["description"]
    assert description == "Predict the samples in the body: rows with the columns age, plan, since."

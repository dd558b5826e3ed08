"""The types of requests and answers, for the OpenAPI description of the server."""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field

from kindling.data.tables.rows import distinct_columns
from kindling.data.tables.values import Column
from kindling.deploy.card import ModelCard
from kindling.deploy.served_models import ServedModel

MAX_EXAMPLE = 4096  # numbers in an example


class Error(BaseModel):
    """What is wrong, in one line."""

    error: str


class ClassProbability(BaseModel):
    """A class with its probability."""

    name: str = Field(alias="class")
    probability: float = Field(ge=0, le=1)


class ClassPrediction(ClassProbability):
    """The predicted class of a sample, its probability, and the most probable classes."""

    top: list[ClassProbability]


class ClassPredictions(BaseModel):
    """One prediction per sample; for a model with a class at each position, nested lists of them."""

    predictions: list[ClassPrediction | list[Any]]


class LabelsPrediction(BaseModel):
    """The classes with a probability of at least 50%, and the most probable ones."""

    classes: list[str]
    top: list[ClassProbability]


class LabelsPredictions(BaseModel):
    """One prediction per sample."""

    predictions: list[LabelsPrediction]


class NumberPrediction(BaseModel):
    """A predicted number, in the unit of the target."""

    value: float


class NumberPredictions(BaseModel):
    """One prediction per sample."""

    predictions: list[NumberPrediction]


class Status(BaseModel):
    """The state of the server."""

    status: str


class ModelSummary(BaseModel):
    """A model that the server holds."""

    name: str
    model: str
    version: str
    task: str
    path: str


class ModelList(BaseModel):
    """The models that the server holds; the first one also has the short addresses."""

    models: list[ModelSummary]


class ModelInfo(BaseModel):
    """A model and its input."""

    model: str
    version: str
    task: str
    classes: list[str]
    input_shape: list[int]
    columns: list[dict[str, Any]] | None
    takes: str
    target: str
    unit: str
    threshold: float | None
    positive_class: str
    metrics: dict[str, float | None]
    max_bytes: int


ANSWERS: dict[str | None, type[BaseModel]] = {
    "classification": ClassPredictions,
    "multilabel": LabelsPredictions,
    "regression": NumberPredictions,
}
ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Error, "description": "The request is refused"},
    "5XX": {"model": Error, "description": "The server is busy or has an error"},
}


def describe_api(app: FastAPI, models: Mapping[str, ServedModel], has_key: bool) -> dict[str, Any]:
    """Return the OpenAPI description of a server.

    Args:
        app: The application.
        models: The models by the start of their paths.
        has_key: Whether clients must send a key.
    """
    schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
    for prefix, model in models.items():
        body = request_body(model.current.predictor.card, model.current.max_samples)
        schema["paths"][f"{prefix}/predict"]["post"]["requestBody"] = body
    if has_key:
        schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"key": []}]
        for path in ("/health", "/ready"):
            schema["paths"][path]["get"]["security"] = []
    return schema


def request_body(card: ModelCard, max_samples: int) -> dict[str, Any]:
    """Return the description of the bodies that a model takes, with examples."""
    content: dict[str, Any] = {}
    if card.columns is not None:
        row, example = _row(distinct_columns(card.columns))
        rows = {"type": "array", "items": row, "minItems": 1, "maxItems": max_samples}
        content["application/json"] = _json("rows", rows, {"rows": [example]})
    else:
        sample = _array(card.input_shape, {"minimum": 0, "maximum": 1} if card.takes_images else {})
        samples = {"type": "array", "items": sample, "minItems": 1, "maxItems": max_samples}
        content["application/json"] = _json("inputs", samples, {"inputs": [_zeros(card.input_shape)]})
    if card.takes_images:
        file = {"type": "string", "format": "binary"}
        content |= {f"image/{kind}": {"schema": file} for kind in ("png", "jpeg")}
        form = {"type": "object", "properties": {"file": {"type": "array", "items": file}}, "required": ["file"]}
        content["multipart/form-data"] = {"schema": form}
    return {"required": True, "content": content}


def _json(name: str, schema: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    body = {"type": "object", "properties": {name: schema}, "required": [name], "additionalProperties": False}
    few = len(str(example)) < 5 * MAX_EXAMPLE
    return {"schema": body} | ({"example": example} if few else {})


def _array(shape: tuple[int, ...], limits: dict[str, float]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "number", **limits}
    for size in reversed(shape):
        schema = {"type": "array", "items": schema, "minItems": size, "maxItems": size}
    return schema


def _zeros(shape: tuple[int, ...]) -> Any:
    return [_zeros(shape[1:]) for _ in range(shape[0])] if shape else 0


def _row(columns: list[Column]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the schema of a row, and an example."""
    properties: dict[str, Any] = {}
    example: dict[str, Any] = {}
    for column in columns:
        name, kind = column["name"], column["kind"]
        properties[name] = {"type": ["number", "null"]}
        if kind == "category":
            example[name] = column["values"][0]
            properties[name] = {"type": ["string", "number", "boolean", "null"]}
        elif kind == "date":
            example[name] = str(date.min + timedelta(days=round(column["median"])))
            properties[name] = {"type": ["string", "null"], "format": "date"}
        else:
            example[name] = float(f"{column['median']:.6g}")
    row = {"type": "object", "properties": properties, "required": [*properties]}
    return row, example

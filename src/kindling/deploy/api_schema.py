"""The types of requests and responses, for the OpenAPI description of the server."""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

import torch
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field

from kindling.data.tables.rows import distinct_columns
from kindling.data.tables.values import Column
from kindling.deploy.body_contents import MAX_CELL
from kindling.deploy.model_card import ModelCard
from kindling.deploy.request_bodies import MAX_FILES
from kindling.deploy.responses import to_predictions
from kindling.deploy.served_models import ServedModel

MAX_EXAMPLE = 20_000  # characters of an example
MAX_FLOAT32 = 3.4028e38
TOP = 5  # default of ?top=


class Error(BaseModel):
    """The error message, in one line."""

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

    name: str
    models: list[str]
    model: str
    version: str
    task: str
    classes: list[str]
    input_shape: list[int]
    columns: list[dict[str, Any]] | None
    levels: list[int] | None = Field(description="Of 16-bit images: the values that become 0 and 255.")
    takes: str
    target: str = Field("", description="Of regression only.")
    unit: str = Field("", description="Of regression only.")
    threshold: float | None
    positive_class: str
    threshold_metric: str
    metrics: dict[str, float | None]
    max_bytes: int
    kindling: str = Field(description="Version that wrote the checkpoint or the file.")


RESPONSES: dict[str | None, type[BaseModel]] = {
    "classification": ClassPredictions,
    "multilabel": LabelsPredictions,
    "regression": NumberPredictions,
}
ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Error, "description": "The request is refused"},
    "5XX": {"model": Error, "description": "The server is busy or has an error"},
}


def describe_api(app: FastAPI, models: Mapping[str, ServedModel], has_key: bool) -> dict[str, Any]:
    """Return the OpenAPI description of a server with models by the start of their paths."""
    schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
    for prefix, model in models.items():
        body = request_body(model.current.predictor.card, model.current.max_samples)
        operation = schema["paths"][f"{prefix}/predict"]["post"]
        operation["requestBody"] = body
        operation["description"] = f"Predict the samples in the body: {model.current.predictor.takes}."
        response = operation["responses"]["200"]["content"]["application/json"]
        response["example"] = example_response(model.current.predictor.card)
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
        row, typical = _row(distinct_columns(card.columns))
        content["application/json"] = _json("rows", _list(row, max_samples), [typical], True)
    else:
        limits = (0, 1) if card.takes_images else (-MAX_FLOAT32, MAX_FLOAT32)
        sample = _array(card.input_shape, {"minimum": limits[0], "maximum": limits[1]})
        samples = {"anyOf": [_list(sample, max_samples), sample]}
        zeros = torch.zeros(1, *card.input_shape, dtype=torch.int64).tolist()
        content["application/json"] = _json("inputs", samples, zeros, False)
    if card.takes_images:
        file = {"type": "string", "format": "binary"}
        content |= {f"image/{kind}": {"schema": file} for kind in ("png", "jpeg")}
        form = {
            "type": "object",
            "properties": {"file": {"type": "array", "items": file, "minItems": 1, "maxItems": MAX_FILES}},
            "required": ["file"],
        }
        content["multipart/form-data"] = {"schema": form}
    return {"required": True, "content": content}


def example_response(card: ModelCard) -> dict[str, Any]:
    """Return an example response of a model, with its class names."""
    number = len(card.classes)
    outputs = torch.linspace(1, -1, number).mul(2).softmax(0) if number else torch.tensor(12.5)
    predictions = to_predictions(outputs.unsqueeze(0), str(card.task), card.classes, TOP, card.decision)
    return {"predictions": predictions}


def _json(name: str, schema: dict[str, Any], example: Any, allow_extra: bool) -> dict[str, Any]:
    body = {"type": "object", "properties": {name: schema}, "required": [name], "additionalProperties": allow_extra}
    return {"schema": body} | ({"example": {name: example}} if len(str(example)) < MAX_EXAMPLE else {})


def _list(items: dict[str, Any], most: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1, "description": f"At most {most:,} (or status 413)."}


def _array(shape: tuple[int, ...], limits: dict[str, float]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "number", **limits}
    for size in reversed(shape):
        schema = {"type": "array", "items": schema, "minItems": size, "maxItems": size}
    return schema


def _row(columns: list[Column]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the schema of a row of a table, and a typical one: medians and the first categories."""
    properties: dict[str, Any] = {}
    typical: dict[str, Any] = {}
    limits = {"exclusiveMinimum": -MAX_CELL, "exclusiveMaximum": MAX_CELL}
    value = {"type": ["string", "number", "boolean", "null"], **limits}
    for column in columns:
        name, kind = column["name"], column["kind"]
        if kind == "category":
            typical[name], properties[name] = column["values"][0], value
        elif kind == "date":
            typical[name] = str(date.min + timedelta(days=round(column["median"])))
            properties[name] = {"type": ["string", "null"], "format": "date"}
        else:
            typical[name] = float(f"{column['median']:.6g}")
            properties[name] = {"type": ["number", "null"], **limits}
    row = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": value}
    return row, typical

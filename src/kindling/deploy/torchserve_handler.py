"""Handler for TorchServe: takes numbers as JSON and image files; needs neither captum nor Kindling.

TorchServe's own `image_classifier` resizes every image to 224 x 224 and normalizes it for ImageNet.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kindling.deploy.responses import to_predictions
from kindling.utils.decision_threshold import DecisionThreshold
from kindling.utils.inputs import decode_image
from kindling.utils.tensors import to_float, to_input_tensor

TOP = 5
MAX_PIXELS = 16_000_000  # of a decoded image


class Handler:
    """Loads `model.pt` and answers batches of requests, each with one or more samples."""

    def initialize(self, context: Any) -> None:
        """Load the model; TorchServe calls this once in each worker."""
        properties = context.system_properties
        gpu = properties.get("gpu_id")
        self.device = "cpu" if gpu is None or not torch.cuda.is_available() else f"cuda:{gpu}"
        extra = {"card.json": ""}
        path = Path(properties["model_dir"], "model.pt")
        self.model: Any = torch.jit.load(path, self.device, extra)  # type: ignore[no-untyped-call]
        self.card = json.loads(extra["card.json"])
        self.threshold = DecisionThreshold.of_card(self.card)

    @torch.inference_mode()
    def handle(self, data: list[dict[str, Any]], context: Any) -> list[dict[str, Any]]:
        """Return the predictions of each request, or its error message."""
        responses: list[dict[str, Any]] = []
        inputs: dict[int, Tensor] = {}
        for number, request in enumerate(data):
            responses.append({})
            try:
                inputs[number] = self.inputs(request.get("body", request.get("data")))
            except (ValueError, RecursionError) as error:
                responses[number]["error"] = str(error)
        if inputs:
            outputs = self.model(torch.cat([*inputs.values()]).to(self.device))[0].cpu()
            sizes = [len(part) for part in inputs.values()]
            for number, part in zip(inputs, outputs.split(sizes), strict=True):
                task, classes = self.card["task"], self.card["classes"]
                responses[number]["predictions"] = to_predictions(part, task, classes, TOP, self.threshold)
        return responses

    def inputs(self, body: Any) -> Tensor:
        """Return the samples in the body of a request, shape (N, *input_shape).

        Raises:
            ValueError: If it is neither an image nor `{"inputs": numbers}`.
        """
        shape = tuple(self.card["input_shape"])
        if isinstance(body, bytes | bytearray) and body.lstrip()[:1] in (b"{", b"["):
            body = json.loads(body)
        if isinstance(body, bytes | bytearray):
            if len(shape) < 3:
                raise ValueError("the model takes numbers, not images")
            return to_float(decode_image(bytes(body), shape, MAX_PIXELS, self.card.get("levels"))).unsqueeze(0)
        return to_input_tensor(body.get("inputs") if isinstance(body, dict) else body, shape)

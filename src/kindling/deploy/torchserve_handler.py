"""What TorchServe runs: it takes numbers as JSON and image files, and needs neither captum nor Kindling.

TorchServe's own `image_classifier` resizes each image to 224 x 224 and normalises it for ImageNet; this one gives the
model what it was trained on.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kindling.deploy.responses import to_response
from kindling.utils.inputs import decode_image, to_float, to_input_tensor

TOP = 5
MOST_PIXELS = 16_000_000  # of an image as it is decoded


class Handler:
    """Loads `model.pt` and answers batches of requests, each with one sample or several."""

    def initialize(self, context: Any) -> None:
        """Loads the model; TorchServe calls this once in each worker."""
        properties = context.system_properties
        gpu = properties.get("gpu_id")
        self.device = "cpu" if gpu is None or not torch.cuda.is_available() else f"cuda:{gpu}"
        extra = {"card.json": ""}
        path = Path(properties["model_dir"], "model.pt")
        self.model: Any = torch.jit.load(path, self.device, extra)  # type: ignore[no-untyped-call]
        self.card = json.loads(extra["card.json"])

    @torch.inference_mode()
    def handle(self, data: list[dict[str, Any]], context: Any) -> list[dict[str, Any]]:
        """Answers requests, or says of each what is wrong with it."""
        found: list[dict[str, Any]] = []
        parts: dict[int, Tensor] = {}
        for number, request in enumerate(data):
            try:
                parts[number] = self.inputs(request.get("body", request.get("data")))
            except (ValueError, RecursionError) as error:
                found.append({"error": str(error)})
            else:
                found.append({})
        if parts:
            probabilities = self.model(torch.cat([*parts.values()]).to(self.device))[0].cpu()
            sizes = [len(part) for part in parts.values()]
            for number, part in zip(parts, probabilities.split(sizes), strict=True):
                found[number]["predictions"] = to_response(part, self.card["classes"], TOP)
        return found

    def inputs(self, body: Any) -> Tensor:
        """What the body of a request holds, shape (N, *input_shape).

        Raises:
            ValueError: If it is neither an image nor `{"inputs": numbers}`.
        """
        shape = tuple(self.card["input_shape"])
        if isinstance(body, bytes | bytearray) and body.lstrip()[:1] in (b"{", b"["):
            body = json.loads(body)
        if isinstance(body, bytes | bytearray):
            if len(shape) < 3:
                raise ValueError("the model takes no images but numbers")
            return to_float(decode_image(bytes(body), shape, MOST_PIXELS, self.card.get("levels"))).unsqueeze(0)
        return to_input_tensor(body.get("inputs") if isinstance(body, dict) else body, shape)

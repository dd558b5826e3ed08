"""Input tensors from numbers."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from kindling.utils.tensors import to_input_tensor

GRAY, COLOUR = (1, 5, 4), (3, 5, 4)
BYTES = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 4), dtype=np.uint8)
FLOATS = torch.from_numpy(BYTES / 255).float()


def forms(one: bool) -> dict[str, Any]:
    """Return the same images, or the first of them, in different containers."""
    read_only = BYTES.copy()
    read_only.flags.writeable = False
    ways: dict[str, Any] = {
        "bytes": BYTES,
        "read-only bytes": read_only,
        "mirrored twice": BYTES[..., ::-1].copy()[..., ::-1],
        "double": BYTES / 255,
        "tensor of doubles": FLOATS.double(),
        "on a graph": FLOATS.clone().requires_grad_(),
        "big-endian": (BYTES / 255).astype(">f4"),
        "tensor of bytes": torch.from_numpy(BYTES),
        "lists": FLOATS.tolist(),
    }
    return {name: values[0] if one else values for name, values in ways.items()}


@pytest.mark.parametrize("one", [True, False])
@pytest.mark.parametrize("form", forms(True))
def test_images_are_accepted_in_every_container(form: str, one: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inputs = to_input_tensor(forms(one)[form], COLOUR)
    assert inputs.dtype == torch.float32
    torch.testing.assert_close(inputs, FLOATS[:1] if one else FLOATS)


def test_half_precision_is_accepted() -> None:
    assert to_input_tensor(torch.tensor([0.5, 2, -3], dtype=torch.bfloat16), (3,)).tolist() == [[0.5, 2, -3]]
    assert to_input_tensor(np.array([0.5, 2, -3], dtype=np.float16), (3,)).tolist() == [[0.5, 2, -3]]


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("shape", [GRAY, COLOUR])
def test_channels_may_come_last_and_be_omitted_for_gray(shape: tuple[int, int, int], number: int) -> None:
    images = FLOATS[:number, : shape[0]]
    forms = [images, images.movedim(1, -1)]
    forms += [images[:, 0]] if shape == GRAY else []
    forms += [form[0] for form in forms] if number == 1 else []
    for form in forms:
        assert torch.equal(to_input_tensor(form, shape), images)


@pytest.mark.parametrize("values", [[1, -2.5, 300], np.array([1, -2.5, 300]), torch.tensor([[1, -2.5, 300]])])
def test_features_are_not_changed(values: Any) -> None:
    assert to_input_tensor(values, (3,)).tolist() == [[1, -2.5, 300]]
    assert to_input_tensor(np.array([[1, 2, 200]], dtype=np.uint8), (3,)).tolist() == [[1, 2, 200]]


@pytest.mark.parametrize(
    ("values", "shape", "words"),
    [
        (np.zeros((4, 5)), COLOUR, r"the shape \(3, 5, 4\) or \(N, 3, 5, 4\), not \(4, 5\)"),
        (np.zeros((2, 1, 5, 4)), COLOUR, r"not \(2, 1, 5, 4\)"),
        (np.zeros((3, 4, 5)), COLOUR, r"not \(3, 4, 5\)"),
        (np.zeros((0, 3, 5, 4)), COLOUR, "there are no samples"),
        ([], (3,), "there are no samples"),
        (7, (3,), r"not \(\)"),
        ([1, float("nan"), 2], (3,), "finite"),
        ([1, 1e300, 2], (3,), "finite"),
        (["1", "2", "3"], (3,), "text"),
        ([True, False, True], (3,), "booleans"),
        (torch.tensor([True, False, True]), (3,), "booleans"),
        ([1j, 2, 3], (3,), "must be numbers"),
        (torch.tensor([1j, 2, 3]), (3,), "must be numbers"),
        ([None, 1, 2], (3,), "got null, an object or"),
        ([[1, 2, 3], [1, 2]], (3,), "lists of equal length"),
        (BYTES.astype(int), COLOUR, r"between 0 and 1, got 0 to 248: divide them by 255"),
        (FLOATS - 0.5, COLOUR, "between 0 and 1, got -0.5 to 0.472549:"),
    ],
)
def test_invalid_samples_are_refused_in_one_line(values: Any, shape: tuple[int, ...], words: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=words) as caught:
            to_input_tensor(values, shape)
    assert "\n" not in str(caught.value)

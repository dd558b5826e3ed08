"""The web page of `kindling serve` in a real browser, with mouse, keys and files."""

import base64
import contextlib
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait
from servers import app_of, service_of, serving_here
from torch import Tensor

from browser import chrome
from conftest import CONFIGS
from kindling.cli import main
from kindling.data.mnist import read_sample
from kindling.deploy.model_card import ModelCard
from kindling.deploy.predictor import Predictor, load

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("page")]  # one browser and its servers for all

Stroke = list[tuple[float, float]]  # points as shares of the canvas, from left and top

DIGITS: dict[str, list[Stroke]] = {
    "7": [[(0.25, 0.25), (0.75, 0.22), (0.45, 0.85)]],
    "1": [[(0.52, 0.2), (0.48, 0.8)]],
    "0": [[(0.5 + 0.22 * math.sin(turn / 3), 0.5 - 0.32 * math.cos(turn / 3)) for turn in range(20)]],
    "4": [[(0.35, 0.2), (0.28, 0.55), (0.7, 0.55)], [(0.65, 0.2), (0.6, 0.85)]],
}
# Counts running requests, records the inputs that were sent, and delays responses.
WATCH = """
window.flying = window.most = window.slow = 0, window.asked = [];
const real = window.fetch;
window.fetch = async (...request) => {
  window.most = Math.max(window.most, ++window.flying);
  if (request[1]?.body) window.asked.push(request[1].body);
  await new Promise((go) => setTimeout(go, window.slow));
  try { return await real(...request); } finally { window.flying--; }
};
"""
# Drops or pastes a file anywhere on the page.
GIVE = """
const [how, content] = arguments, files = new DataTransfer();
const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
files.items.add(new File([bytes], "image.png", {type: "image/png"}));
const event = how === "paste" ? new ClipboardEvent("paste", {clipboardData: files, bubbles: true})
  : new DragEvent("drop", {dataTransfer: files, bubbles: true, cancelable: true});
document.getElementById("bars").dispatchEvent(event);
"""
SEEN = """
const {width, height} = arguments[0];
return [height, width, ...arguments[0].getContext("2d").getImageData(0, 0, width, height).data];
"""
PLACES = """
return ["stage", "clear", "said", "bars", "terminal"].map(
  (id) => JSON.stringify(document.getElementById(id).getBoundingClientRect()));
"""
NOTHING = "\u2013"  # a dash, where there is no answer or no value


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A headless browser."""
    with contextlib.ExitStack() as stack:
        try:
            driver = stack.enter_context(chrome(tmp_path_factory.mktemp("browser")))
        except FileNotFoundError as error:
            pytest.skip(str(error))
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
        yield driver


@dataclass
class Page:
    """The visible page and its controls."""

    driver: webdriver.Chrome

    def open(self, address: str, width: int = 1280, height: int = 800) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get(address)
        self.settle()

    def find(self, name: str) -> WebElement:
        return self.driver.find_element(By.ID, name)

    def js(self, script: str, *values: object) -> Any:
        return self.driver.execute_script(script, *values)

    def settle(self) -> None:
        """Wait until no request has been running for a while."""
        quiet = 0
        for _ in range(300):
            quiet = 0 if self.js("return window.flying") else quiet + 1
            if quiet == 3:
                return
            time.sleep(0.03)
        raise AssertionError("the page goes on asking")

    @property
    def answer(self) -> str:
        """The predicted class in large type; empty if there is none."""
        return self.find("answer").text.replace(NOTHING, "")

    @property
    def error(self) -> str:
        return self.find("error").text

    @property
    def bars(self) -> dict[str, str]:
        """The classes and the text next to their bars, from top to bottom."""
        rows = [row.text.split("\n") for row in self.driver.find_elements(By.CSS_SELECTOR, "#bars li")]
        return {name: "".join(value) for name, *value in rows}

    def waits_for(self, what: str) -> str:
        """Return the text of an element as soon as it is not empty."""
        return WebDriverWait(self.driver, 10, poll_frequency=0.05).until(lambda _: str(getattr(self, what)))

    def draw(
        self,
        strokes: list[Stroke],
        scale: float = 1.0,
        center: float = 0.5,
        lift: bool = True,
        settle: bool = True,
    ) -> None:
        """Draw with the mouse, in any size and at any place of the canvas."""
        canvas = self.find("canvas").rect
        actions = ActionChains(self.driver, duration=10)
        pointer = actions.w3c_actions.pointer_action
        for stroke in strokes:
            for number, point in enumerate(stroke):
                x, y = (center + scale * (share - 0.5) for share in point)
                pointer.move_to_location(canvas["x"] + x * canvas["width"], canvas["y"] + y * canvas["height"])  # type: ignore[no-untyped-call]
                if number == 0:
                    pointer.pointer_down()  # type: ignore[no-untyped-call]
            if lift:
                pointer.pointer_up()  # type: ignore[no-untyped-call]
        actions.perform()
        if settle:
            self.settle()

    def choose(self, path: Path) -> None:
        self.find("file").send_keys(str(path.resolve()))

    def seen(self) -> Tensor:
        """Return the image that the page shows as the input of the model, shape (H, W)."""
        height, width, *values = self.js(SEEN, self.find("seen"))
        pixels = torch.tensor(values).view(height, width, 4).float() / 255
        return pixels[..., 0] * pixels[..., 3]


@pytest.fixture
def page(driver: webdriver.Chrome) -> Page:
    return Page(driver)


@contextmanager
def served(run: Path, **environment: str) -> Iterator[str]:
    """The address of `kindling serve` with a trained model."""
    command = [sys.executable, "-m", "kindling", "serve", "--ckpt_path", str(run), "--port", "0"]
    others = {name: value for name, value in os.environ.items() if name != "KINDLING_API_KEY"}
    with subprocess.Popen(command, env=others | environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        line = process.stdout.readline()
        try:
            found = re.search(r"http://\S+", line)
            assert found, line
            wait_for(found[0])
            yield found[0]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def wait_for(address: str) -> None:
    """Wait until a server listens: it prints its address a moment earlier."""
    for _ in range(300):
        try:
            with urlopen(f"{address}health", timeout=10):
                return
        except URLError:
            time.sleep(0.05)
    raise AssertionError(f"nothing listens at {address}")


@contextmanager
def service(predictor: Predictor, port: int = 0) -> Iterator[str]:
    """Return the address of the same server in this process, which starts at once."""
    with serving_here(app_of(predictor, max_bytes=100_000), port) as server:
        yield f"http://{server.host}:{server.port}/"


def summer(*card: Any, **more: Any) -> Predictor:
    """Return a model that needs no training: the class is the sum of the inputs, rounded down."""
    about = ModelCard(*card, **more)

    def compute(inputs: Tensor) -> Tensor:
        best = inputs.flatten(1).sum(1).long() % len(about.classes)
        return torch.nn.functional.one_hot(best, len(about.classes)) * 0.75 + 0.25 / len(about.classes)

    return Predictor(compute, about)


def trained(folder: Path, *options: str) -> Path:
    """Train in a folder and return the run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["fit", *options, "--run_name", "page"]) == 0
    return folder / "runs" / "page" / "version_0"


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a CNN that classifies 97 of 100 digits correctly."""
    recipe = str(CONFIGS / "quickstart.yaml")
    return trained(tmp_path_factory.mktemp("digits"), "--config", recipe, "--trainer.max_epochs", "3")


@pytest.fixture(scope="module")
def digits(digits_run: Path) -> Iterator[str]:
    with served(digits_run) as address:
        yield address


@pytest.fixture
def real_digits(digits_run: Path) -> dict[Path, str]:
    """Return PNG files of eight test digits and their predictions, most of them correct."""
    images, labels = read_sample("test")
    chosen = torch.linspace(0, len(labels) - 1, 8).long()
    files = [Path(f"digit{number}.png") for number in chosen]
    for image, file in zip(images[chosen, 0], files, strict=True):
        Image.fromarray(image.numpy()).save(file)
    read = load(digits_run).predict(files).labels
    assert sum(label == str(int(true)) for label, true in zip(read, labels[chosen], strict=True)) >= 6
    return dict(zip(files, read, strict=True))


def test_a_drawing_is_classified(page: Page, digits: str) -> None:
    page.open(digits)
    assert page.answer == ""
    for digit, strokes in DIGITS.items():
        page.find("clear").click()
        page.draw(strokes)
        assert page.answer == digit
        assert list(page.bars) == list("0123456789")  # in their order, whatever the answer
        shares = {name: float(value.rstrip("%")) for name, value in page.bars.items()}
        assert max(shares, key=lambda name: shares[name]) == digit
        assert sum(shares.values()) == pytest.approx(100, abs=0.6)
        assert page.find("probability").text == page.bars[digit]


def test_predictions_update_while_drawing(page: Page, digits: str) -> None:
    page.open(digits)
    page.draw(DIGITS["1"], lift=False)
    half = page.answer, page.bars
    assert half[0] == "1"
    page.draw([[(0.48, 0.8), (0.8, 0.8), (0.8, 0.2), (0.52, 0.2)]])
    assert (page.answer, page.bars) != half
    assert page.js("return window.asked.length") > 3
    assert page.js("return window.most") == 1  # at a time
    last = json.loads(page.js("return window.asked.at(-1)"))["inputs"]
    assert torch.allclose(torch.tensor(last)[0], page.seen(), atol=0.01)


@pytest.mark.parametrize("digit", ["7", "1", "0"])
@pytest.mark.parametrize(("scale", "center"), [(1.0, 0.5), (0.35, 0.25)])
def test_a_drawing_is_centered_and_scaled_like_mnist(
    page: Page, digits: str, digit: str, scale: float, center: float
) -> None:
    page.open(digits)
    page.draw(DIGITS[digit], scale, center)
    seen = page.seen()
    assert seen.shape == (28, 28)
    rows, columns = (torch.nonzero(seen.amax(axis) > 0.3)[:, 0] for axis in (1, 0))
    longer = max(int(rows[-1] - rows[0]), int(columns[-1] - columns[0])) + 1
    assert 19 <= longer <= 21
    places = torch.arange(28) + 0.5
    for mass in (seen.sum(1), seen.sum(0)):
        assert float((mass * places).sum() / mass.sum()) == pytest.approx(14, abs=0.25)
    assert seen.max() > 0.95
    assert page.answer == digit


def test_clear_and_escape_forget_the_drawing(page: Page, digits: str) -> None:
    page.open(digits)
    for forget in (page.find("clear").click, lambda: ActionChains(page.driver).send_keys(Keys.ESCAPE).perform()):
        page.draw(DIGITS["7"])
        assert page.seen().max() > 0
        forget()
        assert page.answer == ""
        assert page.seen().max() == 0
        assert set(page.bars.values()) == {""}
    page.draw(DIGITS["1"])
    assert page.answer == "1"  # nothing is left of the 7
    page.js("window.slow = 300")
    page.draw(DIGITS["7"], settle=False)
    page.find("clear").click()
    assert page.js("return window.flying") == 1
    page.settle()
    assert page.answer == ""  # though there was an answer in the end


def test_an_image_is_chosen_dropped_and_pasted(page: Page, digits: str, real_digits: dict[Path, str]) -> None:
    page.open(digits)
    for file, label in real_digits.items():
        page.find("clear").click()
        page.choose(file)
        assert page.waits_for("answer") == label
        assert page.find("photo").is_displayed()
        with Image.open(file) as image:
            assert torch.allclose(page.seen(), torch.from_numpy(np.array(image)) / 255, atol=0.02)
    if shutil.which("curl"):
        shutil.copy(file, "image.png")
        told = subprocess.run(page.find("curl").text, shell=True, capture_output=True, text=True).stdout
        assert json.loads(told)["predictions"][0]["class"] == label
    page.find("clear").click()
    page.choose(file)  # once more the same
    assert page.waits_for("answer") == label
    for how in ("drop", "paste"):
        for file, label in list(real_digits.items())[:2]:
            page.find("clear").click()
            page.js(GIVE, how, base64.b64encode(file.read_bytes()).decode())
            assert page.waits_for("answer") == label
    page.draw(DIGITS["7"])  # on the image: a new drawing
    assert page.answer == "7"
    assert not page.find("photo").is_displayed()


def test_a_file_that_is_not_an_image_shows_an_error_until_the_next_prediction(page: Page, digits: str) -> None:
    Path("letter.png").write_text("Dear model,\n")
    page.open(digits)
    page.draw(DIGITS["7"])
    page.choose(Path("letter.png"))
    assert "image" in page.waits_for("error")
    assert page.answer == ""  # the 7 is not what was asked
    page.draw(DIGITS["1"])
    assert (page.answer, page.error) == ("1", "")


def test_a_key_is_asked_for_once(page: Page, digits_run: Path) -> None:
    with served(digits_run, KINDLING_API_KEY="open sesame") as address:
        page.open(address)
        assert not page.find("canvas").is_displayed()
        assert page.find("key").get_attribute("type") == "password"
        page.find("key").send_keys("sesame", Keys.ENTER)
        assert page.waits_for("error") == "This key is wrong."
        page.find("key").clear()
        page.find("key").send_keys("open sesame", Keys.ENTER)
        page.settle()
        page.draw(DIGITS["7"])
        assert (page.answer, page.error) == ("7", "")
        assert "Authorization: Bearer $KINDLING_API_KEY" in page.find("curl").text
        assert "sesame" not in page.find("curl").text
        page.driver.refresh()
        page.settle()
        page.draw(DIGITS["1"])
        assert page.answer == "1"


def test_a_table_is_a_form(page: Page, folder: Path) -> None:
    random = np.random.default_rng(0)
    rows = [(age, plan) for age in range(20, 70) for plan in ("it's basic", "gold", "team") for _ in range(4)]
    lines = [f"{age + random.random():.2f},{plan},{'yes' if age > 45 else 'no'}" for age, plan in rows]
    Path("customers.csv").write_text("\n".join(["age,plan,churned", *lines]))
    options = "--model MLPClassifier --data TableDataModule --data.path customers.csv --data.target churned"
    run = trained(folder, *options.split(), "--model.optimizer.lr", "0.01", "--trainer.max_epochs", "10")
    model = load(run)
    with service(model) as address:
        page.open(address)
        age, plan = page.driver.find_elements(By.CSS_SELECTOR, "#fields input, #fields select")
        assert 40 < float(age.get_attribute("placeholder") or 0) < 50  # the median
        assert [option.text for option in Select(plan).options] == [NOTHING, "gold", "it's basic", "team"]
        answers = set()
        for years in ("25", "66.5"):
            age.clear()
            age.send_keys(years)
            Select(plan).select_by_visible_text("it's basic")
            page.settle()
            expected = model.predict({"age": float(years), "plan": "it's basic"})
            assert page.answer == expected.labels[0]
            assert page.find("probability").text == f"{expected.probabilities.max():.1%}"
            typed = shlex.split(page.find("curl").text)
            assert typed[:2] == ["curl", "-d"]
            assert json.loads(typed[2]) == {"rows": [{"age": float(years), "plan": "it's basic"}]}
            assert typed[3] == f"{address}predict"
            answers.add(page.answer)
        assert answers == {"no", "yes"}
        Select(plan).select_by_visible_text(NOTHING)
        page.settle()
        assert json.loads(page.js("return window.asked.at(-1)")) == {"rows": [{"age": 66.5, "plan": None}]}
        assert page.error == ""


def test_dates_are_asked_as_dates(page: Page) -> None:
    day = (datetime(2024, 2, 29) - datetime.min).days
    since = {"name": "since", "kind": "date", "day_first": False, "median": day, "missing": False}
    with service(summer("Dated", ("no", "yes"), (1,), [since])) as address:
        page.open(address)
        assert '"since":"2024-02-29"' in page.find("curl").text
        assert page.driver.find_element(By.CSS_SELECTOR, "#fields input").get_attribute("type") == "date"


def test_numbers_are_typed_with_commas_or_spaces(page: Page) -> None:
    with service(summer("Summer", tuple(f"{n} left" for n in range(5)), (3,))) as address:
        page.open(address)
        field = page.driver.find_element(By.TAG_NAME, "textarea")
        field.send_keys("1, 2.5")
        page.settle()
        assert page.answer == ""
        assert page.driver.find_element(By.CSS_SELECTOR, "#fields label").text.startswith("2 of 3 numbers")
        field.send_keys("  4")
        page.settle()
        assert (page.answer, page.find("probability").text) == ("2 left", "80.0%")
        field.send_keys("x")
        page.settle()
        assert page.answer == ""
        assert "4x is not a number" in page.driver.find_element(By.CSS_SELECTOR, "#fields label").text


@pytest.mark.parametrize("width", [390, 1280])
def test_a_number_is_shown_with_its_name_and_unit(page: Page, width: int) -> None:
    about = {"metrics": {"test/mae": 17.5183}, "task": "regression", "target": "price of the flat", "unit": "€"}
    card = ModelCard("Prices", (), (2,), **about)  # type: ignore[arg-type]
    with service(Predictor(lambda inputs: 1000 * inputs.sum(1), card)) as address:
        page.open(address, width)
        assert page.find("facts").text == "test MAE 17.52 € · predicts price of the flat · 2 numbers"
        field = page.driver.find_element(By.TAG_NAME, "textarea")
        for typed, shown in (("1234 0.567", "1,234,567 €"), ("0.0001, 0.0000234", "0.1234 €"), ("-2 0", "-2,000 €")):
            field.clear()
            field.send_keys(typed)
            page.settle()
            assert (page.answer, page.find("probability").text) == (shown, "price of the flat")
        assert page.error == ""
        assert not page.find("bars").is_displayed()
        assert page.js("return document.documentElement.scrollWidth") <= width
        field.send_keys("x")
        page.settle()
        assert page.answer == ""


def test_all_classes_of_a_sample_are_shown(page: Page) -> None:
    about = {"metrics": {"test/map": 0.91234}, "task": "multilabel"}
    card = ModelCard("Tags", ("a", "b", "c"), (3,), **about)  # type: ignore[arg-type]
    with service(Predictor(lambda inputs: inputs, card)) as address:
        page.open(address)
        assert page.find("facts").text == "91.23% test mean average precision · 3 classes · 3 numbers"
        field = page.driver.find_element(By.TAG_NAME, "textarea")
        field.send_keys("0.9 0.2 0.5")
        page.settle()
        assert (page.answer, page.find("probability").text) == ("a, c", "")
        assert page.bars == {"a": "90.0%", "b": "20.0%", "c": "50.0%"}
        best = [bar.text.split()[0] for bar in page.driver.find_elements(By.CSS_SELECTOR, "#bars .best")]
        assert best == ["a", "c"]
        field.clear()
        field.send_keys("0 0 0")
        page.settle()
        assert (page.answer, page.error) == ("none", "")


def test_the_line_for_the_terminal_is_copied(page: Page) -> None:
    with service(summer("Summer", ("a", "b"), (2,))) as address:
        page.open(address)
        page.find("copy").click()
        field = page.driver.find_element(By.TAG_NAME, "textarea")
        field.send_keys(Keys.CONTROL, "v")
        line = field.get_attribute("value") or ""
        assert line == f"curl -d '{{\"inputs\":[[0,0]]}}' {address}predict"


def test_colors_and_many_classes(page: Page) -> None:
    """A photo instead of the canvas, and the best ten of twelve."""
    classes = tuple(f"kind {number}" for number in range(12))
    photo = np.zeros((40, 80, 3), dtype=np.uint8)
    photo[:, 20:60, 0] = 255  # the middle, which the model sees, is red
    Image.fromarray(photo).save("photo.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)).save("large.png")
    with service(summer("Coloured", classes, (3, 8, 4), metrics={"test/accuracy": 0.98765})) as address:
        page.open(address)
        assert page.find("model").text == "Coloured"
        assert "98.77% test accuracy" in page.find("facts").text
        assert not page.find("canvas").is_displayed()
        page.choose(Path("photo.png"))
        assert page.waits_for("answer") == classes[8 * 4 % 12]
        assert len(page.bars) == 10
        assert next(iter(page.bars.items())) == (page.answer, page.find("probability").text)
        assert torch.allclose(page.seen(), torch.ones(8, 4), atol=0.01)  # its red
        page.choose(Path("large.png"))
        assert "the limit is 0.1 MB" in page.waits_for("error")


def test_names_are_text_whatever_is_in_them(page: Page) -> None:
    nasty = "<img src=x onerror=\"document.title='broken'\">"
    model = summer(nasty, (nasty, "other"), (1,), [PLAN | {"name": nasty, "values": [nasty, "b"]}])
    with service(model) as address:
        page.open(address)
        assert page.find("model").text == nasty
        assert nasty in page.bars
        assert page.driver.find_element(By.CSS_SELECTOR, "#fields label span").text == nasty
        assert page.driver.title == nasty


def test_the_page_recovers_when_the_server_is_back(page: Page) -> None:
    model = summer("Summer", ("even", "odd"), (1,))
    with service(model) as address:
        page.open(address)
        field = page.driver.find_element(By.TAG_NAME, "textarea")
        field.send_keys("1")
        page.settle()
        assert page.answer == "odd"
    field.send_keys("2")
    assert "does not respond" in page.waits_for("error")
    assert page.answer == ""
    with service(model, int(address.rstrip("/").rpartition(":")[2])):
        field.send_keys("4")
        page.settle()
        assert (page.answer, page.error) == ("even", "")


@pytest.mark.parametrize(("width", "height"), [(360, 640), (390, 844), (1280, 800)])
def test_the_page_fits_and_nothing_moves(page: Page, width: int, height: int) -> None:
    Path("letter.png").write_text("Dear model,\n")
    with service(summer("Summer", tuple("0123456789"), (1, 28, 28))) as address:
        page.open(address, width, height)
        before = page.js(PLACES)
        assert page.js("return document.documentElement.scrollWidth") == width
        page.draw(DIGITS["7"])
        assert page.answer != ""
        assert page.js(PLACES) == before
        page.choose(Path("letter.png"))
        assert page.waits_for("error")
        assert page.js(PLACES) == before


def test_the_page_is_self_contained(page: Page, digits: str) -> None:
    page.open(digits)
    page.draw(DIGITS["7"])
    loaded = page.js("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert loaded
    assert {re.sub(r"\?.*", "", name) for name in loaded} == {f"{digits}info", f"{digits}predict"}


AGE = {"kind": "number", "median": 38.0, "center": 38.0, "scale": 26.0, "limit": 5.0, "range": [18.0, 80.0]}
AGE |= {"name": "age", "decimal": ".", "units": [], "missing_values": [], "missing": False}
PLAN = {"name": "plan", "kind": "category", "values": ["basic", "gold"], "missing": False, "missing_values": []}


def rows_model() -> Predictor:
    """Return a model of a table with two columns: a plan other than the first one is "yes"."""

    def compute(inputs: Tensor) -> Tensor:
        yes = (inputs[:, 1] > 0).float() * 0.8 + 0.1
        return torch.stack([1 - yes, yes], dim=1)

    return Predictor(compute, ModelCard("Churn", ("no", "yes"), (2,), [AGE, PLAN]))


def accessible(driver: webdriver.Chrome) -> dict[str, list[dict[str, Any]]]:
    """Return the nodes that a screen reader sees, by their role."""
    nodes: dict[str, list[dict[str, Any]]] = {}
    for node in driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]:
        if not node["ignored"]:
            properties = {each["name"]: each["value"].get("value") for each in node.get("properties", [])}
            about = properties | {
                "name": node.get("name", {}).get("value"),
                "value": node.get("value", {}).get("value"),
            }
            nodes.setdefault(node["role"]["value"], []).append(about)
    return nodes


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 800)])
def test_the_form_of_a_table_is_filled_with_an_example(page: Page, width: int, height: int) -> None:
    with service(rows_model()) as address:
        page.open(address, width, height)
        age, plan = page.driver.find_elements(By.CSS_SELECTOR, "#fields input, #fields select")
        assert (age.get_attribute("value"), Select(plan).first_selected_option.text) == ("38", "basic")
        assert (page.answer, page.find("probability").text) == ("no", "90.0%")
        assert '{"rows":[{"age":38,"plan":"basic"}]}' in page.find("curl").text
        Select(plan).select_by_visible_text("gold")
        age.clear()
        age.send_keys("70")
        page.settle()
        assert page.answer == "yes"
        page.find("clear").click()
        page.settle()
        assert (age.get_attribute("value"), page.answer, page.error) == ("38", "no", "")
        assert page.js("return document.documentElement.scrollWidth") == width


def test_a_table_is_filled_in_with_the_keyboard(page: Page) -> None:
    with service(rows_model()) as address:
        page.open(address)
        keys = ActionChains(page.driver)
        for _ in range(20):
            keys.send_keys(Keys.TAB).perform()
            if page.js("return document.activeElement.matches('#fields input')"):
                break
        ActionChains(page.driver).send_keys("5", Keys.TAB).perform()
        assert page.js("return document.activeElement.matches('#fields select')")
        outline = page.js("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"  # the focus is visible
        ActionChains(page.driver).send_keys("gold").perform()
        page.settle()
        assert page.answer == "yes"
        ActionChains(page.driver).send_keys(Keys.TAB, Keys.ENTER).perform()  # the button for the example
        page.settle()
        assert page.answer == "no"


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 800)])
def test_a_screen_reader_names_everything(page: Page, width: int, height: int) -> None:
    image = summer("Summer", tuple("0123456789"), (1, 28, 28))
    for model, expected in (
        (rows_model(), {"spinbutton": ["age"], "combobox": ["plan"], "button": ["Copy", "Example"]}),
        (image, {"button": ["Copy", "Choose an image", "Clear"]}),
    ):
        with service(model) as address:
            page.open(address, width, height)
            nodes = accessible(page.driver)
            for role, names in expected.items():
                assert sorted(str(node["name"]) for node in nodes[role]) == sorted(names)
            assert [node["name"] for node in nodes["heading"]] == [model.card.model]
            assert {"Input", "Prediction"} <= {node["name"] for node in nodes["region"]}
            (status,) = nodes["status"]
            assert status["live"] == "polite"
            assert nodes["alert"][0]["live"] == "assertive"
            assert all(node["name"] for role in ("image", "Canvas", "img", "list") for node in nodes.get(role, []))
            assert page.js("return document.documentElement.lang") == "en"


def test_numbers_of_several_dimensions_are_nested(page: Page) -> None:
    with service(summer("Nested", ("even", "odd"), (2, 3))) as address:
        page.open(address)
        assert "2 \u00d7 3 numbers" in page.find("facts").text
        page.driver.find_element(By.CSS_SELECTOR, "#fields textarea").send_keys("1 2 3 4 5 6")
        assert page.waits_for("answer") == "odd"
        assert "[[[1,2,3],[4,5,6]]]" in page.find("curl").text


def test_the_models_of_a_server_link_to_each_other(page: Page) -> None:
    models = {"churn": rows_model(), "sum": summer("Summer", ("even", "odd"), (1,))}
    with serving_here(service_of(models).app()) as server:
        address = f"http://{server.host}:{server.port}/"
        page.open(address)
        for name, title in (("sum", "Summer"), ("churn", "Churn")):
            page.driver.find_element(By.LINK_TEXT, name).click()
            page.settle()
            assert page.driver.current_url == f"{address}models/{name}/"
            assert page.find("model").text == page.driver.title == name
            assert page.find("facts").text.startswith(f"{title} · ")
            assert page.driver.find_element(By.CSS_SELECTOR, "#models [aria-current=page]").text == name
        assert page.answer == "no"
        assert page.find("curl").text.endswith(f"{address}models/churn/predict")


@pytest.mark.parametrize("key", ["", "open sesame"])
def test_the_api_is_described_offline(page: Page, key: str) -> None:
    with serving_here(app_of(rows_model(), key=key)) as server:
        address = f"http://{server.host}:{server.port}/"
        page.open(address)
        if key:
            page.driver.get(f"{address}docs")
            WebDriverWait(page.driver, 20).until(lambda driver: driver.current_url == address)  # which asks for it
            page.settle()
            page.find("key").send_keys(key, Keys.ENTER)
            page.settle()
        page.driver.get(f"{address}docs")
        shown = WebDriverWait(page.driver, 20).until(lambda driver: driver.find_elements(By.CLASS_NAME, "opblock"))
        assert "/models/default/predict" in " ".join(each.text for each in shown)
        shown[0].find_element(By.TAG_NAME, "button").click()
        execute = WebDriverWait(page.driver, 20).until(lambda driver: driver.find_element(By.CLASS_NAME, "execute"))
        page.js("arguments[0].click()", execute)
        WebDriverWait(page.driver, 20).until(
            lambda driver: '"class": "no"' in driver.find_element(By.CLASS_NAME, "live-responses-table").text
        )
        loaded = page.js("return performance.getEntriesByType('resource').map((entry) => entry.name)")
        assert all(name.startswith(address) for name in loaded)

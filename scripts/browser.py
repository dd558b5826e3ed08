"""A headless Chromium, and TensorBoard in it."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.remote.webelement import WebElement

# The text of the page, and the first element that a selector matches, however deep in shadow roots and frames.
TEXT = """
const found = [], look = (node) => {
  const inner = [...(node.shadowRoot?.childNodes ?? []), ...(node.contentDocument?.body?.childNodes ?? [])];
  if (node.nodeType === 3) found.push(node.textContent.trim());
  if (["STYLE", "SCRIPT", "TEMPLATE"].includes(node.nodeName)) return;
  [...inner, ...node.childNodes].forEach(look);
};
look(document.body);
return found.filter((text) => text).join("\\n");
"""
FIND = """
const look = (node) => {
  if (node.matches?.(arguments[0])) return node;
  const inner = [...(node.shadowRoot?.childNodes ?? []), ...(node.contentDocument?.body?.childNodes ?? [])];
  for (const child of [...inner, ...node.childNodes]) {
    const found = look(child);
    if (found) return found;
  }
};
const found = look(document.body);
"""


@contextmanager
def chrome(profile: Path, width: int = 1280, height: int = 800) -> Iterator[webdriver.Chrome]:
    """A headless browser.

    Args:
        profile: An empty folder for what it keeps.
        width: Of its window, in pixels.
        height: Of its window, in pixels.

    Raises:
        FileNotFoundError: If there is none, or no driver for it.
    """
    browser, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if browser is None or driver is None:
        raise FileNotFoundError("there is no chromium or google-chrome with its chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    # The projector draws with WebGL, which without a GPU is SwiftShader's.
    for option in ("headless=new", "no-sandbox", "enable-unsafe-swiftshader", "disable-background-networking"):
        options.add_argument(f"--{option}")
    options.add_argument(f"--user-data-dir={profile}")
    options.add_argument(f"--window-size={width},{height}")
    opened = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield opened
    finally:
        opened.quit()


class Board:
    """A running TensorBoard as one sees it.

    Args:
        driver: The browser.
        address: Where TensorBoard listens.
    """

    def __init__(self, driver: webdriver.Chrome, address: str) -> None:
        self.driver, self.address = driver, address

    def open(self, tab: str, *words: str, query: str = "") -> str:
        """Opens a tab, waits for words on the page, and gives all its text."""
        self.driver.get("about:blank")  # else only what follows the # changes, and TensorBoard loads nothing anew
        self.driver.get(f"{self.address}?{query}#{tab}")
        return self.wait(*words)

    def wait(self, *words: str, seconds: float = 30) -> str:
        """Waits for words on the page and gives all its text.

        Raises:
            TimeoutError: If they do not come.
        """
        end = time.monotonic() + seconds
        while True:
            text = str(self.driver.execute_script(TEXT))
            missing = [word for word in words if word not in text]
            if not missing:
                return text
            if time.monotonic() > end:
                raise TimeoutError(f"{missing} did not come on {self.driver.current_url}; there is:\n{text}")
            time.sleep(0.2)

    def find(self, selector: str) -> WebElement:
        """The first element that a CSS selector matches."""
        element: WebElement = self.driver.execute_script(FIND + "return found", selector)
        assert element is not None, f"there is no {selector}"
        return element

    def click(self, selector: str) -> None:
        """Clicks on an element, whatever lies over it while the page still moves."""
        self.driver.execute_script(FIND + "found.click()", selector)

    def set(self, selector: str, name: str, value: str) -> None:
        """Sets a property of an element, one in a frame too."""
        self.driver.execute_script(FIND + "found[arguments[1]] = arguments[2]", selector, name, value)


@contextmanager
def tensorboard(logdir: Path, driver: webdriver.Chrome) -> Iterator[Board]:
    """Runs `tensorboard --logdir` as a person does, at a free port."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            lines = iter(server.stderr.readline, "")
            address = next(found[0] for line in lines if (found := re.search(r"http://\S+", line)))
            yield Board(driver, address)
        finally:
            server.terminate()

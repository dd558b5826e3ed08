"""Controls a headless Chromium, and TensorBoard in it."""

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

# Scripts that return the text of the page, or the first element matching a selector, also in shadow roots and frames.
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
    """Start a headless browser, and quit it at the end.

    Args:
        profile: An empty folder for its user data.
        width: Width of the window in pixels.
        height: Height of the window in pixels.

    Raises:
        FileNotFoundError: If no browser or no driver is installed.
    """
    browser, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if browser is None or driver is None:
        raise FileNotFoundError("there is no chromium or google-chrome with its chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    # The projector needs WebGL; without a GPU, SwiftShader provides it.
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
    """A running TensorBoard in a browser.

    Args:
        driver: The browser.
        address: URL of TensorBoard.
    """

    def __init__(self, driver: webdriver.Chrome, address: str) -> None:
        self.driver, self.address = driver, address

    def open(self, tab: str, *words: str, query: str = "") -> str:
        """Open a tab, wait until words appear on the page, and return its text."""
        self.driver.get("about:blank")  # otherwise only the fragment changes, and TensorBoard does not reload
        self.driver.get(f"{self.address}?{query}#{tab}")
        return self.wait(*words)

    def wait(self, *words: str, seconds: float = 30) -> str:
        """Wait until words appear on the page, and return its text.

        Raises:
            TimeoutError: If they do not appear.
        """
        end = time.monotonic() + seconds
        while True:
            text = str(self.driver.execute_script(TEXT))
            missing = [word for word in words if word not in text]
            if not missing:
                return text
            if time.monotonic() > end:
                raise TimeoutError(f"{missing} did not appear on {self.driver.current_url}, only:\n{text}")
            time.sleep(0.2)

    def find(self, selector: str) -> WebElement:
        """Return the first element that matches a CSS selector."""
        element: WebElement = self.driver.execute_script(FIND + "return found", selector)
        assert element is not None, f"there is no {selector}"
        return element

    def click(self, selector: str) -> None:
        """Click on an element, even if another one covers it."""
        self.driver.execute_script(FIND + "found.click()", selector)

    def set(self, selector: str, name: str, value: str) -> None:
        """Set a property of an element, which may be in a frame."""
        self.driver.execute_script(FIND + "found[arguments[1]] = arguments[2]", selector, name, value)


@contextmanager
def tensorboard(logdir: Path, driver: webdriver.Chrome) -> Iterator[Board]:
    """Run `tensorboard --logdir` on a free port."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            lines = iter(server.stderr.readline, "")
            address = next(found[0] for line in lines if (found := re.search(r"http://\S+", line)))
            yield Board(driver, address)
        finally:
            server.terminate()

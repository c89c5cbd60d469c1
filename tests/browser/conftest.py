"""A headless Chromium that looks at report pages, and notes what it was told and what it asked for."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from logitlake.flows.report.page import write_report
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.lake.lake import Lake
from tests.strange_lake import make_strange_lake

# A container's root needs --no-sandbox; the others keep the browser from calling anybody by itself.
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
_SECONDS = 180


class Page:
    """One browser at one page."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, path: Path, *, width: int = 1200, dark: bool = False) -> None:
        """Load the page at a width in CSS pixels and wait until its charts are drawn."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        self.driver.get(path.as_uri())
        self.wait("return document.documentElement.dataset.drawn")

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait(self, script: str, *arguments: Any) -> Any:
        """What the script returns once that is true."""
        return WebDriverWait(self.driver, _SECONDS).until(lambda _: self.js(script, *arguments))

    def console(self) -> list[str]:
        """Errors and warnings since the page was opened."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requested(self) -> list[str]:
        """Addresses that were asked for since the page was opened."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A browser for all tests: each opens its page anew."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert browser and driver, "these tests need Chromium: apt-get install chromium chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    yield Page(started)
    started.quit()


@pytest.fixture(scope="session")
def strange_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the lake that means harm."""
    directory = tmp_path_factory.mktemp("strange")
    with Lake.open(make_strange_lake(directory / "lake")) as lake:
        write_report(lake, directory / "report.html")
    return directory / "report.html"


@pytest.fixture(scope="session")
def empty_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a lake with nothing in it."""
    directory = tmp_path_factory.mktemp("empty")
    location = LakeLocation.resolve(directory / "lake")
    with Lake.create(location, held_out_salt="s", held_out_share=0.1) as lake:
        write_report(lake, directory / "report.html")
    return directory / "report.html"


@pytest.fixture(params=["strange", "empty"])
def report(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(f"{request.param}_report")
    return path

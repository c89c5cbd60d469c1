"""Draw the picture of README.md: three parts of a report beside each other.

    python -m benchmarks.report_picture demo-lake/report.html docs/report.png

Needs Chromium with its driver, as `make test-slow` does.
"""

import argparse
import base64
import io
import shutil
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

SECTIONS = ("holdings", "students", "passages")
WIDTH, HEIGHT, SCALE, COLOURS = 780, 980, 0.9, 64
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage")


def part(driver: webdriver.Chrome, section: str) -> Image.Image:
    """The beginning of one section of the page that is open."""
    top = driver.execute_script(
        "return document.getElementById(arguments[0]).getBoundingClientRect().top + scrollY", section
    )
    clip = {"x": 0, "y": top, "width": WIDTH, "height": HEIGHT, "scale": SCALE}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
    return Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("report", type=Path)
    arguments.add_argument("picture", type=Path)
    given = arguments.parse_args()
    options = webdriver.ChromeOptions()
    for flag in FLAGS:
        options.add_argument(flag)
    browser, program = shutil.which("chromium"), shutil.which("chromedriver")
    assert browser and program, "install Chromium: apt-get install chromium chromium-driver"
    options.binary_location = browser
    driver = webdriver.Chrome(options=options, service=Service(program))
    try:
        size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(given.report.resolve().as_uri())
        WebDriverWait(driver, 60).until(
            lambda _: driver.execute_script("return document.documentElement.dataset.drawn")
        )
        parts = [part(driver, section) for section in SECTIONS]
    finally:
        driver.quit()
    picture = Image.new("RGB", (sum(image.width for image in parts), max(image.height for image in parts)), "white")
    left = 0
    for image in parts:
        picture.paste(image, (left, 0))
        left += image.width
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(given.picture, optimize=True)
    print(f"{given.picture}: {picture.width} x {picture.height}, {given.picture.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Draw docs/images/report.png: the first screen of an evidence report.

Usage: report_picture.py REPORT.html OUT.png     (needs Chromium, chromedriver and selenium)
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image

WIDTH, HEIGHT = 1100, 960


def main(page: str, out: str) -> None:
    """Write the picture."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.get(Path(page).resolve().as_uri())
        picture = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    finally:
        driver.quit()
    picture.quantize(128).save(out, optimize=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])

#!/usr/bin/env python3
"""How heavy the evidence report is, and how soon a browser shows it.

Usage: page.py RUN [--json OUT]      (needs Chromium and chromedriver; RUN after "vdu evaluate" and "vdu report")

The page is opened from the disk in headless Chromium five times; the median of the Paint Timing API's first-contentful-paint counts.
"""

import argparse
import json
import shutil
import statistics
from pathlib import Path

from selenium import webdriver

PAINT = "return performance.getEntriesByName('first-contentful-paint').map((entry) => entry.startTime)"


def first_paint_ms(page):
    """Milliseconds from the start of the navigation to the first text or picture."""
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(flag)
    driver = webdriver.ChromeService(shutil.which("chromedriver"))  # else Selenium looks for one on the network
    browser = webdriver.Chrome(options=options, service=driver)
    try:
        browser.get(page.resolve().as_uri())
        found = browser.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => setTimeout(() => done((() => {"
            + PAINT
            + "})()), 200))"
        )
        return float(found[0])
    finally:
        browser.quit()


def main():
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    page = arguments.run / "report.html"
    paints = [first_paint_ms(page) for _ in range(5)]
    result = {"bytes": page.stat().st_size, "first_paint_ms": statistics.median(paints), "all_ms": paints}
    print(json.dumps(result, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

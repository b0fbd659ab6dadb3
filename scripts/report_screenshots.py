"""Take the screenshots of the page of `pktalloc replay --report`, in both themes, with a headless browser.

    python scripts/report_screenshots.py [FILE]

Writes docs/plots/report-light.png and report-dark.png from FILE (the capture that ships, without one).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SIZE = "1000,1500"
THEMES = {"light": "1", "dark": "0"}


def main() -> int:
    """Run from the command line."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("no headless browser found: install chromium", file=sys.stderr)
        return 1
    capture = sys.argv[1] if len(sys.argv) > 1 else "python/pktalloc/data/demo.pcapng"
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "page.html")
        command = [sys.executable, "-m", "pktalloc", "replay", capture, "--report", str(page)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        for theme, number in THEMES.items():
            picture = ROOT / "docs" / "plots" / f"report-{theme}.png"
            options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={SIZE}"]
            options += [f"--blink-settings=preferredColorScheme={number}", f"--screenshot={picture}"]
            subprocess.run([browser, *options, page.as_uri()], check=True, stderr=subprocess.DEVNULL)
            print(picture.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())

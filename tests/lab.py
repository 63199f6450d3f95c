"""A real browser for tests: Debian's Chromium without a graphics card, driven by Playwright."""

import shutil
from urllib.parse import urlsplit

CHROMIUM = shutil.which("chromium") or "chromium"
FLAGS = ("--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--use-gl=angle", "--use-angle=swiftshader")


class Seen(list):
    """Addresses of everything that a page asked for, with web sockets."""

    def watch(self, page):
        page.on("request", lambda request: self.append(request.url))
        page.on("websocket", lambda websocket: self.append(websocket.url))

    def external(self):
        return [url for url in self if urlsplit(url).scheme not in ("data", "blob", "about")
                and urlsplit(url).hostname not in ("127.0.0.1", "localhost")]

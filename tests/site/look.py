"""Looks at every page of the site in a browser, as served and as files, and fails on

- a link to a page or an anchor that is not there, and an image that does not show;
- a request that fails or that leaves the site, an error in a script, a message in the console;
- a page that scrolls sideways, or anything on it that cannot be reached, at the width of a phone;
- a search that finds nothing, or finds a page that does not show.
"""

import argparse
import functools
import http.server
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urldefrag

from playwright.sync_api import sync_playwright

DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 360, "height": 740}

# What of a page is asked for: its links, its anchors, and the images that do not show.
CONTENT = """() => ({
    links: [...document.querySelectorAll('a[href]')].map(a => a.href),
    anchors: [...document.querySelectorAll('[id]')].map(e => e.id),
    blank: [...document.images].filter(i => !(i.complete && i.naturalWidth)).map(i => i.src),
})"""

# What is beyond the right edge of the text and cannot be scrolled to.
BEYOND = """() => {
    const page = document.documentElement;
    const found = [];
    if (page.scrollWidth > page.clientWidth)
        found.push(`the page is ${page.scrollWidth} wide`);
    for (const e of document.querySelectorAll('main *')) {
        const box = e.getBoundingClientRect();
        if (box.width === 0 || box.right <= page.clientWidth + 1) continue;
        let up = e.parentElement;
        while (up && !['auto', 'scroll'].includes(getComputedStyle(up).overflowX)) up = up.parentElement;
        if (!up || !up.closest('main'))
            found.push(`${e.tagName} "${e.textContent.trim().slice(0, 40)}" ends at ${box.right}`);
    }
    return found.slice(0, 5);
}"""


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class Look:
    def __init__(self, site, browser):
        self.site, self.browser = site, browser
        self.wrong = []

    def page(self, start, size):
        """A page of the browser, which notes what goes wrong on it."""
        page = self.browser.new_context(viewport=size, has_touch=size is PHONE).new_page()
        page.set_default_timeout(180_000)  # a machine may be busy
        note = lambda text: self.wrong.append(f"{page.url}: {text}")
        page.on("console", lambda m: note(f"console: {m.text}") if m.type != "log" else None)
        page.on("pageerror", lambda error: note(f"error: {error}"))
        # Where a page is left while something comes, the browser says that this was aborted.
        failed = lambda r: "ERR_ABORTED" in r.failure or note(f"{r.url} does not come: {r.failure}")
        page.on("requestfailed", failed)
        page.on("response", lambda r: note(f"{r.url}: {r.status}") if r.status >= 400 else None)
        page.on("request", lambda r: self.stays(r.url, start) or note(f"asks for {r.url}"))
        return page

    def stays(self, url, start):
        return url.startswith((start, "data:", "blob:"))

    def files(self):
        """All pages. toc.html is a part of them, for browsers without scripts."""
        return sorted(file for file in self.site.rglob("*.html") if file.name != "toc.html")

    def links(self, start, page):
        """Every link of every page leads to a page or a file that is there, and to its anchor."""
        anchors, links, outside = {}, set(), set()
        for file in self.files():
            url = start + str(file.relative_to(self.site))
            page.goto(url)
            page.wait_for_load_state("load")
            content = page.evaluate(CONTENT)
            anchors[url] = set(content["anchors"])
            for link in content["links"]:
                (links if link.startswith(start) else outside).add((url, link))
            self.wrong += [f"{url}: {image} does not show" for image in content["blank"]]
        for url, link in sorted(links):
            target, anchor = urldefrag(link)
            target += "index.html" if target.endswith("/") else ""
            if target not in anchors:
                if not (self.site / unquote(target[len(start) :])).is_file():
                    self.wrong.append(f"{url}: there is no {link}")
            elif anchor and unquote(anchor) not in anchors[target]:
                self.wrong.append(f"{url}: there is no anchor {link}")
        bad = sorted(link for _, link in outside if not link.startswith("https://"))
        self.wrong += [f"a link leads to {link}" for link in bad]
        return len(anchors), len(links)

    def widths(self, start, page):
        for file in self.files():
            page.goto(start + str(file.relative_to(self.site)))
            self.wrong += [f"{page.url}, on a phone: {text}" for text in page.evaluate(BEYOND)]

    def search(self, start, page):
        """A word is searched for and the first page that has it opened, as a reader does it."""
        page.goto(start + "index.html")
        page.click("#mdbook-search-toggle")
        page.locator("#mdbook-searchbar").press_sequentially("damping")
        page.wait_for_selector("#mdbook-searchresults li a")
        with page.expect_navigation():
            page.click("#mdbook-searchresults li a")
        if "damping" not in page.inner_text("main").lower():
            self.wrong.append(f"{page.url}: found by a search, but does not have the word")


def shots(start, page, folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        page.goto(start + name)
        page.screenshot(path=folder / f"{name.replace('/', '-')}-{page.viewport_size['width']}.png")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("site", type=Path)
    parser.add_argument("--browser", required=True)
    parser.add_argument("--shots", action="store_true")
    arguments = parser.parse_args()
    site = arguments.site.resolve()
    handler = functools.partial(Handler, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.handle_error = lambda *_: None  # a browser that leaves a page
    threading.Thread(target=server.serve_forever, daemon=True).start()
    served, files = f"http://127.0.0.1:{server.server_port}/", f"{site.as_uri()}/"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=arguments.browser, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        look = Look(site, browser)
        pages, links = look.links(served, look.page(served, DESKTOP))
        look.widths(served, look.page(served, PHONE))
        for start in (served, files):
            look.search(start, look.page(start, DESKTOP))
            look.search(start, look.page(start, PHONE))
        if arguments.shots:
            names = [str(file.relative_to(site)) for file in look.files()]
            for size in (DESKTOP, PHONE):
                shots(served, look.page(served, size), site.parent / "shots", names)
        browser.close()
    for line in look.wrong:
        print(line)
    if pages < 20 or links < 500:
        sys.exit(f"only {pages} pages and {links} links")
    if look.wrong:
        sys.exit(f"{len(look.wrong)} things are wrong on {pages} pages")
    print(f"{pages} pages, {links} links: all are well")


main()

"""The report as a reader meets it: opened from disk in Chromium, wide and narrow, light and dark."""

import math
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, sync_playwright
from playwright.sync_api import Page as Tab
from safetensors.numpy import save_file
from sklearn.datasets import load_digits

from steelman.page import Bars, Check, Grid, Lines, Matrix, Page, Panel, Samples, Section, Series, Table, Trust
from steelman.report import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SIZES = {"desk": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
MODELS = ("BasicCNN()", "ConvNet(activation='tanh', batchnorm=True)", "AlexNet28()", "Linear1()")


def share(value: float, n: int = 10_000) -> dict[str, float | int]:
    half = 1.96 * math.sqrt(max(value * (1 - value), 1e-4) / n)
    return {"value": value, "low": max(0.0, value - half), "high": min(1.0, value + half), "n": n}


def curve(label: str, role: str, start: float, end: float, pace: float, wobble: float) -> Series:
    epochs = np.arange(30)
    wave = wobble * np.sin(2.1 * epochs) * np.minimum(epochs / 3, 1)
    y = (end + (start - end) * np.exp(-epochs / pace) + wave).clip(0.0, 1.0)
    shares = [share(float(value), 1000) for value in y]
    low, high = (tuple(float(one[key]) for one in shares) for key in ("low", "high"))
    return Series(label, role, tuple(map(int, epochs)), tuple(map(float, y)), low, high)  # type: ignore[arg-type]


def curves() -> Lines:
    panels = tuple(
        Panel(
            model,
            (
                curve("natural", "natural", 0.99, 0.68 + 0.07 * k, 6 + k, 0.03),
                curve("FGSM(), Linf(0.35)", "fgsm", 0.09, 0.985, 4 + k, 0.02),
                curve("PGD(steps=40), Linf(0.35)", "pgd", 0.0, 0.02 + 0.06 * k, 9, 0.01),
            ),
        )
        for k, model in enumerate(MODELS)
    )
    return Lines(
        "curves",
        "Accuracy on test images after each epoch of fine-tuning on FGSM images (bands: 95 % interval).",
        "epoch of fine-tuning",
        "accuracy",
        panels,
    )


def sheet(run_dir: Path) -> Samples:
    digits = load_digits()
    x = np.stack([np.asarray(Image.fromarray(np.uint8(255 * one / 16)).resize((28, 28))) for one in digits.images[:10]])
    x = (x[:, None] / 255).astype(np.float32)
    signs = np.sign(np.random.default_rng(0).standard_normal(x.shape)).astype(np.float32)
    (run_dir / "examples").mkdir(parents=True)
    save_file({"x": x, "x_adv": x + 0.35 * signs}, run_dir / "examples" / "fgsm.safetensors")
    true = tuple(str(one) for one in digits.target[:10])
    after = ("8", "8", "3", "3", "9", "8", "8", "2", "8", "8")
    return Samples(
        "samples",
        "Ten test images and what `FGSM()` makes of them within `Linf(0.35)`, against BasicCNN before fine-tuning.",
        "examples/fgsm.safetensors",
        true,
        true,
        tuple(0.93 + 0.007 * k for k in range(10)),
        after,
        tuple(0.41 + 0.055 * k for k in range(10)),
    )


def transfer() -> Matrix:
    names = (*MODELS, "ResNet(depth=20, width=16)", "SmallCNN()")
    rows = tuple(
        tuple(None if (i, j) == (1, 5) else share(min(1.0, 0.02 * (1 + j) + 0.19 * abs(i - j)), 1000) for j in range(6))
        for i in range(6)
    )
    return Matrix(
        "transfer",
        "Accuracy of each target on images that `PGD(steps=40)` made for each source.",
        "images made for",
        "images shown to",
        names,
        names,
        rows,
    )


def versions(run_dir: Path) -> Grid:
    digits = np.stack([one / 16 for one in load_digits().images[:4]]).astype(np.float32)
    noise = np.random.default_rng(1).random((4, 4, 8, 8), dtype=np.float32)
    x = np.stack([digits, *((1 - k / 5) * digits + k / 5 * noise[k - 1] for k in range(1, 5))], axis=1)
    save_file({"x": x.reshape(-1, 1, 8, 8)}, run_dir / "examples" / "versions.safetensors")
    words = tuple(f"read as {k // 5} · {99 - 12 * (k % 5)} %" for k in range(20))
    heads = ("original", "robust model", "standard model", "denoised (opening, closing)", "principal components")
    return Grid(
        "versions", "Four digits, and what each model keeps of them.", "examples/versions.safetensors", 5, words, heads
    )


def distances() -> Lines:
    """Gaussian bumps: shares of images in bins of distance."""
    edges = tuple(round(0.1 * k, 1) for k in range(26))

    def bump(label: str, role: str, middle: float, wide: float) -> Series:
        y = [math.exp(-(((edge + 0.05 - middle) / wide) ** 2)) for edge in edges[:-1]]
        return Series(label, role, edges, (*(one / sum(y) for one in y), None))  # type: ignore[arg-type]

    series = (bump("trained on clean images", "natural", 0.7, 0.3), bump("fine-tuned on PGD images", "pgd", 1.6, 0.45))
    return Lines("distances", "Distance to the nearest adversarial image.", "L2 distance", "share of images",
                 (Panel("", series),), drawn="steps")  # fmt: skip


def ranks() -> Lines:
    models = MODELS[:1] + MODELS[2:]
    series = tuple(
        Series(label, role, models, y, tuple(v - 0.04 for v in y), tuple(v + 0.03 for v in y))  # type: ignore[arg-type]
        for label, role, y in (
            ("FGSM(), Linf(0.1)", "fgsm", (0.62, 0.71, 0.2)),
            ("PGD(steps=40), Linf(0.1)", "pgd", (0.41, 0.5, 0.11)),
        )
    )
    return Lines(
        "seeds", "Mean over five seeds and its interval.", "model", "accuracy", (Panel("", series),), drawn="points"
    )


def trust() -> tuple[Trust, ...]:
    fine = (
        Check("Gradient is a number", "ok", "0 of 1,000 NaN", "Every input gradient is finite."),
        Check("Survives 8 bits", "ok", "99.8 %", "The images still fool the model after rounding to 256 levels."),
    )
    return (
        Trust(
            "BasicCNN() fine-tuned, FGSM(), Linf(0.35)",
            (
                *fine,
                Check(
                    "Saturated softmax",
                    "warn",
                    "12.4 %",
                    "For these images the loss is flat and the gradient is zero.",
                    "Attack the margin: `PGD(loss='margin')`.",
                ),
                Check(
                    "Stronger attack agrees",
                    "fail",
                    "98.9 % → 3.1 %",
                    "Forty steps break what one step could not: the model learned the attack, not the task.",
                    "Report PGD-40; fine-tune on PGD images.",
                ),
                Check(
                    "Pixels outside 0 to 1",
                    "info",
                    "31 % of pixels",
                    "The published protocol does not clip; no camera makes such images.",
                ),
            ),
        ),
        Trust("BasicCNN() fine-tuned, PGD(steps=40), Linf(0.35)", fine),
        Trust(
            "Linear1() fine-tuned, PGD(steps=40), Linf(0.35)",
            (
                fine[0],
                Check(
                    "More steps change nothing",
                    "warn",
                    "−1.9 points",
                    "Hundred steps find a little more than forty.",
                    "Use `PGD(steps=100)`.",
                ),
            ),
        ),
    )


def realistic(run_dir: Path) -> Page:
    eps = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35)
    falls = [
        Series(label, role, eps, tuple(start * math.exp(-((e / width) ** 2)) for e in eps))  # type: ignore[arg-type]
        for label, role, start, width in (("FGSM()", "fgsm", 0.99, 0.24), ("PGD(steps=40)", "pgd", 0.99, 0.12))
    ]
    before = [
        Series(
            "natural",
            "natural",
            MODELS,
            (0.9905, 0.989, 0.9905, 0.9837),
            (0.988, 0.986, 0.988, 0.981),
            (0.992, 0.991, 0.992, 0.986),
        ),
        Series(
            "FGSM(), Linf(0.35)",
            "fgsm",
            MODELS,
            (0.085, 0.15, 0.087, 0.0006),
            (0.08, 0.143, 0.081, 0.0),
            (0.09, 0.157, 0.093, 0.001),
        ),
        Series("PGD(steps=40), Linf(0.35)", "pgd", MODELS, (0.0, 0.001, 0.0, None)),
        Series("published FGSM", "published", MODELS, (0.0847, 0.1507, 0.087, 0.0006)),
    ]
    rows = tuple(
        (model, was, share(now), share(fgsm), share(pgd, 1000), {"mean": now, "sd": 0.0031, "n": 3, "percent": True})
        for model, was, now, fgsm, pgd in (
            (MODELS[0], "99.05 / 8.47 %", 0.9903, 0.9874, 0.031),
            (MODELS[1], "98.90 / 15.07 %", 0.6801, 0.9910, 0.0),
            (MODELS[2], None, 0.8929, 0.9312, 0.112),
            (MODELS[3], "98.37 / 0.06 %", 0.8422, 0.9908, 0.008),
        )
    )
    table = Table(
        "Published and measured, after the last epoch.",
        ("model", "published", "natural", "FGSM(), Linf(0.35)", "PGD(steps=40), Linf(0.35)", "natural, 3 seeds"),
        rows,
    )
    bars = Bars(
        "before", "Before fine-tuning: every model reads clean images and falls to one step.", "accuracy", tuple(before)
    )
    sweep = Lines(
        "eps",
        "Accuracy of BasicCNN over the radius, before fine-tuning.",
        "eps (L-inf)",
        "accuracy",
        (Panel("", tuple(falls)),),
    )
    return Page(
        "Fine-tuning on FGSM images",
        "Does fine-tuning on the images of a one-step attack make a digit classifier robust?",
        "After 29 epochs BasicCNN withstands FGSM on 98.7 % of images and forty steps of PGD on 3.1 %: "
        "it learned the attack, not the task.",
        (
            "Before fine-tuning, `FGSM()` at `Linf(0.35)` breaks more than 84 % of what every model could read.",
            "Fine-tuning raises accuracy under FGSM to 93–99 % and lowers natural accuracy to 68–99 %.",
            "Accuracy under FGSM ends above natural accuracy in three of four models: a sign of label leaking.",
            'A <b>tag</b> & an "odd" name are shown as they are.',
        ),
        (
            Section(
                "What happened",
                ("Each model was trained on clean images, then fine-tuned for 29 epochs on FGSM images.",),
                (table, curves()),
            ),
            Section("Before fine-tuning", (), (bars, sweep)),
            Section(
                "What the images look like",
                ("The images of the published protocol are not clipped to the range of pixels.",),
                (sheet(run_dir),),
            ),
            Section("Further", (), (transfer(), versions(run_dir), distances(), ranks())),
            Section("Can these numbers be trusted?", ("Each adversarial number carries its own checks.",), trust()),
        ),
        "steelman study finetune --data mnist --preset published --scale full --out runs/finetune-published",
        {
            "data": "mnist, 50,000 / 10,000 / 10,000",
            "device": "CPU, 2 cores",
            "date": "2025-01-31",
            "seeds": "0, 1, 2",
            "duration": "41 min",
            "preset": "published",
        },
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("run")
    page = realistic(run_dir)
    (run_dir / "results").mkdir()
    page.save(run_dir / "results" / "page.json")
    (run_dir / "spec.txt").write_text("Finetune(preset='published', data=MNIST(), scale='full', seeds=(0, 1, 2))\n")
    (run_dir / "env.json").write_text(
        '{"python": "3.11.2", "torch": "2.13.0", "threads": 2, "platform": "Linux x86_64"}'
    )
    return write_report(run_dir)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


VIEWS = [("desk", "light"), ("desk", "dark"), ("phone", "light"), ("phone", "dark")]


def views(fixture: str, chosen: list[tuple[str, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(fixture, chosen, ids="-".join, indirect=True)


on_every_view, in_both_themes, on_a_desk = views("shown", VIEWS), views("shown", VIEWS[:2]), views("shown", VIEWS[:1])


@contextmanager
def opened(browser: Browser, report: Path, size: str, scheme: str) -> Iterator[Tab]:
    """The opened report; afterwards: nothing was asked of any network, nothing was complained about."""
    context = browser.new_context(viewport=SIZES[size], color_scheme=scheme)  # type: ignore[arg-type]
    tab = context.new_page()
    asked: list[str] = []
    complaints: list[str] = []
    tab.on("request", lambda one: asked.append(one.url))
    tab.on("console", lambda one: complaints.append(one.text))
    tab.on("pageerror", lambda one: complaints.append(str(one)))
    tab.goto(report.as_uri())
    yield tab
    context.close()
    assert {url for url in asked if not url.startswith("data:")} == {report.as_uri()}
    assert complaints == []


@pytest.fixture(scope="module")
def shown(request: pytest.FixtureRequest, browser: Browser, report: Path) -> Iterator[Tab]:
    """The report for tests that leave it as it was."""
    with opened(browser, report, *request.param) as tab:
        yield tab


@pytest.fixture
def tab(request: pytest.FixtureRequest, browser: Browser, report: Path) -> Iterator[Tab]:
    """The report for one test alone."""
    with opened(browser, report, *getattr(request, "param", VIEWS[0])) as tab:
        yield tab


def words(part: Locator) -> str:
    return " ".join(part.inner_text().split())


@on_a_desk
def test_the_tables_hold_the_numbers_with_interval_and_n(shown: Tab) -> None:
    table = shown.locator("#item-1-1 table")
    assert table.locator("thead th").all_inner_texts()[:3] == ["model", "published", "natural"]
    row = table.locator("tbody tr").first
    assert row.locator("th").inner_text() == "BasicCNN()"
    cells = [words(cell) for cell in row.locator("td").all()]
    assert cells == [
        "99.05 / 8.47 %",
        "99.03 % 98.8–99.2, n = 10,000",
        "98.74 % 98.5–99.0, n = 10,000",
        "3.10 % 2.0–4.2, n = 1,000",
        "99.03 ± 0.31 % n = 3",
    ]
    assert table.locator("tbody tr").nth(2).locator("td").first.inner_text() == "—"


@on_every_view
def test_nothing_is_wider_than_the_screen(shown: Tab) -> None:
    width, client = shown.evaluate("""
      () => {
        const closed = [...document.querySelectorAll('details:not([open])')], root = document.documentElement;
        closed.forEach(details => { details.open = true; });
        const widths = [root.scrollWidth, root.clientWidth];
        closed.forEach(details => { details.open = false; });
        return widths;
      }
    """)
    assert width <= shown.viewport_size["width"]  # type: ignore[index]
    assert client >= width


@on_a_desk
def test_figures_and_images_have_words_for_those_who_cannot_see(shown: Tab) -> None:
    assert shown.locator("img").count() == 50
    assert all(image.get_attribute("alt") for image in shown.locator("img").all())
    drawings = shown.locator("svg:not([aria-hidden=true])")
    assert drawings.count() == 12  # a lone panel is there twice, for wide and for narrow screens
    for drawing in drawings.all():
        assert drawing.get_attribute("role") == "img"
        assert drawing.get_attribute("aria-label")
    broken = "[...document.images].filter(image => !image.complete || !image.naturalWidth).length"
    assert shown.evaluate(broken) == 0


@on_a_desk
def test_ids_are_unique_and_every_reference_has_its_target(shown: Tab) -> None:
    ids = shown.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    refs = shown.evaluate("[...document.querySelectorAll('[href^=\"#\"]')].map(e => e.getAttribute('href').slice(1))")
    urls = re.findall(r"url\(#([^)]+)\)", shown.content())
    assert urls
    assert {*refs, *urls} <= set(ids)


CONTRAST = """
() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour) => {
    const [r, g, b] = colour.map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgba(getComputedStyle(e).backgroundColor);
      if (colour[3] > 250) return colour;
    }
    return [255, 255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || ['SCRIPT', 'STYLE'].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const ink = rgba(element.closest('svg') ? style.fill : style.color);
    const pair = [light(ink), light(ground(element))].sort((a, b) => b - a);
    found.push([(pair[0] + .05) / (pair[1] + .05), walker.currentNode.data.trim().slice(0, 40)]);
  }
  return found;
}
"""


@in_both_themes
def test_all_text_stands_out_from_its_ground(shown: Tab) -> None:
    found = shown.evaluate(CONTRAST)
    assert len(found) > 200
    assert [words for contrast, words in found if contrast < 4.5] == []  # WCAG 2.1, level AA


@views("tab", VIEWS[:2])
def test_the_theme_changes_by_keyboard_and_is_remembered(tab: Tab) -> None:
    def ground() -> str:
        return tab.evaluate("getComputedStyle(document.body).backgroundColor")

    before = ground()
    toggle = tab.locator("#theme")
    tab.keyboard.press("Tab")  # the link that skips to the report comes first
    assert tab.evaluate("document.activeElement.className") == "skip"
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.id") == "theme"
    name = toggle.inner_text()
    tab.keyboard.press("Enter")
    after = ground()
    assert after != before
    assert toggle.inner_text() != name
    for _ in range(5):  # the browser stores the choice in its own time; on a busy machine a reload may come first
        tab.reload()
        if ground() == after:
            break
    assert ground() == after
    tab.evaluate("localStorage.clear()")


@on_a_desk
def test_a_table_of_attacked_numbers_leads_to_its_verdict(shown: Tab) -> None:
    assert words(shown.locator(".verdict")) == "Trust: Fail 1 failed and 2 warned of 9 checks"
    badge = shown.locator("#item-1-1 figcaption a.badge")
    assert "Trust: Fail" in badge.inner_text()
    target = shown.locator(badge.get_attribute("href") or "")
    assert "BasicCNN() fine-tuned, FGSM()" in target.locator("h3").inner_text()
    first = target.locator("tbody tr").first
    assert first.locator(".badge").inner_text() == "Fail"
    assert "98.9 % → 3.1 %" in words(first)
    assert target.locator("summary").inner_text() == "2 checks passed"


@on_a_desk
def test_text_of_the_study_is_never_markup(shown: Tab) -> None:
    assert shown.locator(".findings b").count() == 0
    assert 'A <b>tag</b> & an "odd" name' in shown.locator(".findings").inner_text()


def test_the_command_is_copied_by_its_button(tab: Tab) -> None:
    tab.locator("#copy").click()
    tab.wait_for_function("document.getElementById('copy').textContent !== 'Copy'")
    assert tab.locator("#copied").inner_text()


@in_both_themes
def test_the_page_prints_on_white(shown: Tab) -> None:
    shown.emulate_media(media="print")
    root = "getComputedStyle(document.documentElement)"
    found = shown.evaluate(f"[{root}.colorScheme, {root}.getPropertyValue('--ink').trim()]")
    shown.emulate_media(media="screen")
    assert found == ["light", "#1c1e22"]


def test_the_theme_changes_where_nothing_can_be_remembered(tab: Tab) -> None:
    tab.add_init_script("Object.defineProperty(window, 'localStorage', {get() { throw new Error('none'); }})")
    tab.reload()
    tab.locator("#theme").click()
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"

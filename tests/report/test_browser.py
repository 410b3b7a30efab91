"""The report as a reader meets it: in a browser, from disk, with no network."""

import json
import re
import shutil
import urllib.request

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image

from imae_jax.report import page

PICTURES = ("mixture", "masked", "rebuilt", "target", "difference")


@pytest.fixture(scope="module")
def report(evaluated, tmp_path_factory):
    """The report of a folder with two i-MAE runs, so that nothing may clash."""
    workdir = tmp_path_factory.mktemp("report")
    for name in ("imae", "imae_again"):
        shutil.copytree(evaluated, workdir / name)
    return page.write_report(workdir)


@pytest.fixture
def open_page(report, browser):
    """Opens the report in a fresh context; checks complaints and requests at the end."""
    complaints, requests, contexts = [], [], []

    def open_page(width=1440, **options):
        contexts.append(
            browser.new_context(viewport={"width": width, "height": 900}, **options)
        )
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(report.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints
    assert requests
    assert {url.partition(":")[0] for url in requests} <= {"file", "data"}


def panel(page):
    """The first panel, drawn."""
    found = page.locator("section.explorer").first
    found.locator("form").wait_for(state="visible")
    return found


def pictures(panel):
    """Every picture's pixels, as data URIs, by name."""
    return {
        name: panel.locator(f"[data-picture={name}]").evaluate_all(
            "all => all.map(canvas => canvas.toDataURL())"
        )
        for name in PICTURES
    }


def changed(before, after):
    return {name for name in PICTURES if before[name] != after[name]}


def state(panel):
    return pictures(panel), panel.get_by_role("status").inner_text()


def test_alpha_by_keyboard(open_page):
    found = panel(open_page())
    slider = found.get_by_role("slider", name="Alpha")
    # Starts in the middle: the upper of two.
    assert slider.get_attribute("aria-valuetext") == "alpha 0.30"
    before, words = state(found)
    assert "alpha 0.30" in words
    slider.focus()
    slider.press("ArrowLeft")
    assert slider.get_attribute("aria-valuetext") == "alpha 0.10"
    after, others = state(found)
    assert changed(before, after) == {"mixture", "masked", "rebuilt", "difference"}
    assert "alpha 0.10" in others
    label = found.locator("[data-picture=mixture]").get_attribute("aria-label")
    assert re.fullmatch(r"Mixture: 0.10 of subordinate \d, 0.90 of dominant \d", label)
    slider.press("ArrowRight")
    assert state(found) == (before, words)


def test_mask_ratio_by_keyboard(open_page):
    found = panel(open_page())
    slider = found.get_by_role("slider", name="Mask ratio")
    assert slider.get_attribute("aria-valuetext") == "mask ratio 0.25, as in training"
    before, words = state(found)
    assert "4 of 16 patches masked" in words
    slider.focus()
    slider.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "mask ratio 0.50"
    after, others = state(found)
    assert changed(before, after) == {"masked", "rebuilt", "difference"}
    assert "8 of 16 patches masked" in others


def test_pair_by_keyboard_alone(open_page):
    page = open_page()
    found = panel(page)
    before, _ = state(found)
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name") == "pair":
            break
    outline = "getComputedStyle(document.activeElement.nextElementSibling).outlineStyle"
    assert page.evaluate(outline) == "solid"
    page.keyboard.press("ArrowRight")
    after, words = state(found)
    assert changed(before, after) == set(PICTURES)
    layout = json.loads(found.locator("script").inner_text())
    pair = (layout["start"]["pair"] + 1) % len(layout["labels"])
    subordinate, dominant = layout["labels"][pair]
    assert f"subordinate {subordinate} " in words and f"dominant {dominant} " in words
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.name") == "alpha"


def test_pictures_are_the_states_own_tiles(open_page, report):
    """In the order that `explorer.write` documents, told at an uneven state."""
    folder = report.parent / "imae" / "figures"
    layout = json.loads((folder / "explorer.json").read_text())
    sprite = np.asarray(Image.open(folder / "explorer.png"))
    found = panel(open_page())
    pair, r, a = 1, 1, 0
    found.get_by_role("radio").nth(pair).check()
    found.get_by_role("slider", name="Alpha").press("Home")
    found.get_by_role("slider", name="Mask ratio").press("End")
    shown = {
        name: [np.asarray(Image.open(urllib.request.urlopen(uri)))[..., 0] for uri in uris]
        for name, uris in pictures(found).items()
    }

    def tile(place):
        n = pair * (2 + 2 + 2 * 2 * 2) + place
        y, x = np.array(divmod(n, layout["columns"])) * 8
        return sprite[y : y + 8, x : x + 8]

    np.testing.assert_array_equal(shown["target"], [tile(0), tile(1)])
    np.testing.assert_array_equal(shown["mixture"], [tile(2 + a)])
    rebuilt = np.stack([tile(4 + (r * 2 + a) * 2 + s) for s in range(2)])
    np.testing.assert_array_equal(shown["rebuilt"], rebuilt)
    difference = np.abs(rebuilt.astype(int) - shown["target"])
    np.testing.assert_array_equal(shown["difference"], np.clip(2 * difference, 0, 255))
    # Of the masked mixture, a point in the upper left of each patch, beside its stroke.
    removed = np.array([int(c) for c in layout["masks"][pair][r]], bool).reshape(4, 4)
    masked = shown["masked"][0]
    side = len(masked) // 4
    beside = masked[side // 4 :: side, side // 4 :: side]
    assert (beside[removed] == 128).all() and removed.sum() == 8
    np.testing.assert_array_equal(beside[~removed], tile(2 + a)[::2, ::2][~removed])


def test_the_numbers_are_the_layouts(open_page):
    found = panel(open_page())
    layout = json.loads(found.locator("script").inner_text())
    pair = layout["start"]["pair"]
    for s, branch in enumerate(("subordinate", "dominant")):
        mse, mean = layout["mse"][pair][0][1][s], layout["mse_train_mean"][pair][0][s]
        row = found.locator(f"[data-branch={branch}]")
        assert row.locator("strong").inner_text() == f"{mse / mean:.2f}×"
        all_mse = sum(found[0][1][s] for found in layout["mse"])
        all_mean = sum(found[0][s] for found in layout["mse_train_mean"])
        assert row.locator("small").inner_text() == (
            f"error {mse:.3f}; all 2 pairs together {all_mse / all_mean:.2f}×"
        )


def test_panels_of_two_runs_do_not_touch_each_other(open_page):
    page = open_page()
    first, second = page.locator("section.explorer").all()
    panel(page)
    second.locator("form").wait_for(state="visible")
    before = state(first)
    second.get_by_role("radio").nth(1).check()
    second.get_by_role("slider", name="Alpha").press("ArrowLeft")
    assert state(first) == before and state(second) != before
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_scrolls_sideways(open_page, width):
    page = open_page(width)
    panel(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(open_page, scheme):
    page = open_page()
    page.emulate_media(color_scheme=scheme)
    panel(page)
    found = Axe().run(page).response["violations"]
    assert not [v for v in found if v["impact"] in ("serious", "critical")]


def test_the_numbers_shown_are_those_of_eval_json(open_page, report):
    results = json.loads((report.parent / "imae" / "eval.json").read_text())
    page = open_page()

    def row(title, label):
        table = page.get_by_role("table", name=title, exact=True)
        head = page.get_by_role("rowheader", name=label, exact=True)
        cells = table.get_by_role("row").filter(has=head).get_by_role("cell").all()
        return [cell.inner_text() for cell in cells]

    def numbers(*keys):
        return [f"{results[key]:.3f}" for key in keys]

    assert row("Reconstruction of both images from their mixture", "imae") == numbers(
        "reconstruction/subordinate/mse",
        "reconstruction/subordinate/ratio",
        "reconstruction/dominant/mse",
        "reconstruction/dominant/ratio",
    )
    for label, prefix in (
        ("imae", ""),
        ("MAE, shown the mixture", "baselines/mae_on_mixture/"),
        ("random weights", "baselines/random/"),
    ):
        prefix = f"separability/{prefix}"
        assert row("Linear separability (imae)", label) == numbers(
            f"{prefix}gain",
            f"{prefix}subordinate/r2",
            f"{prefix}subordinate/excess",
            f"{prefix}dominant/r2",
            f"{prefix}dominant/excess",
            f"{prefix}subordinate/cross_r2",
            f"{prefix}dominant/cross_r2",
            f"{prefix}assignment_accuracy",
        )
    null = row("Linear separability (imae)", "superposition (null)")
    assert null[:5] == ["0.000", "0.155", "0.000", "0.845", "0.000"]
    assert f"gain {results['separability/gain']:+.2f} " in page.locator("h1").inner_text()
    words = page.locator(".headlines").first.inner_text().replace("\N{NO-BREAK SPACE}", " ")
    assert f"{results['separability/gain']:+.2f}" in words
    for branch in ("subordinate", "dominant"):
        for number in ("r2", "r2_null"):
            assert f"{100 * results[f'separability/{branch}/{number}']:.0f} %" in words


def test_every_picture_is_drawn_and_every_table_opens(open_page):
    page = open_page()
    panel(page)
    sizes = page.locator("img:not([hidden])").evaluate_all(
        "all => all.map(image => image.naturalWidth)"
    )
    assert len(sizes) > 5 and min(sizes) > 100
    control = page.get_by_role("table", name="Linear separability: controls (imae)")
    assert not control.is_visible()
    page.get_by_text("Linear separability: controls (imae)", exact=True).click()
    assert control.is_visible()


def test_print_shows_the_panel_as_it_stands(open_page):
    page = open_page()
    found = panel(page)
    found.get_by_role("slider", name="Alpha").press("ArrowLeft")
    page.emulate_media(media="print")
    for name in PICTURES:
        assert found.locator(f"[data-picture={name}]").first.is_visible()
    assert "alpha 0.10" in found.get_by_role("status").inner_text()
    assert page.pdf().startswith(b"%PDF")


def test_without_javascript_it_says_so(open_page):
    page = open_page(java_script_enabled=False)
    note = page.locator("section.explorer noscript").first
    assert note.is_visible() and "needs JavaScript" in note.inner_text()
    assert not page.locator("section.explorer form").first.is_visible()

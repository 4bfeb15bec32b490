"""The page of metarun report: what is on it, in a real browser, over damaged and hostile runs too."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest
import torch
from own_runs import trained
from picture_files import encoded, write
from PIL import Image
from scipy import stats

from metarun.cli.main import main
from metarun.errors import ConfigError, MetarunError
from metarun.evaluation.showcase import predicted, showcase
from metarun.evaluation.trained import reopen
from metarun.figures import Bars, Figure, Histograms, Line, Lines, Parallel, Pictures, Points, Surface
from metarun.reports.pages.curves import smoothed
from metarun.reports.pages.gathered import gather
from metarun.reports.pages.numbers import numbers
from metarun.reports.pages.page import Section, write_page
from metarun.reports.pages.sweep_figures import importance
from metarun.reports.plots import as_png, as_svg, drawn
from metarun.runs.holding import held
from metarun.tasks.episodes import first_episodes

HOSTILE = "<script>document.title='got'"
LOGGED = ["train.log_every=1", "train.validate_every=1", "model.hidden=[4]"]


def with_choices(run: Path, **choices: str) -> Path:
    """What the command line adds to a manifest."""
    words = " ".join(f"'{key}={value}'" for key, value in choices.items())
    content = {
        "command": f"metarun {words}",
        "choices": {k: v for k, v in choices.items() if "." not in k},
        "seed": 0,
    }
    (run / "manifest.json").write_text(json.dumps(content))
    return run


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of several kinds, a sweep, and runs that cannot be read, or not wholly."""
    root = tmp_path_factory.mktemp("reported") / "outputs"
    generator = np.random.default_rng(0)
    names = [f"{HOSTILE}{i}" for i in range(13)] + ["$a_b$ \\frac", "größe"]
    for name in names:
        colour = generator.integers(40, 216, 3)
        for i in range(8):
            noise = generator.integers(-90, 91, (8, 8, 3))
            pixels = (colour + noise).clip(0, 255).astype(np.uint8)
            write(root.parent / "pictures" / name / f"{i}.png", encoded(pixels))
    data = [
        f"data.root={root.parent / 'pictures'}",
        "data.size=8",
        "data.way=3",
        "data.shot=1",
        "data.query=2",
    ]
    shares = ["data.shares=[0.3,0.2,0.5]", "model=mlp", "train.test_tasks=30", "data.seed=4"]
    run = trained(root / "photographs", "algo=protonet", "data=folder", *data, *shares, *LOGGED)
    with_choices(run, algo="protonet", data="folder")
    for seed in (0, 1):
        run = trained(root / f"maml-{seed}", f"seed={seed}", "inner.test_steps=3", *LOGGED)
        with_choices(run, algo="maml", data="sinusoid")
    run = trained(root / "sgd", "algo=metasgd", "inner.test_steps=3", *LOGGED)
    with_choices(run, algo="metasgd", data="sinusoid")
    for number, (inner, outer) in enumerate([(0.001, 0.01), (0.001, 0.1), (0.1, 0.01), (0.1, 0.1)]):
        words = {"inner.lr": str(inner), "outer.lr": str(outer)}
        run = trained(root / f"sweep/{number}", *(f"{k}={v}" for k, v in words.items()), *LOGGED)
        with_choices(run, algo="maml", data="sinusoid", **words)
    (root / "sweep/sweep.json").write_text(json.dumps({"kind": "search", "jobs": [[]] * 4}))
    # Not all of it can be read.
    shutil.copytree(root / "sgd", root / "damaged")
    (root / "damaged/metrics.jsonl").write_text("no}\n")
    shutil.copytree(root / "sgd", root / "running")
    for name in ("results.json", "test_tasks.npz"):
        (root / "running" / name).unlink()
    shutil.copytree(root / "sgd", root / "foreign")
    config = (root / "foreign/config.yaml").read_text()
    (root / "foreign/config.yaml").write_text(config.replace("metarun.tasks.Sinusoid", "nowhere.to_be.Found"))
    shutil.copytree(root / "sgd", root / "older")
    (root / "older/test_tasks.npz").unlink()
    return root


@pytest.fixture(scope="module")
def page(outputs: Path) -> Path:
    """The page about all of them, made while one is running."""
    out = outputs.parent / "report.html"
    with held(outputs / "running"):
        assert main(["report", str(outputs), "--out", str(out), "--details", "9"]) == 0
    return out


def test_the_page_needs_nothing_else_and_is_small(page: Path) -> None:
    text = page.read_text()
    assert page.stat().st_size < 5_000_000
    addresses = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", text)
    assert all(a.startswith(("#", "data:")) for a in addresses)
    assert "://" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)  # names of XML, which nothing fetches


def test_what_is_damaged_running_or_foreign_is_named_and_the_rest_is_there(page: Path, outputs: Path) -> None:
    text = page.read_text()
    assert f"{outputs}/damaged is damaged, and left out: " in text
    assert f"{outputs}/foreign: what it has learned cannot be shown: " in text
    assert "nowhere" in text
    assert "tests (sinusoid) have no scores of each task, and are not compared" in text
    assert "1 running" in text or "running" in re.findall(r"<td>(running)", text)
    for name in ("photographs", "maml-0", "sgd"):
        assert f"{outputs}/{name}" in text


def test_hostile_names_are_texts(page: Path) -> None:
    text = page.read_text()
    assert "<script>document" not in text
    assert "&lt;script&gt;document" in text
    assert text.count("<script>") == 1


def test_every_figure_is_there_with_its_numbers_and_as_files(page: Path) -> None:
    text = page.read_text()
    ids = re.findall(r'<figure id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    folder = page.with_name("report_files")
    assert (
        {path.stem for path in folder.glob("*.svg")}
        == {path.stem for path in folder.glob("*.png")}
        == set(ids)
    )
    for each in (
        *("validation-loss", "train-loss", "validation-accuracy", "test-loss-over-adaptation-steps"),
        *("sweep-heat-map", "search-history", "parameter-importance", "learned-rates", "embedding"),
        *("episode", "mistakes", "confusion", "function-1"),
    ):
        assert each in ids
    for figure in re.findall(r"<figure .*?</figure>", text, re.DOTALL):
        assert "<svg " in figure
        assert figure.count("<tr>") > 1
        assert 'aria-label="' in figure
    with Image.open(folder / "episode.png") as image:
        assert image.format == "PNG"
    assert "var(--" not in (folder / "episode.svg").read_text()  # a file stands alone


def test_the_table_of_differences_is_that_of_compare(page: Path, outputs: Path, typed) -> None:
    runs = [str(outputs / name) for name in ("maml-0", "maml-1", "sgd")]
    assert typed("report", *runs, "--out", "three.html", "--details", "0")[0] == 0
    text = Path("three.html").read_text()
    assert typed("compare", *runs, "--json", "three.json")[0] == 0
    (pair,) = json.loads(Path("three.json").read_text())["pairs"]
    assert f"{pair['difference']:+.4g}" in text
    assert f"{pair['count']} pairs" in text
    assert "2 finished" in text
    # Two seeds: Student's interval over them.
    means = [
        json.loads((outputs / f"maml-{s}/results.json").read_text())["final"]["loss"]["mean"] for s in (0, 1)
    ]
    half = stats.t.ppf(0.975, 1) * stats.sem(means)
    assert f"{np.mean(means):.4f} ± {half:.4f}" in text
    assert "What metasgd has learned" not in text


def test_a_sweep_has_a_table_with_the_best_first(page: Path, outputs: Path) -> None:
    section = re.search(r'<section id="sweep-1".*?</table>', page.read_text(), re.DOTALL)[0]
    heads = re.findall(r"<th[^>]*>([^<]*)</th>", section)
    assert heads == ["inner.lr", "outer.lr", "test loss", "finished"]
    rows = [
        re.findall(r"<td[^>]*>([^<]*)</td>", row)
        for row in re.findall(r"<tr>(.*?)</tr>", section, re.DOTALL)[1:]
    ]
    losses = [float(row[2]) for row in rows]
    assert losses == sorted(losses)
    results = [json.loads((outputs / f"sweep/{n}/results.json").read_text()) for n in range(4)]
    assert losses[0] == pytest.approx(min(r["final"]["loss"]["mean"] for r in results), abs=1e-4)
    assert {(row[0], row[1]) for row in rows} == {(a, b) for a in ("0.001", "0.1") for b in ("0.01", "0.1")}


def test_a_run_alone_has_its_page_in_its_directory(outputs: Path, typed) -> None:
    status, printed, _ = typed("report", str(outputs / "sgd"), "--details", "0")
    assert status == 0
    assert printed.startswith(f"{outputs}/sgd/report.html: 1 run; the figures, as SVG and PNG: ")
    assert f"<h1>Run {outputs}/sgd</h1>" in (outputs / "sgd/report.html").read_text()
    (outputs / "sgd/report.html").unlink()
    shutil.rmtree(outputs / "sgd/report_files")


def test_what_cannot_be_reported_is_said_in_a_line(outputs: Path, typed, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "empty").mkdir()
    for words, expected in (
        (["nowhere"], "nowhere: there is no such folder: expected a run, a sweep, or a folder of runs"),
        (["empty"], "empty: there is no run to report"),
        ([str(outputs / "damaged")], "there is no run to report ("),
        ([str(outputs / "sgd"), "--out", "page.pdf"], "--out page.pdf: expected a name that ends in .html"),
        ([str(outputs / "sgd"), "--out", "no/page.html"], "expected a file in an existing folder"),
    ):
        status, _, said = typed("report", *words)
        assert (status, len(said.splitlines())) == (2, 1)
        assert expected in said
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, _, said = typed("report", str(outputs / "sgd"), "--out", "page.html", "--details", "0")
    assert status == 1
    assert "figures need matplotlib: pip install 'metarun[report]'" in said
    assert not Path("page.html").exists()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if which("chromedriver") is None:
        pytest.skip("no chromedriver: apt install chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(which("chromedriver")))
    yield driver
    driver.quit()


def test_a_browser_shows_it_wide_and_narrow_in_light_and_dark(browser: Any, page: Path) -> None:
    from selenium.webdriver.common.by import By

    for scheme in ("light", "dark"):
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        for width in (390, 1400):
            browser.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
            )
            browser.get(page.as_uri())
            assert browser.get_log("browser") == []
            assert browser.title != "got"
            inner, scrolled = browser.execute_script(
                "return [innerWidth, document.documentElement.scrollWidth]"
            )
            assert inner == width
            assert scrolled <= width  # nothing is wider than the page
            boxes = browser.execute_script(
                "return [...document.querySelectorAll('figure svg')].map(s => s.getBoundingClientRect())"
                ".map(box => [box.left, box.right, box.height])"
            )
            assert len(boxes) == len(browser.find_elements(By.CSS_SELECTOR, "figure"))
            assert all(left >= 0 and right <= width and height > 60 for left, right, height in boxes)
            ink, paper, text = browser.execute_script(
                "const s = getComputedStyle(document.body), t = document.querySelector('figure svg text');"
                "return [s.color, s.backgroundColor, getComputedStyle(t).fill]"
            )
            assert ink == text  # the texts of figures follow
            assert contrast(ink, paper) > 7
            browser.save_screenshot(str(page.with_name(f"{scheme}-{width}.png")))
    light, dark = (Image.open(page.with_name(f"{name}-1400.png")).convert("L") for name in ("light", "dark"))
    assert np.asarray(light).mean() > 180
    assert np.asarray(dark).mean() < 80


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2, of colours as rgb(r, g, b)."""

    def luminance(colour: str) -> float:
        parts = np.array([int(c) for c in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted(luminance(c) for c in (one, other))
    return (high + 0.05) / (low + 0.05)


def test_it_is_read_by_keyboard_and_by_screen_readers(browser: Any, page: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser.get(page.as_uri())
    images = browser.find_elements(By.CSS_SELECTOR, "[role=img]")
    assert len(images) == len(browser.find_elements(By.CSS_SELECTOR, "figure"))
    assert all(len(image.get_attribute("aria-label")) > 10 for image in images)
    seen: list[tuple[str, str]] = []
    for _ in range(400):  # from the top of the page to its end
        browser.switch_to.active_element.send_keys(Keys.TAB)
        active = browser.switch_to.active_element
        seen.append((active.tag_name, active.accessible_name))
        if active.tag_name == "body":
            break
    kinds = {tag for tag, _ in seen}
    assert {"a", "button", "summary", "div"} <= kinds
    assert all(name for tag, name in seen if tag in ("a", "button", "summary", "div"))
    summary = browser.find_element(By.CSS_SELECTOR, "figure summary")
    summary.send_keys(Keys.ENTER)
    table = browser.find_element(By.CSS_SELECTOR, "figure details table")
    assert table.is_displayed()


def test_figures_are_saved_from_the_page(browser: Any, page: Path, tmp_path: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
    )
    browser.get(page.as_uri())
    figure = browser.find_element(By.ID, "confusion")
    for kind in ("svg", "png", "csv"):
        button = figure.find_element(By.CSS_SELECTOR, f"[data-save={kind}]")
        browser.execute_script("arguments[0].click()", button)
        path = tmp_path / f"confusion.{kind}"
        WebDriverWait(browser, 20).until(lambda _, path=path: path.exists())
    assert "var(--" not in (tmp_path / "confusion.svg").read_text()
    with Image.open(tmp_path / "confusion.png") as image:
        assert image.width > 500
    lines = (tmp_path / "confusion.csv").read_text(encoding="utf-8-sig").splitlines()
    assert len(lines) > 2
    assert browser.get_log("browser") == []


FIGURES: list[Figure] = [
    Lines(
        name="l",
        title="t",
        caption="c",
        lines={"<b>": Line([1, 2], [3.0, 4.0], [2.0, 3.0], [4.0, 5.0]), "·d": Line([1.0], [2.0], dots=True)},
        x_label="x",
        y_label="y",
        marked={"here": 1.5},
        log_y=True,
    ),
    Histograms(
        name="h",
        title="t",
        caption="c",
        values={"a": torch.tensor([1.0, 2.0, float("nan")]), "empty": torch.zeros(0), "one": torch.ones(1)},
        unit="u",
    ),
    Surface(
        name="s",
        title="t",
        caption="c",
        values=torch.tensor([[1.0, float("nan")], [-2.0, 0.5]]),
        rows=["a", "b"],
        columns=["c", "long name"],
        x_label="x",
        y_label="y",
        unit="u",
        diverging=True,
    ),
    Points(
        name="p", title="t", caption="c", places=torch.rand(9, 2), labels=["a"] * 9, kinds=["k", "m", "n"] * 3
    ),
    Pictures(
        name="i",
        title="t",
        caption="c",
        images=[torch.rand(1, 4, 4), torch.rand(3, 4, 4)],
        captions=["one\ntwo", "$\\frac$"],
        good=[True, None],
    ),
    Parallel(
        name="r",
        title="t",
        caption="c",
        axes={"lr": [0.001, 1.0, 0.1], "norm": ["batch", "none", "batch"], "same": [1.0, 1.0, 1.0]},
        scores=[1.0, float("nan"), 3.0],
        unit="loss",
        higher_is_better=False,
    ),
    Bars(name="b", title="t", caption="c", values={"lr": 0.25, "norm": 0.75}, unit="share"),
]


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: type(figure).__name__)
def test_every_kind_of_figure_is_drawn_the_same_way_twice_and_has_numbers(figure: Figure) -> None:
    texts = [as_svg(drawn(figure), figure.name) for _ in range(2)]
    assert texts[0] == texts[1]
    assert texts[0].startswith("<svg")
    assert "<b>" not in texts[0]
    assert as_png(drawn(figure)).startswith(b"\x89PNG")
    heads, rows = numbers(figure)
    assert rows
    assert all(len(row) == len(heads) for row in rows)


def test_ids_of_two_figures_on_a_page_differ() -> None:
    one, other = (set(re.findall(r' id="([^"]+)"', as_svg(drawn(FIGURES[0]), name))) for name in "ab")
    assert {i for i in one & other if re.match(r"[mp][0-9a-f]{8}", i)} == set()


def test_a_class_of_no_known_figure_is_an_error() -> None:
    unknown = Figure(name="x", title="t", caption="c")
    for call in (drawn, numbers):
        with pytest.raises(TypeError, match="Figure"):
            call(unknown)


def test_smoothing_keeps_lines_and_ends_and_leaves_out_what_is_not_finite() -> None:
    line = [float(i) for i in range(200)]
    assert smoothed(line) == pytest.approx(line)
    noisy = (torch.arange(200) % 2).double().tolist()
    assert max(abs(v - 0.5) for v in smoothed(noisy)[10:-10]) < 0.12
    assert smoothed([1.0, 2.0]) == [1.0, 2.0]
    assert np.isfinite(smoothed([1.0] * 99 + [float("nan")] + [1.0] * 100)).all()


def test_importance_is_that_of_the_parameter_that_matters() -> None:
    values = {"lr": [float(i % 5) for i in range(40)], "name": [f"n{i // 20}" for i in range(40)]}
    shares = importance(values, [v**2 for v in values["lr"]])
    assert shares["lr"] > 0.9
    assert sum(shares.values()) == pytest.approx(1)
    assert importance(values, [1.0] * 40) == {}
    assert importance({"lr": values["lr"]}, values["lr"]) == {}


def test_predictions_and_confusions_are_those_of_the_tasks(outputs: Path) -> None:
    opened = reopen(outputs / "photographs", [])
    source = opened.experiment.source
    tasks = first_episodes(source, "test", torch.float32, 5)
    names = source.names("test")
    found = predicted(opened, tasks, names)
    assert len(found.names) == found.right.numel() == 5 * 6
    place = 17  # of task 2
    task, query = divmod(place, 6)
    label = int(tasks.query.y[task, query])
    assert found.names[place] == names[int(tasks.info["class"][task, label])]
    assert torch.equal(found.x[place], tasks.query.x[task, query])
    learner = opened.experiment.learner
    with torch.no_grad(), learner.evaluating():
        logits = learner.predict(learner.adapt(tasks.without_answers()), tasks.query.x)
    assert torch.equal(found.chosen, logits.argmax(2).flatten())
    assert torch.allclose(found.probability, logits.double().softmax(2).amax(2).flatten(), atol=1e-5)
    (confusion,) = [figure for figure in showcase(opened) if figure.name == "confusion"]
    assert isinstance(confusion, Surface)
    assert confusion.values.sum() == 30 * 6
    accuracy = json.loads((outputs / "photographs/results.json").read_text())["final"]["accuracy"]["mean"]
    assert confusion.values.diagonal().sum() == pytest.approx(accuracy * 30 * 6)


def test_seeds_are_a_band_and_set_ups_are_told_apart(outputs: Path) -> None:
    found = gather([outputs / "maml-0", outputs / "maml-1", outputs / "sgd", outputs / "maml-0"])
    assert [len(set_up.records) for set_up in found.set_ups] == [2, 1]  # twice the same path is one run
    assert [set_up.name for set_up in found.set_ups] == ["algo=maml", "algo=metasgd"]
    assert list(found.arenas) == [("sinusoid", "loss")]
    with pytest.raises(ConfigError, match="nothing: there is no such folder"):
        gather([outputs / "nothing"])


def test_the_page_of_nothing_to_draw_has_no_folder(tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "page.html"
    assert write_page(out, "<t>", [Section("a", "A", ["<i>"]), Section("b", "B")], ["<p>"], "metarun") is None
    text = out.read_text()
    assert "&lt;t&gt;" in text
    assert "&lt;i&gt;" in text
    assert 'id="b"' not in text
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MetarunError, match=r"the page needs Jinja: pip install 'metarun\[report\]'"):
        write_page(out, "t", [], [], "metarun")


def test_as_a_command(outputs: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "metarun",
            "report",
            str(outputs / "sweep"),
            "--out",
            "s.html",
            "--details",
            "0",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "s.html: 4 runs; the figures, as SVG and PNG: s_files\n"
    assert "Traceback" not in done.stderr

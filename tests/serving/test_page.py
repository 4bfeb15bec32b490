"""The page: through its endpoint, in a real browser, and as a command that is stopped."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import requests
from own_runs import few, trained
from picture_files import bad_files

from metarun.errors import MetarunError
from metarun.evaluation.prediction.opened import opened
from metarun.evaluation.prediction.usable import usable
from metarun.serving.app import Desk, Limits, make_app, plain_name

uvicorn = pytest.importorskip("uvicorn")
Typed = Callable[..., tuple[int, str, str]]
LIMITS = Limits(files=60, file_bytes=200_000, bytes=2_000_000)


def served(desk: Desk) -> Iterator[str]:
    server = uvicorn.Server(
        uvicorn.Config(make_app(desk, ["127.0.0.1", "localhost"]), port=0, log_level="error")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def address(runs: Any) -> Iterator[str]:
    yield from served(Desk(usable(runs("protonet")), None, LIMITS))


def uploaded(support: Path, query: Path) -> list[tuple[str, tuple[str, bytes]]]:
    parts = [
        (f"support:{path.parent.name}", (path.name, path.read_bytes()))
        for path in sorted(support.rglob("*.png"))
    ]
    others = [
        ("query", (f"{path.parent.name} {path.name}", path.read_bytes()))
        for path in sorted(query.rglob("*.png"))
    ]
    return [*parts, *others]


def test_the_endpoint_answers_as_the_command_does(
    typed: Typed, address: str, runs: Any, pictures: Path, tmp_path: Path
) -> None:
    support, query = few(pictures, tmp_path)
    words = [
        "predict",
        str(runs("protonet")),
        "--support",
        str(support),
        "--query",
        str(query),
        "--out",
        "a.csv",
    ]
    assert typed(*words)[0] == 0
    with Path("a.csv").open(newline="") as file:
        expected = list(csv.DictReader(file))
    found = requests.post(f"{address}/predict", files=uploaded(support, query), timeout=60).json()
    assert found["classes"] == ["kind 00", "kind 01", "kind 02"]
    assert [each["class"] for each in found["answers"]] == [row["class"] for row in expected]
    for each, row in zip(found["answers"], expected, strict=True):
        assert each["probability"] == pytest.approx(float(row["probability"]), abs=1e-4)
        assert each["margin"] == pytest.approx(float(row["margin"]), abs=2e-4)
        assert len(each["neighbours"]) == len(each["neighbourNames"]) == 3


def test_neighbours_are_the_nearest_embeddings_also_with_batch_norms(
    runs: Any, pictures: Path, tmp_path: Path
) -> None:
    support, query = few(pictures, tmp_path)
    words = [
        "data=folder",
        f"data.root={pictures}",
        "data.size=16",
        "data.query=3",
        "data.way=3",
        "data.shot=2",
    ]
    run = trained(tmp_path / "run", "algo=protonet", *words, "model=conv4", "model.filters=4")
    desk = Desk(usable(run), None, LIMITS)
    labelled = [(path.parent.name, path.name, path.read_bytes()) for path in sorted(support.rglob("*.png"))]
    others = [(path.name, path.read_bytes()) for path in sorted(query.rglob("*.png"))]
    whole = desk.answer(labelled, others)["answers"]
    alone = [desk.answer(labelled, [other])["answers"][0] for other in others]  # one by one
    assert [each["neighbours"] for each in whole] == [each["neighbours"] for each in alone]
    same = desk.answer(labelled, [(name, content) for _, name, content in labelled])["answers"]
    assert [each["neighbours"][0] for each in same] == list(range(len(labelled)))  # each is its own nearest


def test_a_file_of_adapt_needs_no_labelled_images(
    typed: Typed, runs: Any, pictures: Path, tmp_path: Path
) -> None:
    support, query = few(pictures, tmp_path)
    for algo in ("protonet", "metasgd"):
        assert typed("adapt", str(runs(algo)), "--support", str(support), "--out", "a.safetensors")[0] == 0
        model = opened(Path("a.safetensors"), None)
        for address in served(Desk(model.usable, model, LIMITS)):
            about = requests.get(f"{address}/about", timeout=60).json()
            assert (about["hasSeen"], about["classes"]) == (True, model.classes)
            parts = uploaded(support, query)
            others = [part for part in parts if part[0] == "query"]
            found = requests.post(f"{address}/predict", files=others, timeout=60).json()
            assert len(found["answers"]) == 18
            refused = requests.post(f"{address}/predict", files=parts, timeout=60)
            assert (refused.status_code, "has seen its examples" in refused.json()["error"]) == (400, True)


def test_bad_requests_are_one_line(address: str, pictures: Path, tmp_path: Path) -> None:
    support, query = few(pictures, tmp_path)
    good = uploaded(support, query)
    bad = [("query", (f"C:\\secret\\../{name}", content)) for name, (content, _) in bad_files().items()]
    found = requests.post(f"{address}/predict", files=[*good, *bad], timeout=60).json()
    assert len(found["answers"]) == 18
    said = {each["name"]: (each["part"], each["place"], each["why"]) for each in found["leftOut"]}
    for place, (name, (_, why)) in enumerate(bad_files().items(), 18):
        assert said[name][:2] == ("query", place)
        assert said[name][2].startswith(why)
    one_class = [part for part in good if part[0] in ("support:kind 00", "query")]
    big = ("query", ("big.png", bytes(LIMITS.file_bytes + 1)))
    for parts, status, said in (
        ([], 400, "no labelled image can be read"),
        (one_class, 400, "all labelled examples are of one class, kind 00"),
        ([("query", ("x.png", bytes(LIMITS.bytes)))], 413, "more than 1 MB together"),
        ([("query", (f"{i}.png", b"")) for i in range(LIMITS.files + 1)], 400, "Too many files"),
    ):
        answer = requests.post(f"{address}/predict", files=parts or {"odd": b""}, timeout=60)
        assert (answer.status_code, said in answer.json()["error"]) == (status, True), said
        assert "\n" not in answer.json()["error"]
    (left,) = requests.post(f"{address}/predict", files=[*good, big], timeout=60).json()["leftOut"]
    assert (left["name"], left["why"]) == ("big.png", "larger than 0 MB")
    foreign = requests.post(
        f"{address}/predict", files=good, headers={"Origin": "http://evil.example"}, timeout=60
    )
    assert (foreign.status_code, foreign.json()) == (403, {"error": "this page is from elsewhere"})
    own = requests.post(f"{address}/predict", files=good, headers={"Origin": address}, timeout=60)
    assert own.status_code == 200
    assert requests.get(f"{address}/../../etc/passwd", timeout=60).status_code == 404
    assert requests.get(f"{address}/app.py", timeout=60).status_code == 404
    assert requests.get(f"{address}/predict", timeout=60).status_code == 404
    elsewhere = requests.get(f"{address}/about", headers={"Host": "evil.example"}, timeout=60)
    assert elsewhere.status_code == 400
    assert "default-src 'none'" in requests.get(address, timeout=60).headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("a/../b.png", "b.png"),
        ("C:\\x\\y.png", "y.png"),
        ("", "image"),
        (None, "image"),
        ("x" * 300, "x" * 200),
    ],
)
def test_only_the_last_part_of_a_name_is_kept(given: Any, name: str) -> None:
    assert plain_name(given) == name


def test_a_run_on_numbers_has_no_page(tmp_path: Path) -> None:
    with pytest.raises(MetarunError, match="metarun serve is for images of classes"):
        Desk(usable(trained(tmp_path / "run", "algo=maml", "data=sinusoid")), None, LIMITS)


@pytest.mark.skipif(which("chromedriver") is None, reason="no chromedriver: apt install chromium-driver")
def test_the_page_in_a_browser(address: str, pictures: Path, tmp_path: Path) -> None:
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    support, query = few(pictures, tmp_path)
    options = webdriver.ChromeOptions()
    options.binary_location = which("chromium") or ""
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(which("chromedriver")))
    try:
        browser.get(address)
        wait = WebDriverWait(browser, 30)
        wait.until(lambda page: page.find_element(By.TAG_NAME, "body").get_attribute("data-ready") == "yes")
        browser.find_element(By.ID, "add").click()
        boxes = browser.find_elements(By.CLASS_NAME, "class")
        assert len(boxes) == 3
        for number, box in enumerate(boxes):
            name = box.find_element(By.CSS_SELECTOR, "input[type=text]")
            name.clear()
            name.send_keys(f"<b>{number}</b>")
            images = sorted((support / f"kind {number:02}").iterdir())
            box.find_element(By.CSS_SELECTOR, "input[type=file]").send_keys("\n".join(map(str, images)))
            assert len(box.find_elements(By.TAG_NAME, "img")) == 2
        others = sorted((query / "kind 01").iterdir())
        browser.find_element(By.CSS_SELECTOR, "#query input").send_keys("\n".join(map(str, others)))
        wait.until(lambda page: len(page.find_elements(By.CLASS_NAME, "answer")) == len(others))
        labels = [each.text for each in browser.find_elements(By.CLASS_NAME, "label")]
        assert all(label.startswith("<b>") and label.endswith("%") for label in labels)  # text, not markup
        assert len(browser.find_elements(By.CSS_SELECTOR, ".answer .near img")) == 3 * len(others)
        shown = [each.get_attribute("src") for each in browser.find_elements(By.CSS_SELECTOR, ".class img")]
        assert len(set(shown)) == 6  # pictures of one name are told apart
        near = [each.get_attribute("src") for each in browser.find_elements(By.CSS_SELECTOR, ".near img")]
        assert set(near) <= set(shown)
        bad = tmp_path / "bad.png"
        bad.write_bytes(b"")
        browser.find_element(By.CSS_SELECTOR, "#query input").send_keys(str(bad))
        wait.until(lambda page: "bad.png is an empty file" in page.find_element(By.ID, "error").text)
        severe = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
        assert [line for line in severe if "favicon" not in line["message"]] == []
    finally:
        browser.quit()


@pytest.mark.slow
def test_the_command_serves_until_it_is_stopped(runs: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "metarun", "serve", str(runs("protonet")), "--port", "0"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    address = line.split()[0]
    assert requests.get(f"{address}/about", timeout=60).json()["size"] == 8
    busy = subprocess.run(
        [*command[:-1], address.rpartition(":")[2]], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (busy.returncode, busy.stderr.count("\n")) == (1, 1)
    assert "Address already in use: type another, or 0" in busy.stderr
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, "stopped\n")
    assert list(tmp_path.iterdir()) == []

# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""Attacks on a real MONAI Label server: other web pages, other machines, code in options, paths in names.

The server needs an environment of its own, which ``make test-label`` makes. These take longer, and run by themselves:
``.venv-label/bin/python -m pytest -m slow tests/monai_label/test_attacks.py``.
"""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nibabel as nib
import numpy as np
import pytest
from label_servers import AS_SLICER, Server, running

from custom.monai_label.few_label_server.access import Access

pytestmark = pytest.mark.slow
requests = pytest.importorskip("requests")
WITHOUT_SCORING = {"MONAI_LABEL_TASKS_SCORING": "false"}
FOREIGN = (
    "http://evil.example",
    "null",
    "http://127.0.0.1:1",
    "https://127.0.0.1.evil.example",
    "http://localhost:8000@evil.example",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    pytest.importorskip("monailabel", reason="MONAI Label has an environment of its own: make test-label")
    with running(tmp_path_factory.mktemp("label") / "inner", ["cctr_acdc"], more=WITHOUT_SCORING) as started:
        yield started


@pytest.fixture
def untouched(server) -> Iterator[None]:
    """Nothing was written to or around the studies, and no training was begun."""

    def state() -> tuple[Any, ...]:
        root = server.studies.parents[1]  # in which the server's folder is all there is
        files = {f for f in root.rglob("*") if f.suffix != ".lock" and f.name not in ("server.log", "app.log", ".lock")}
        files |= set(Path("/tmp").glob("*beside*"))
        return files, requests.get(f"{server.url}/train/?all=true", timeout=30).json()

    before = state()
    yield
    after = state()
    assert {f for f in after[0] ^ before[0] if "__pycache__" not in f.parts} == set()
    assert after[1] == before[1]


def study_of(server: Server) -> str:
    return sorted(file.name.removesuffix(".nii.gz") for file in server.truth.iterdir())[0]


def ask(server: Server, method: str, path: str, **options: Any) -> requests.Response:
    return requests.request(method, server.url + path, timeout=60, **options)


def as_it_is(server: Server, method: str, path: str) -> int:
    """The status of a request whose path no library tidies up."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    connection.request(method, path)
    return connection.getresponse().status


def label_file(server: Server) -> dict[str, tuple[str, bytes]]:
    return {"label": ("label.nii.gz", (server.truth / f"{study_of(server)}.nii.gz").read_bytes())}


# Other pages, other names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", FOREIGN)
def test_the_page_of_another_server_gets_nothing(server, untouched, origin):
    requests_of_a_page = (
        ("GET", "/info/", {}),
        ("GET", "/overview", {}),
        ("GET", f"/datastore/image?image={study_of(server)}", {}),
        ("GET", "/auth/", {}),
        ("POST", "/train/cctr_acdc", {"json": AS_SLICER}),
        # what needs no preflight
        ("POST", "/train/cctr_acdc", {"data": json.dumps(AS_SLICER), "headers": {"Content-Type": "text/plain"}}),
        ("POST", f"/infer/cctr_acdc?image={study_of(server)}", {"data": {"params": "{}"}}),
        ("PUT", f"/datastore/label?image={study_of(server)}&tag=final", {"files": label_file(server)}),
        ("DELETE", f"/datastore/image?id={study_of(server)}", {}),
    )
    for method, path, options in requests_of_a_page:
        headers = {**options.pop("headers", {}), "Origin": origin}
        answer = ask(server, method, path, headers=headers, **options)
        assert answer.status_code == 403 and answer.json().keys() == {"detail"}, (method, path)
        assert "access-control-allow-origin" not in answer.headers
    wanted = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    answer = ask(server, "OPTIONS", "/train/cctr_acdc", headers={"Origin": origin, **wanted})
    assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers


def test_a_page_without_an_origin_is_known_by_what_its_browser_says(server, untouched):
    for site in ("cross-site", "same-site"):
        headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
        assert ask(server, "GET", "/info/", headers=headers).status_code == 403
        assert ask(server, "DELETE", "/train/", headers={**headers, "Sec-Fetch-Dest": "document"}).status_code == 403
        framed = {**headers, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}
        assert ask(server, "GET", "/", headers=framed).status_code == 403
        link = {**headers, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
        assert ask(server, "GET", "/", headers=link).status_code == 200
    assert ask(server, "GET", "/", headers={"Sec-Fetch-Site": "none"}).headers["X-Frame-Options"] == "SAMEORIGIN"


def test_its_own_page_may(server):
    port = server.url.rpartition(":")[2]
    for origin in (server.url, f"http://localhost:{port}"):
        assert ask(server, "GET", "/overview", headers={"Origin": origin}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.", "", "["])
def test_the_name_of_another_machine_is_refused(server, untouched, host):
    for method, path in (("GET", "/info/"), ("GET", "/"), ("POST", "/train/cctr_acdc"), ("OPTIONS", "/info/")):
        answer = ask(server, method, path, headers={"Host": host})
        assert answer.status_code == 400 and len(answer.content) < 100


@pytest.mark.parametrize(
    "head", ["Host: 127.0.0.1\r\nHost: evil.example", "Host: evil.example\r\nHost: 127.0.0.1", "X-None: 1"]
)
def test_two_names_or_none_are_refused(server, head):
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=30) as client:
        client.sendall(f"GET /info/ HTTP/1.1\r\n{head}\r\nConnection: close\r\n\r\n".encode())
        assert re.match(rb"HTTP/1.1 40[03] ", client.recv(4096))


# Options ----------------------------------------------------------------------------------------------------------


def payloads(mark: Path) -> list[Any]:
    """What would write a file where it became part of a config, in each of the forms that MONAI's configs have."""
    code = f"open({str(mark)!r}, 'w').close() or 1"
    target = {"_target_": "builtins.open", "file": str(mark), "mode": "w"}
    return [
        f"${code}",
        f"$@x; {code}",
        target,
        [f"${code}"],
        {"a": target},
        f"%{mark}",
        "@device",
        "1",
        None,
        True,
        1.5,
    ]


ROUTES = {
    "/train/cctr_acdc": (
        *("max_epochs", "val_split", "pretrained", "multi_gpu", "device", "gpus", "tracking", "tracking_uri", "run_id"),
        *("tracking_experiment_name", "tracking_run_name", "model_filename", "force_multi_gpu", "bundle_path", "model"),
        *("local_rank", "train#trainer#max_epochs", "train#dataset#data", "configs/train.json::seed", "_target_"),
        *("bundle_root", "initialize", "$import os", "client_id"),
    ),
    "/train/": ("max_epochs", "cctr_acdc", "nobody"),
    "/batch/infer/cctr_acdc": (
        "images",
        "label_tag",
        "model_filename",
        "device",
        "gpus",
        "max_workers",
        "image",
        "pred",
    ),
    "/activelearning/first": ("strategy", "label_tag", "labels", "max_epochs"),
}
HARMLESS = {  # what is right for these
    ("pretrained", "True"),
    ("multi_gpu", "True"),
    ("tracking", "None"),
    ("client_id", "1"),
    ("client_id", "None"),
    ("gpus", "1"),
    ("label_tag", "1"),
    ("label_tag", "None"),
    ("labels", "None"),
    ("cctr_acdc", "None"),
}


@pytest.mark.parametrize("route", ROUTES)
def test_options_are_no_code(server, untouched, route, tmp_path):
    mark = tmp_path / "executed"
    for key in ROUTES[route]:
        for value in payloads(mark):
            if (key, str(value)) in HARMLESS:
                continue
            bodies = [{key: value}, {**AS_SLICER, key: value}] if route.startswith("/train/c") else [{key: value}]
            bodies += [{"cctr_acdc": {key: value}}] if route == "/train/" and key == "max_epochs" else []
            for body in bodies:
                for content in ("application/json", "text/plain"):
                    answer = ask(server, "POST", route, data=json.dumps(body), headers={"Content-Type": content})
                    assert answer.status_code == 422, (route, body, answer.text)
                    assert key in answer.text or "params" in answer.text
    assert not mark.exists()


def test_options_of_a_segmentation_are_no_code(server, untouched, tmp_path):
    mark, image = tmp_path / "executed", study_of(server)
    keys = ("device", "model_filename", "result_extension", "result_dtype", "label_tag", "logging", "image", "label")
    keys += ("header_spacing", "image_path", "pred", "session", "save_label", "roi_size", "preprocessing#transforms")
    for key in keys:
        for value in payloads(mark):
            if (key, str(value)) in {*HARMLESS, ("save_label", "True"), ("result_extension", "None")}:
                continue
            data = {"params": json.dumps({key: value})}
            answer = ask(server, "POST", f"/infer/cctr_acdc?image={image}", files={"x": ("", b"")}, data=data)
            assert answer.status_code == 422 and key in answer.text, (key, value, answer.text)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_epochs": 0}, "max_epochs: 0 cannot be: .* greater than or equal to 1"),
        ({"max_epochs": 1.5}, "max_epochs: 1.5 cannot be"),
        ({"max_epochs": 1e9}, "max_epochs: 1000000000.0 cannot be"),
        ({"val_split": 1.5}, "val_split: 1.5 cannot be: .* less than or equal to 0.9"),
        ({"val_split": -1}, "val_split: -1 cannot be"),
        ({"val_split": float("nan")}, "val_split: NaN cannot be: .* finite"),
        ({"device": "toaster"}, 'device: "toaster" cannot be: give one of cpu'),
        ({"epochs": 3}, "epochs: there is no such option; leave it out. There are: .*max_epochs"),
    ],
)
def test_options_that_cannot_be_are_named(server, untouched, options, message):
    answer = ask(server, "POST", "/train/cctr_acdc", data=json.dumps(options))
    assert answer.status_code == 422 and re.search(message, answer.json()["detail"])


@pytest.mark.parametrize("body", ["[]", '"x"', "3", "{", "[" * 100_000, "\x00", '{"max_epochs": 1e999}'])
def test_options_that_are_no_object_are_refused(server, untouched, body):
    assert ask(server, "POST", "/train/cctr_acdc", data=body).status_code == 422


def test_what_is_not_there_is_named(server, untouched):
    for route in ("/train/nobody", "/batch/infer/nobody", "/scoring/nobody", "/activelearning/nobody"):
        answer = ask(server, "POST", route, json={})
        assert answer.status_code == 404 and '"nobody"' in answer.json()["detail"]
    answer = ask(server, "POST", "/infer/nobody?image=x", data={"params": "{}"})
    assert answer.status_code == 404 and "cctr_acdc" in answer.json()["detail"]


# Names and files --------------------------------------------------------------------------------------------------

PATHS = (
    "../beside",
    "..",
    "/tmp/beside",
    "a/b",
    "a\\b",
    ".hidden",
    "$x",
    "@x",
    "%x",
    "x\n",
    "x\x00",
    "x" * 300,
    "a#b",
    "",
)


@pytest.mark.parametrize("name", PATHS)
def test_names_stay_in_the_folder(server, untouched, name):
    image = {"file": ("new.nii.gz", (server.studies / f"{study_of(server)}.nii.gz").read_bytes())}
    known = {"image": study_of(server)}
    if name:
        assert ask(server, "PUT", "/datastore/image", params={"image": name}, files=image).status_code == 422
        answer = ask(
            server, "PUT", "/datastore/label", params={"image": name, "tag": "final"}, files=label_file(server)
        )
        assert answer.status_code == 422
        answer = ask(server, "POST", "/infer/cctr_acdc", params={"image": name}, data={"params": "{}"})
        assert answer.status_code == 422
        assert ask(server, "GET", "/datastore/image", params={"image": name}).status_code == 422
        assert ask(server, "DELETE", "/datastore/image", params={"id": name}).status_code == 422
        session = quote(name, safe="").replace(".", "%2e")
        for method in ("GET", "DELETE"):
            assert as_it_is(server, method, f"/session/{session}") in (404, 422)
    answer = ask(server, "PUT", "/datastore/label", params={**known, "tag": name}, files=label_file(server))
    assert answer.status_code == 422
    twice = [("tag", "final"), ("tag", name), ("image", study_of(server))]
    assert ask(server, "PUT", "/datastore/label", params=twice, files=label_file(server)).status_code == 422
    options = {"save_label": True, "label_tag": name}
    for path in ("/infer/cctr_acdc", "/batch/infer/cctr_acdc"):
        sent = {"json": options} if "batch" in path else {"data": {"params": json.dumps(options)}, "params": known}
        assert ask(server, "POST", path, **sent).status_code == 422


@pytest.mark.parametrize(
    "name",
    ["x.sh", "x.nii.gz.sh", "x.pt", "x.json", "x", "x.NII.GZ.exe", "x.nii.gz/..", "x.nii.gz/y.sh", "a.nii.gz\\x"],
)
def test_only_images_are_stored(server, untouched, name):
    image, label = ((server.studies / f"{study_of(server)}.nii.gz").read_bytes(), label_file(server)["label"][1])
    for path, key, content in (("image?image=new", "file", image), ("label?tag=final&image=new", "label", label)):
        path = f"/datastore/{path}".replace("=new", f"={study_of(server)}" if key == "label" else "=new")
        # the library makes the name of a path's last part; this is what an attacker sends
        body = b'--x\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n\r\n' % (
            key.encode(),
            name.encode(),
        )
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        answer = ask(server, "PUT", path, data=body + content + b"\r\n--x--\r\n", headers=headers)
        assert answer.status_code == 422, (path, name, answer.text)


@pytest.mark.parametrize("name", ["/tmp/beside.nii.gz", "../../beside.nii.gz", "C:\\labels\\beside.nii.gz"])
def test_of_a_clients_path_the_name_alone_counts(server, name):
    image = (server.studies / f"{study_of(server)}.nii.gz").read_bytes()
    assert ask(server, "PUT", "/datastore/image", files={"file": (name, image)}).json() == {"image": "beside"}
    found = [f.relative_to(server.studies) for f in server.studies.parents[1].rglob("*beside*")]
    assert found == [Path("beside.nii.gz")] and not Path("/tmp/beside.nii.gz").exists()
    remove(server, "beside")


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh", gzip.compress(b"#!/bin/sh", mtime=0), b"\x1f\x8b"])
def test_an_image_that_is_none_is_not_stored(server, untouched, content):
    answer = ask(server, "PUT", "/datastore/image", files={"file": ("new.nii.gz", content)})
    assert answer.status_code == 422 and "the image new" in answer.json()["detail"], answer.text


def test_what_replaces_weights_or_unpacks_is_not_served(server, untouched):
    weights = {"file": ("model.pt", b"x")}
    assert ask(server, "PUT", "/model/cctr_acdc", files=weights).status_code == 405
    assert ask(server, "DELETE", "/model/cctr_acdc").status_code == 405
    for method, path in (("POST", "/reload"), ("PUT", "/datastore/"), ("DELETE", "/datastore/"), ("GET", "/docs")):
        assert ask(server, method, path, params={"id": study_of(server)}).status_code in (404, 405)
    assert ask(server, "POST", "/infer/wsi/cctr_acdc").status_code in (404, 405)
    answer = ask(server, "PUT", "/session/?uncompress=true", files={"files": ("x.nii.gz", b"x")})
    assert answer.status_code == 422 and "archives are not unpacked" in answer.json()["detail"]


def test_a_study_is_added_by_its_whole_name_and_never_over_another(server):
    content = (server.studies / f"{study_of(server)}.nii.gz").read_bytes()
    for name in ("scan.1", "scan.2"):
        answer = ask(server, "PUT", "/datastore/image", files={"file": (f"{name}.nii.gz", content)})
        assert answer.json() == {"image": name} and (server.studies / f"{name}.nii.gz").read_bytes() == content
    answer = ask(server, "PUT", "/datastore/image", files={"file": ("scan.1.nii.gz", content)})
    assert answer.status_code == 409 and "there is a study scan.1" in answer.json()["detail"]
    for name in ("scan.1", "scan.2"):
        remove(server, name)


def remove(server: Server, study: str) -> None:
    """Remove a study, and wait until the server has noticed."""
    assert ask(server, "DELETE", "/datastore/image", params={"id": study}).ok
    deadline = time.monotonic() + 30
    while study in ask(server, "GET", "/datastore/?output=all").json()["objects"]:
        assert time.monotonic() < deadline
        time.sleep(0.2)


# Labels -----------------------------------------------------------------------------------------------------------


def edited(values: np.ndarray, affine: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    if kind == "moved":
        affine = affine + np.eye(4, k=3) * 5
    elif kind == "mirrored":
        affine = affine @ np.diag([-1, 1, 1, 1])
    elif kind == "cropped":
        values = values[1:]
    elif kind == "other classes":
        values = np.where(values == 3, 7, values)
    elif kind == "negative":
        values = -values
    elif kind == "no integers":
        values = values + 0.4
    return values, affine


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("moved", "corners are 5 mm apart"),
        ("mirrored", "corners are"),
        ("cropped", "has the shape"),
        ("other classes", r"has the label values 7.*outside 0\.\.3"),
        ("negative", r"outside 0\.\.3"),
        ("no integers", "not integers|not classes"),
    ],
)
def test_a_label_that_is_not_its_images_is_refused(server, untouched, kind, message, tmp_path):
    source = nib.load(server.truth / f"{study_of(server)}.nii.gz")
    values, affine = edited(np.asarray(source.dataobj).astype(np.float32), source.affine, kind)
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "label.nii.gz")
    files = {"label": ("label.nii.gz", (tmp_path / "label.nii.gz").read_bytes())}
    answer = ask(server, "PUT", f"/datastore/label?image={study_of(server)}&tag=final", files=files)
    assert answer.status_code == 422 and re.search(message, answer.json()["detail"]), answer.text
    assert f"the label of {study_of(server)}" in answer.json()["detail"] and "Nothing was saved" in answer.text


def test_a_label_of_nothing_is_refused(server, untouched):
    answer = ask(server, "PUT", "/datastore/label?image=nobody&tag=final", files=label_file(server))
    assert answer.status_code == 404 and "there is no study 'nobody'" in answer.json()["detail"]


@pytest.mark.parametrize("notes", ["[]", "{", '{"strategy": "x"}', '{"path": "/tmp"}', '"x"', "[" * 100_000])
def test_notes_are_an_object_without_the_servers_own(server, untouched, notes):
    image = study_of(server)
    for path, key in (
        (f"/datastore/label?image={image}&tag=final", "params"),
        (f"/datastore/image/info?image={image}", "info"),
    ):
        files = label_file(server) if key == "params" else {"x": ("x.nii.gz", b"")}
        answer = ask(server, "PUT", path, files=files, data={key: notes})
        assert answer.status_code == 422 and key in answer.json()["detail"], answer.text


# Pages ------------------------------------------------------------------------------------------------------------


def test_an_untrained_model_draws_nothing(server, untouched):
    answer = ask(server, "POST", f"/infer/cctr_acdc?image={study_of(server)}", data={"params": "{}"})
    assert answer.status_code == 409
    assert answer.json()["detail"].startswith("cctr_acdc is untrained") and "train first" in answer.json()["detail"]


def test_ohif_says_what_it_needs(server):
    for path in ("/ohif/", "/ohif", "/ohif/viewer", "/ohif/app-config.js", "/proxy/dicom/qido/studies"):
        answer = ask(server, "GET", path)
        assert answer.status_code == 404 and "STUDIES=http://127.0.0.1:8042/dicom-web" in answer.text


def test_the_page_asks_for_nothing_from_elsewhere(server):
    answer = ask(server, "GET", "/")
    addresses = set(re.findall(r"(?:https?:)?//[a-z][\w.-]+\.[a-z]+", answer.text)) - {"http://www.w3.org"}
    assert answer.headers["content-type"].startswith("text/html") and not addresses
    nonce = re.search(r"script-src 'nonce-([^']+)'", answer.headers["content-security-policy"])[1]
    assert (
        answer.text.count(f'nonce="{nonce}"') == 2 and "default-src 'none'" in answer.headers["content-security-policy"]
    )
    assert nonce not in ask(server, "GET", "/").text
    for link in re.findall(r'href="(/[^"]*)"', answer.text):
        assert ask(server, "GET", link).ok, link
    assert ask(server, "GET", "/favicon.ico").ok


def test_the_overview_counts_studies_and_names_the_next(server):
    content = ask(server, "GET", "/overview").json()
    names = sorted(file.name.removesuffix(".nii.gz") for file in server.studies.glob("*.nii.gz"))
    assert content["studies"] == {"folder": str(server.studies), "total": len(names), "annotated": 0}
    assert content["next"] == {"study": names[0], "strategy": "first"} and content["training"] == {}
    (model,) = content["models"]
    assert (model["name"], model["trained"], [label["name"] for label in model["labels"]]) == (
        "cctr_acdc",
        False,
        ["RV", "MYO", "LV"],
    )


# Starting and stopping --------------------------------------------------------------------------------------------


def test_with_a_token_nobody_gets_in_without_it(tmp_path):
    pytest.importorskip("monailabel", reason="MONAI Label has an environment of its own: make test-label")
    access = Access(hosts=("labpc",), origins=("https://viewer.example.org",), token="a token of one's own")
    with running(tmp_path, ["cctr_acdc"], access, WITHOUT_SCORING) as server:
        routes = ask(server, "GET", "/openapi.json", headers={"Authorization": f"Bearer {access.token}"}).json()[
            "paths"
        ]
        assert len(routes) > 20
        for path, methods in routes.items():
            if path not in ("/auth/", "/auth/token"):
                for method in methods:
                    answer = ask(server, method, path)
                    assert answer.status_code == 401 and "Basic" in answer.headers["www-authenticate"], path
        for path in ("/", "/openapi.json", "/nothing", "/auth/token/valid", "//auth/", "/auth/../info/"):
            assert ask(server, "GET", path).status_code == 401, path
        basic = base64.b64encode(f"anyone:{access.token}".encode()).decode()
        for header in (f"Bearer {access.token}", f"Basic {basic}"):
            assert ask(server, "GET", "/info/", headers={"Authorization": header, "Host": "labpc:1"}).ok
        assert ask(server, "GET", "/info/", headers={"Authorization": "Bearer another"}).status_code == 401

        # as MONAI Label's client does for 3D Slicer
        assert server.client.auth_enabled()
        with pytest.raises(Exception, match="the password is the token") as refused:
            server.client.auth_token("anyone", "another")
        assert refused.value.status_code == 401
        server.client.update_auth(server.client.auth_token("anyone", access.token))
        assert server.client.auth_valid_token() and "cctr_acdc" in server.client.info()["models"]

        # the page that was named reads answers, with the token alone
        wanted = {"Origin": access.origins[0], "Access-Control-Request-Method": "POST"}
        answer = ask(server, "OPTIONS", "/train/cctr_acdc", headers=wanted)
        assert answer.ok and answer.headers["access-control-allow-origin"] == access.origins[0]
        assert ask(server, "GET", "/info/", headers={"Origin": access.origins[0]}).status_code == 401
        assert ask(server, "GET", "/info/", headers={"Origin": FOREIGN[0]}).status_code == 403


@pytest.mark.parametrize("signal", ["terminate", "kill"])
def test_a_server_that_stops_takes_its_trainings_along_and_tells_of_them(signal, tmp_path):
    pytest.importorskip("monailabel", reason="MONAI Label has an environment of its own: make test-label")
    psutil = pytest.importorskip("psutil")
    with running(tmp_path, ["cctr_acdc"], more=WITHOUT_SCORING) as server:
        for study in sorted(file.name.removesuffix(".nii.gz") for file in server.truth.iterdir())[:2]:
            server.client.save_label(study, str(server.truth / f"{study}.nii.gz"))
        server.client.train_start("cctr_acdc", {**AS_SLICER, "max_epochs": 10_000, "val_split": 0.0})
        deadline = time.monotonic() + 240
        while "percent" not in (shown := ask(server, "GET", "/overview").json()["training"]):
            assert time.monotonic() < deadline and shown["status"] in ("SUBMITTED", "RUNNING"), shown
            time.sleep(0.5)
        children = psutil.Process(server.process.pid).children(recursive=True)
        assert children
        getattr(server.process, signal)()
        server.process.wait(60)
        _, alive = psutil.wait_procs(children, timeout=30)
        assert not alive
    with running(tmp_path, ["cctr_acdc"], more=WITHOUT_SCORING) as server:
        status = server.client.train_status()
        assert status["status"] == "ERROR" and status["request"]["max_epochs"] == 10_000
        assert "The training of cctr_acdc" in status["details"][0] and "was cut before it ended" in status["details"][0]
        shown = ask(server, "GET", "/overview").json()["training"]
        assert shown["status"] == "ERROR" and shown["lines"] == status["details"]

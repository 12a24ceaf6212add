# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The server: the routes of MONAI Label that bundles need, with checks of access and options, and a page.

MONAI Label's server answers requests from the pages of any server, and has routes that replace weights, unpack archives
and reload code. These routes are left out.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, unquote

from fastapi import APIRouter, Depends, FastAPI, Form, HTTPException, Request, UploadFile
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse
from monailabel.config import settings
from monailabel.endpoints import activelearning, batch_infer, datastore, infer, info, model, ohif, proxy, scoring
from monailabel.endpoints import session as sessions
from monailabel.endpoints import train as training
from monailabel.interfaces.exception import MONAILabelException
from monailabel.interfaces.utils.app import app_instance

from .access import LOGIN, Access
from .layers import layers
from .options import BatchInference, Sample, Scoring, Training, ending_of, json_options, name_of, names_and_files
from .tasks import SERVER, TrainingRecord, end_children

__all__ = ["app"]

ACCESS = Access.from_environment()
NO_DICOM = (
    "OHIF shows DICOM images of a DICOMweb server; this label server serves a folder of NIfTI files. Annotate these "
    "in 3D Slicer, or start the label server with the address of a DICOMweb server, such as Orthanc's, in the place of "
    "the folder: make label-server STUDIES=http://127.0.0.1:8042/dicom-web"
)
MOST_LINES = 10_000  # number of lines of the log


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Load the app, and stop its processes at the end."""
    os.environ[SERVER] = str(os.getpid())
    instance = app_instance()
    instance.server_mode(True)
    instance.on_init_complete()
    yield
    end_children()


app = FastAPI(title="Label server", docs_url=None, redoc_url=None, lifespan=lifespan, middleware=layers(ACCESS))
own = APIRouter()


def _serves_folder() -> bool:
    return "://" not in settings.MONAI_LABEL_STUDIES


@app.exception_handler(MONAILabelException)
async def known_error(_: Request, error: MONAILabelException) -> JSONResponse:
    """Answer with the message of an error of MONAI Label, which would send none."""
    return JSONResponse({"detail": error.msg}, 400)


# Pages ------------------------------------------------------------------------------------------------------------


@own.get("/", include_in_schema=False)
def page() -> HTMLResponse:
    """The page of the server, a single file that requests only :func:`overview`."""
    return _html(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))


@own.get("/overview")
def overview() -> dict[str, Any]:
    """Content of the page, see :meth:`~few_label_server.app.BundleApp.overview`."""
    return app_instance().overview()


@own.get("/favicon.ico", include_in_schema=False)
def favicon() -> FileResponse:
    return FileResponse(Path(ohif.__file__).with_name("static") / "favicon.ico", media_type="image/x-icon")


@own.get("/logs/")
def logs(lines: int = 300) -> PlainTextResponse:
    """The last lines of the log as text, since MONAI Label's page for it loads scripts from other servers."""
    with Path(settings.MONAI_LABEL_APP_DIR, "logs", "app.log").open(encoding="utf-8", errors="replace") as file:
        return PlainTextResponse("".join(deque(file, max(1, min(lines, MOST_LINES)))))


def _html(content: str, status: int = 200) -> HTMLResponse:
    """A page that can use only its own script and style."""
    nonce = secrets.token_urlsafe(16)
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
        "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(content.replace("{{nonce}}", nonce), status, {"Content-Security-Policy": policy})


def no_dicom() -> PlainTextResponse:
    """Answer to requests of OHIF if a folder is served."""
    return PlainTextResponse(NO_DICOM, 404)


def viewer(path: str, request: Request) -> FileResponse:
    """A file of OHIF, which is told the address of this server; it would take port 8000 for that."""
    answer = ohif.get_ohif(path)
    answer.set_cookie("MONAILABEL_SERVER_URL", quote(str(request.base_url), safe=""), path="/ohif", samesite="strict")
    return answer


def within_dicomweb(request: Request) -> None:
    """Dependency of the requests that are handed on to the DICOMweb server.

    They may not leave its DICOMweb address, since other addresses of the same server delete images or stop it. The
    client's token and cookies are not passed on.

    Raises:
        HTTPException: 422 for a path with ".." or a backslash.
    """
    path = request.path_params["path"]
    while path != (decoded := unquote(path)):  # encoded, maybe many times
        path = decoded
    segments = {segment.split(";")[0] for segment in path.split("/")}  # some servers drop what is behind ";"
    if "\\" in path or {".", ".."} & segments:
        raise HTTPException(
            422, f"the path {request.path_params['path'][:80]!r} leaves the DICOMweb address; correct it."
        )
    own = (b"authorization", b"cookie")
    request.scope["headers"] = [(name, value) for name, value in request.scope["headers"] if name.lower() not in own]
    request.__dict__.pop("_headers", None)


# A token for clients that log in with user name and password, as those of MONAI Label in 3D Slicer do -----------


@own.get(LOGIN[0])
def login_wanted() -> dict[str, Any]:
    """Whether a client has to log in."""
    return {"enabled": bool(ACCESS.token), "client_id": "", "realm": ""}


@own.post(LOGIN[1])
def login(password: Annotated[str, Form()] = "") -> dict[str, Any]:
    """Return the token to clients that give it as the password, with any user name."""
    if ACCESS.token and not ACCESS.is_token(password):
        raise HTTPException(401, "the password is the token that the label server printed when it started.")
    return {"access_token": ACCESS.token or None, "token_type": "Bearer" if ACCESS.token else None}


@own.get("/auth/token/valid")
def login_valid() -> dict[str, Any]:
    """Reached only with the right token."""
    return {"username": "annotator"}


# MONAI Label's routes ---------------------------------------------------------------------------------------------


@own.put("/datastore/image", dependencies=[Depends(names_and_files)])
# MONAI Label would name both "a.1.nii.gz" and "a.2.nii.gz" "a"
def add_image(file: UploadFile, image: str = "", params: Annotated[str, Form()] = "{}") -> dict[str, str]:
    """Add a study, named after the file if no name is given."""
    store, ending = app_instance().datastore(), ending_of(name_of(file))
    name = image or name_of(file).removesuffix(ending)
    with tempfile.TemporaryDirectory() as folder:
        received = Path(folder, f"image{ending}")
        with received.open("wb") as target:
            shutil.copyfileobj(file.file, target)
        return {"image": store.add_image(name, str(received), json.loads(params or "{}"))}


@own.delete("/train/")
def stop_training() -> dict[str, Any] | None:
    """Stop the running training; at its next start the server does not report it as interrupted."""
    stopped = training.stop()
    if stopped:
        TrainingRecord(settings.MONAI_LABEL_APP_DIR).write(status="STOPPED")
    return stopped


def _names(kind: str) -> Callable[[], list[str]]:
    """Names of models, methods or strategies, as a function, since the app is loaded after the routes."""
    return lambda: list(getattr(app_instance(), f"_{kind}"))


def _add(router: APIRouter, *checks: Any, without: tuple[str, ...] = ()) -> None:
    """Include a router of MONAI Label, with checks before each route.

    Args:
        router: of MONAI Label.
        *checks: dependencies.
        without: routes that are left out, such as "PUT /model/{model}".
    """
    router.routes[:] = [
        route for route in router.routes if not {f"{method} {route.path}" for method in route.methods} & set(without)
    ]
    app.include_router(router, dependencies=[Depends(check) for check in checks])


app.include_router(own)
_add(info.router)
_add(model.router, without=("PUT /model/{model}", "DELETE /model/{model}"))
_add(infer.router, names_and_files)
_add(batch_infer.router, json_options(BatchInference, _names("infers")))
_add(training.router, json_options(Training, _names("trainers")))
_add(scoring.router, json_options(Scoring, _names("scoring_methods")))
_add(activelearning.router, json_options(Sample, _names("strategies")))
_add(datastore.router, names_and_files, without=("PUT /datastore/", "DELETE /datastore/"))
_add(sessions.router, names_and_files)
if _serves_folder():
    for path in ("/ohif", "/ohif/{path:path}", "/proxy/{path:path}"):
        app.add_api_route(path, no_dicom, methods=["GET", "POST"], include_in_schema=False)
else:
    app.add_api_route("/ohif/{path:path}", viewer, methods=["GET"], include_in_schema=False)
    _add(proxy.router, within_dicomweb)

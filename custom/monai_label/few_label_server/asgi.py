# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""The server: MONAI Label's routes that bundles need, behind checks of who asks and for what, and a page.

MONAI Label's own server answers the pages of all other servers, stops where its settings name some, and has routes that
replace weights, unpack archives and reload code; these are left away.
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
MOST_LINES = 10_000  # of the log


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Load the app; at the end, end what it has started."""
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
    """What MONAI Label refuses: its message, where it would answer with none."""
    return JSONResponse({"detail": error.msg}, 400)


# Pages ------------------------------------------------------------------------------------------------------------


@own.get("/", include_in_schema=False)
def page() -> HTMLResponse:
    """The server's page: one file, which asks for nothing but :func:`overview`."""
    return _html(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))


@own.get("/overview")
def overview() -> dict[str, Any]:
    """What the page shows, see :meth:`~few_label_server.app.BundleApp.overview`."""
    return app_instance().overview()


@own.get("/favicon.ico", include_in_schema=False)
def favicon() -> FileResponse:
    return FileResponse(Path(ohif.__file__).with_name("static") / "favicon.ico", media_type="image/x-icon")


@own.get("/logs/")
def logs(lines: int = 300) -> PlainTextResponse:
    """The last lines of the server's log, as text: MONAI Label's page of them takes its scripts from elsewhere."""
    with Path(settings.MONAI_LABEL_APP_DIR, "logs", "app.log").open(encoding="utf-8", errors="replace") as file:
        return PlainTextResponse("".join(deque(file, max(1, min(lines, MOST_LINES)))))


def _html(content: str, status: int = 200) -> HTMLResponse:
    """A page that can run its own script and style, and nothing from elsewhere."""
    nonce = secrets.token_urlsafe(16)
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
        "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(content.replace("{{nonce}}", nonce), status, {"Content-Security-Policy": policy})


def no_dicom() -> PlainTextResponse:
    """What OHIF needs, where a folder is served."""
    return PlainTextResponse(NO_DICOM, 404)


# A token for clients that log in: MONAI Label's, and so 3D Slicer's, ask with a user name and a password -----------


@own.get(LOGIN[0])
def login_wanted() -> dict[str, Any]:
    """Whether a client has to log in."""
    return {"enabled": bool(ACCESS.token), "client_id": "", "realm": ""}


@own.post(LOGIN[1])
def login(password: Annotated[str, Form()] = "") -> dict[str, Any]:
    """The token, for who gives it as a password with any user name."""
    if ACCESS.token and not ACCESS.is_token(password):
        raise HTTPException(401, "the password is the token that the label server printed when it started.")
    return {"access_token": ACCESS.token or None, "token_type": "Bearer" if ACCESS.token else None}


@own.get("/auth/token/valid")
def login_valid() -> dict[str, Any]:
    """Reached with the right token alone."""
    return {"username": "annotator"}


# MONAI Label's routes ---------------------------------------------------------------------------------------------


@own.put("/datastore/image", dependencies=[Depends(names_and_files)])
def add_image(
    file: UploadFile, image: str = "", params: Annotated[str, Form()] = "{}"
) -> dict[str, str]:  # MONAI Label's names "a.1.nii.gz" and "a.2.nii.gz" both "a"
    """Add a study, named after the file where no name is given."""
    store, ending = app_instance().datastore(), ending_of(name_of(file))
    name = image or name_of(file).removesuffix(ending)
    with tempfile.TemporaryDirectory() as folder:
        received = Path(folder, f"image{ending}")
        with received.open("wb") as target:
            shutil.copyfileobj(file.file, target)
        return {"image": store.add_image(name, str(received), json.loads(params or "{}"))}


@own.delete("/train/")
def stop_training() -> dict[str, Any] | None:
    """Stop the training that runs; the next start of the server does not take it for one that was cut."""
    stopped = training.stop()
    if stopped:
        TrainingRecord(settings.MONAI_LABEL_APP_DIR).write(status="STOPPED")
    return stopped


def _names(kind: str) -> Callable[[], list[str]]:
    """The names of what the app has, which is not there yet when routes are made."""
    return lambda: list(getattr(app_instance(), f"_{kind}"))


def _add(router: APIRouter, *checks: Any, without: tuple[str, ...] = ()) -> None:
    """Serve a router of MONAI Label's, with checks before each route.

    Args:
        router: MONAI Label's.
        *checks: dependencies.
        without: routes that are left away, as "PUT /model/{model}".
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
    _add(ohif.router)
    _add(proxy.router)

# Copyright 2026 The few-label segmentation bundles authors
# SPDX-License-Identifier: Apache-2.0
"""What the configs of every bundle keep to, without running any."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path

import jsonschema
import pytest
from commands import BUNDLES, ROOT
from monai.bundle import ConfigParser

import custom
from custom.cli.bundles import method_values

# method and data set of every bundle, its workflows with the configs of each, and its overlays with their workflow
SOURCES = {
    f"{method}_{file.stem}": (method, json.loads(file.read_text()))
    for file in sorted((BUNDLES / "sources" / "data").glob("*.json"))
    for method in json.loads(file.read_text())["methods"]
}
VALUES = {bundle: method_values(BUNDLES, method) for bundle, (method, _) in SOURCES.items()}
WORKFLOWS = {bundle: values["workflows"] for bundle, values in VALUES.items()}
OVERLAYS = {
    bundle: {
        **values["overlays"],
        **{f"variants/{name}.json": "training" for name in SOURCES[bundle][1].get("variants", {})},
    }
    for bundle, values in VALUES.items()
}
# those of CCT-R as published, given after variants/cctr.json
OF_CCTR = (
    *("cctr_multi_gpu", "cross_teaching", "contrast", "no_reps", "no_rsl"),
    *("report_positives", "paper_train", "swin_t"),
)
OVERLAID = [
    *((b, overlay, workflow) for b, overlays in OVERLAYS.items() for overlay, workflow in overlays.items()),
    ("cctr_synapse", "variants/eight_organs.json", "atlas_segmentation"),
]
CCTR_TRAINING = ["train.json", "variants/cctr.json"]
CCTR_BUNDLES = [bundle for bundle, (method, _) in SOURCES.items() if method == "cctr"]
BOTH_SWIN_T = ("variants/both_networks.json", "variants/swin_t.json")
# beyond those of the config
BRING_KEYS = (
    "variants/paper_pretrain.json",
    "variants/paper_train.json",
    "federated.json",
    "studies.json",
    "variants/cctr.json",
    "variants/cctr_multi_gpu.json",
    "variants/report_positives.json",
    "variants/both_networks.json",
    "variants/swin_t.json",
)
# of packages that are called otherwise, or that come with another one
DISTRIBUTIONS = {"ignite": "pytorch-ignite", "PIL": "matplotlib", "markupsafe": "jinja2"}
# read by programs around the bundle, by name: see monai.bundle.properties
PROPERTIES = {"dataset_dir", "output_dir", "initialize"}
# an overlay has them for the sake of another data set
OF_THE_DATA = {
    "warped_share",
    "labeled_per_batch",
    "propagation_weight",
    "crop_size",
    "consistency_weight",
    "train#augment#mirror",
    "train#augment#rotation",
    "train#squared_dice",
    "ejection_fraction_class",
}
OF_OTHER_DATA = {"split_dir", "labeled_cases", "header_spacing"}  # which the studies of MONAI Label take the place of

RUNS = [
    *((b, files) for b, workflows in WORKFLOWS.items() for files in workflows.values()),
    *((b, [*WORKFLOWS[b][w], overlay]) for b, overlay, w in OVERLAID),
    *((b, [*CCTR_TRAINING, f"variants/{v}.json"]) for b in CCTR_BUNDLES for v in OF_CCTR if v != "cctr_multi_gpu"),
    *((b, [*CCTR_TRAINING, "multi_gpu_train.json", "variants/cctr_multi_gpu.json"]) for b in CCTR_BUNDLES),
    *((b, ["inference.json", *BOTH_SWIN_T]) for b in CCTR_BUNDLES),
]


def configs(bundle: str):
    return BUNDLES / bundle / "configs"


def merged(bundle: str, files: list[str]) -> dict:
    return ConfigParser.load_config_files([str(configs(bundle) / f) for f in files])


def test_every_bundle_is_here():
    folders = {folder.name for folder in BUNDLES.iterdir() if folder.is_dir()} - {"sources"}
    assert folders == set(WORKFLOWS) == set(OVERLAYS)


@pytest.mark.parametrize("bundle", WORKFLOWS)
def test_every_config_belongs_to_a_workflow(bundle):
    found = {str(f.relative_to(configs(bundle))) for f in configs(bundle).rglob("*.json")} - {
        "metadata.json",
        "tracking.json",
    }
    of_cctr = {f"variants/{name}.json" for name in OF_CCTR} if bundle in CCTR_BUNDLES else set()
    assert found == set(OVERLAYS[bundle]) | of_cctr | {f for files in WORKFLOWS[bundle].values() for f in files}


@pytest.mark.parametrize(("bundle", "files"), RUNS, ids=str)
def test_every_key_is_read_and_every_reference_has_its_key(bundle, files):
    config = merged(bundle, files)
    read = set(re.findall(r"@([A-Za-z_]+)", json.dumps(config)))
    unread = set(config) - {"imports", "run"} - set(WORKFLOWS[bundle]) - PROPERTIES - read
    assert unread <= (OF_OTHER_DATA if "studies.json" in files else set())
    assert read - set(config) == set()


@pytest.mark.parametrize(
    ("bundle", "overlay", "files"),
    [
        *((bundle, overlay, WORKFLOWS[bundle][workflow]) for bundle, overlay, workflow in OVERLAID),
        *((b, f"variants/{v}.json", CCTR_TRAINING) for b in CCTR_BUNDLES for v in OF_CCTR if v != "cctr_multi_gpu"),
        *((b, "variants/cctr_multi_gpu.json", [*CCTR_TRAINING, "multi_gpu_train.json"]) for b in CCTR_BUNDLES),
    ],
    ids=str,
)
def test_overlays_hold_differences_only(bundle, overlay, files):
    base = merged(bundle, files)
    for key, value in json.loads((configs(bundle) / overlay).read_text()).items():
        node = base
        *path, last = key.lstrip("+").split("#")
        for part in path:
            node = node[part]
        assert last in node or overlay.startswith("multi_gpu") or overlay in BRING_KEYS, key
        assert last not in node or node[last] != value or key in OF_THE_DATA, key


@pytest.mark.parametrize("bundle", WORKFLOWS)
def test_tracking_names_the_bundle_and_settings_that_there_are(bundle):
    tracking = json.loads((configs(bundle) / "tracking.json").read_text())["configs"]
    assert tracking["experiment_name"] == bundle
    read = set(re.findall(r"@([A-Za-z_]+)", json.dumps(tracking)))
    for files in WORKFLOWS[bundle].values():
        config = merged(bundle, files)
        if "train" in config:
            assert read - set(config) - set(tracking) == set(), files


@pytest.mark.parametrize("bundle", WORKFLOWS)
def test_handlers_are_components(bundle):
    """MONAI Label looks through the list as it stands in the file."""
    assert all("_target_" in handler for handler in merged(bundle, ["train.json"])["train"]["handlers"])


@pytest.mark.parametrize("bundle", WORKFLOWS)
def test_a_training_is_not_resumed_with_other_annotations_or_files(bundle):
    """Those of all validation cases, and not of the share of a process, which differs between processes."""
    train = merged(bundle, ["train.json"])["train"]
    compared = train["resume_settings"]
    assert "validation_cases(" in train["trained_on"]["validation"]
    assert (
        "@train#dataset.data" in compared["annotations"] and "@train#trained_on#validation" in compared["annotations"]
    )
    assert compared["file_contents"] == {
        "_target_": "custom.handlers.file_contents",
        "cases": "$@train#dataset.data",
        "validation": "@train#trained_on#validation",
    }


@pytest.mark.parametrize("bundle", WORKFLOWS)
def test_configs_hold_no_absolute_path_and_no_handler_number(bundle):
    for file in configs(bundle).rglob("*.json"):
        if file.name != "metadata.json":
            assert not re.search(r'"/|handlers#[0-9]', file.read_text()), file


@pytest.mark.parametrize("bundle", WORKFLOWS)
def test_metadata_follow_the_schema(bundle):
    schema = Path(__file__).with_name("meta_schema_20240725.json")
    about = json.loads((configs(bundle) / "metadata.json").read_text())
    jsonschema.validate(about, json.loads(schema.read_text()))
    assert about["schema"].endswith(schema.name)


@pytest.mark.parametrize("bundle", WORKFLOWS)
def test_metadata_agree_with_the_project(bundle):
    about = json.loads((configs(bundle) / "metadata.json").read_text())
    assert about["name"] == bundle
    assert about["version"] == custom.__version__ and about["version"] in about["changelog"]
    assert f"## {custom.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    own = {"monai": about["monai_version"], "numpy": about["numpy_version"]}
    assert {**own, **about["required_packages_version"]} == pins((ROOT / "requirements.txt").read_text().splitlines())
    assert "optional_packages_version" not in about  # MONAI 1.6 renames it at every command, and says so
    classes = about["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert list(classes.values()) == ["background", *merged(bundle, ["train.json"])["class_names"]["default"]]


def pins(requirements: list[str]) -> dict[str, str]:
    """Version of each package that has one, for current versions of Python."""
    lines = [line for line in requirements if "==" in line and 'python_version < "3.11"' not in line]
    return dict(line.partition(";")[0].strip().split("==") for line in lines)


def test_the_packages_that_the_code_imports_are_required_and_no_others():
    # the app of MONAI Label has an environment of its own
    files = [file for file in (ROOT / "custom").rglob("*.py") if "few_label_server" not in file.parts]
    found = {package for file in files for package in imports(file)} - {*sys.stdlib_module_names, "custom"}
    required = {"torch", *pins((ROOT / "requirements.txt").read_text().splitlines())}
    of_monai = {"einops", "scikit-image", "PyYAML"}  # SwinUNETR, KeepLargestConnectedComponent, and its configs
    assert {DISTRIBUTIONS.get(package, package) for package in found} | of_monai == required


def test_no_part_of_a_text_is_an_f_string_without_need():
    """Ruff's F541 overlooks those beside a part with a placeholder; they are traces of texts that were re-wrapped."""
    alone = re.compile(r"""^ *f(["'])[^{"']*\1[,)]*$""", re.MULTILINE)
    files = [file for folder in ("custom", "benchmarks", "examples", "tests") for file in (ROOT / folder).rglob("*.py")]
    found = {file.name: alone.search(file.read_text(encoding="utf-8")) for file in files}
    assert {name: match[0].strip() for name, match in found.items() if match} == {}
    assert alone.search('    f"frames, or "\n')


def imports(file: Path) -> set[str]:
    """The packages that a module imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("bundle", WORKFLOWS)
def test_inference_repeats_the_network_and_the_preprocessing_of_training(bundle):
    train, inference = (merged(bundle, [f"{name}.json"]) for name in ("train", "inference"))
    for key in (
        "network_def",
        "network",
        "slice_direction",
        "features",
        "norm",
        "turned_copies",
    ):
        assert inference.get(key) == train.get(key), key
    evaluating = json.loads((configs(bundle) / "evaluate.json").read_text())
    for key in {"spacing", "slice_size", "crop_size", "intensity_window"} & set(train):
        default = re.search(r", (\[[^@]*\]|None|[\d.]+)\)$", train[key])[1]
        assert inference[key] == f"$custom.networks.trained_with(@checkpoint, '{key}', {default})" == evaluating[key]
    trained = "$custom.networks.trained_with(@checkpoint, 'largest_component', True)"
    assert inference["largest_component"] == trained == evaluating["largest_component"]
    assert "largest_component=@largest_component" in str(train["train"]["handlers"])  # is written beside the weights
    assert inference["class_names"]["default"] == train["class_names"]
    assert inference["intensities"] == train["train"]["intensities"]
    assert inference["inferer"] == train["validate"]["inferer"]
    decided = [t for t in inference["postprocessing"]["transforms"] if t["_target_"] != "custom.data.SaveVolumed"]
    same = [{k: "@preprocessing" if k == "transform" else v for k, v in t.items()} for t in of_training(train)]
    assert decided == same
    steps = [t for t in train["validate"]["preprocessing"]["transforms"] if "@" in t or t.get("keys") != "label"]
    same = ["@intensities" if t == "@train#intensities" else {**t, "keys": "image"} for t in steps]
    assert inference["preprocessing"]["transforms"] == same


def of_training(train: dict) -> list[dict]:
    """How a validation decides on the segmentation."""
    return train["validate"]["postprocessing"]["transforms"]


@pytest.mark.parametrize("bundle", WORKFLOWS)
def test_a_network_is_asked_about_what_training_shows_it(bundle):
    """The same part of a slice in the same pixels: beyond it a network that never saw that finds organs anywhere."""
    train = merged(bundle, ["train.json"])
    shown, asked = (train[part]["preprocessing"]["transforms"] for part in ("train", "validate"))
    shown = [
        t for t in shown if isinstance(t, str) or not t["_target_"].endswith("WarpOntod")
    ]  # of labeled cases alone
    assert [of_image(t) for t in asked if of_image(t)] == [of_image(t) for t in shown if of_image(t)]


def of_image(step: str | dict) -> str | dict | None:
    """What a step of the preprocessing does to the image."""
    if isinstance(step, str) or "image" not in (keys := step.get("keys", [])):
        return step if isinstance(step, str) else None
    mode = {"mode": step["mode"][0] if isinstance(keys, list) else step["mode"]} if "mode" in step else {}
    return {**{k: v for k, v in step.items() if k != "allow_missing_keys"}, "keys": "image", **mode}


@pytest.mark.parametrize("more", [[], ["variants/swin_t.json"]], ids=str)
@pytest.mark.parametrize("bundle", ["cctr_synapse", "cctr_acdc"])
def test_inference_with_both_networks_repeats_the_transformer(bundle, more):
    train, both = (
        merged(bundle, [*files, *more]) for files in (CCTR_TRAINING, ["inference.json", "variants/both_networks.json"])
    )
    for key in ("transformer_features", "transformer_def", "transformer_network"):
        assert both[key] == train[key], key
    assert both["handlers"][-1]["network"] == "@transformer_network"


@pytest.mark.parametrize("bundle", WORKFLOWS)
def test_studies_are_ranked_with_the_settings_of_training(bundle):
    train, studies = (json.loads((configs(bundle) / f"{name}.json").read_text()) for name in ("train", "studies"))
    same = {key for key, value in studies.items() if value == f"%configs/train.json::{key}"}
    assert same <= set(train)
    if bundle == "coral_acdc":
        assert studies["pretraining"] == train["train"]["pretraining"]
        assert same == set(studies["pretraining"]) - {"bundle_root", "output_dir", "ckpt_dir"}
    else:
        assert not same


@pytest.mark.parametrize("bundle", CCTR_BUNDLES)
def test_training_leaves_registration_to_its_own_config(bundle):
    train, registration = (merged(bundle, [f"{name}.json"]) for name in ("train", "registration"))
    own = {"runner", "workflow", "plan", "settings", "retries", "limits", "figure_count", "workers", "group_by"}
    assert own <= set(registration) and not own & set(train)
    for key in ("split_dir", "registration_dir", "labeled_cases", "class_names", "label_values"):
        assert train[key] == registration[key], key


@pytest.mark.parametrize("bundle", WORKFLOWS)
def test_expressions_are_short_and_logic_has_a_name(bundle):
    logic = re.compile(r"\b(if|for|lambda|and|or|not)\b")
    for file in configs(bundle).rglob("*.json"):
        for key, text in texts(json.loads(file.read_text())):
            # the one that says that another package is called custom cannot be a function of this package
            if text.startswith("$") and not text.startswith("$hasattr(custom, 'bundle_root') or exit("):
                assert len(text) <= 100 and not logic.search(text), (file.name, key, text)


@pytest.mark.parametrize("bundle", WORKFLOWS)
def test_a_training_is_read_at_a_glance(bundle):
    text = (configs(bundle) / "train.json").read_text()
    assert len(text.splitlines()) <= 280 and len(json.loads(text)) <= 45


def texts(value, key: str = ""):
    """Each text of a config with the key that it stands under."""
    if isinstance(value, str):
        yield key, value
    children = (
        value.items() if isinstance(value, dict) else ((key, v) for v in value) if isinstance(value, list) else ()
    )
    for name, child in children:
        yield from texts(child, name)

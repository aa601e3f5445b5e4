"""The law of the house: imports go down, each third-party package has one door, `import tubelet` costs torch alone."""

import ast
import inspect
import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

import tubelet

PACKAGE = Path(tubelet.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# Lowest first; `?*` is every other module of a package. A module imports from lower lines alone, so a family of
# `models` imports no other family.
LAYERS = (
    "machine copies spec kernels.native boxes losses optim protocols terminal timeline plot page pickles launch "
    "processes sharding convert.layout data.headers data.indexes data.sample data.sampling data.transforms data.mixing "
    "data.fingerprint data.order data.layouts.text data.grid",
    "kernels kernels.?* data.ffmpeg data.packets frames runtimes data.dicom data.groups data.itk data.nifti data.raw",
    "data.keyframes",
    "data.container metrics data.space",
    "blocks masks download convert.slow data.volume data.pictures data.webp data.augment data.distort "
    "data.layouts.rows data.layouts.classes data.layouts.splits",
    "convert.?* data.video data.camera data.layouts.opposites data.layouts.places",
    "data.flow data.layouts.activitynet data.layouts.ava data.layouts.charades data.layouts.diving48 "
    "data.layouts.folders data.layouts.framewise data.layouts.kinetics data.layouts.lists data.layouts.medmnist "
    "data.layouts.something data.layouts.ucf",
    "data.layouts.collect",
    "data.layouts.?*",
    "data.layouts data.scans",
    "heads preset convert data.datasets data.loader data.motion data.listing examine regularize speed checkpoints",
    "weights recipe feed windows plan graph",
    "decoders segment ways capture fastest",
    "tasks cases backends gpu",
    "memory",
    "fit",
    "models.?*",
    "models",
    "compare twins run",
    "step",
    "optimize stream",
    "train predict prepare measure export",
    "report features",
    "evaluate",
    "doctor",
    "cli",
    "__main__",
)
# `needs`, `aside` and `cache_dir` are for every other module of the lowest line.
GROUND = {"machine", "spec"}
DOORS = {
    "av": "data.ffmpeg",
    "cv2": "data.flow",
    "jinja2": "page",
    "jsonargparse": "cli",
    "lightning": "fit",
    "matplotlib": "plot",
    "monai.metrics": "masks",
    "monai.transforms": "data.distort",
    "nncf": "runtimes",
    "onnx": "runtimes",
    "onnxruntime": "runtimes",
    "onnxscript": "runtimes",
    "openvino": "runtimes",
    "PIL": "plot",
    "rich": "terminal",
    "filelock": "weights",
    "safetensors": "weights",
    "SimpleITK": "data.itk",
    "pydicom": "data.groups",
    "torchmetrics": "metrics",
}
FREE = {"torch", "numpy"}


def name_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__") if parts != ("__init__",) else "__init__"


def imports(path):
    """(module imported, names taken from it) for every import statement of a file, absolute names."""
    package = ["tubelet", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*base, *filter(None, [node.module])]), [alias.name for alias in node.names]


def own(path):
    """Modules of tubelet that a file imports, without the `tubelet.`"""
    names = {name_of(module) for module in MODULES}
    for module, taken in imports(path):
        if module.split(".")[0] != "tubelet":
            continue
        inner = module.removeprefix("tubelet").removeprefix(".")
        for name in taken or [""]:
            full = ".".join(filter(None, [inner, name]))
            yield full if full in names else inner or "__init__"


def layer(name):
    return next((i for i, line in enumerate(LAYERS) if any(fnmatch(name, known) for known in line.split())), None)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down(path):
    name = name_of(path)
    if name in ("__init__", "data"):
        return
    assert layer(name) is not None, f"{name} has no place in LAYERS"
    for other in own(path):
        if other == "data":  # an empty package
            continue
        is_ground = other in GROUND and name not in GROUND
        assert layer(other) < layer(name) or is_ground, f"{name} imports {other}, which is not below it"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_third_party_packages_have_one_door(path):
    known = set(sys.stdlib_module_names) | FREE | {"tubelet"}
    for module, _ in imports(path):
        package = module.split(".")[0]
        if package not in known:
            door = DOORS.get(package) or DOORS.get(".".join(module.split(".")[:2]))  # or a part of a large one
            assert door == name_of(path), f"{name_of(path)} imports {module}"


def in_new_process(code):
    # compiled once, as installed packages are, also where the environment forbids Python to keep what it compiled
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_import_pulls_in_torch_alone():
    code = "import sys, torch; before = set(sys.modules); import tubelet; print(*set(sys.modules) - before)"
    new = {name.split(".")[0] for name in in_new_process(code).split()}
    third_party = {name for name in new if name not in sys.stdlib_module_names} - {"tubelet"}
    assert not third_party


def test_import_costs_little_beyond_torch():
    # processor time of the import itself, the least of several processes: what a busy machine adds is not counted, nor
    # a full collection of torch's own objects, which some builds of torch leave due at the next few thousand objects
    code = (
        "import gc, torch, time; gc.collect(); t = time.process_time(); import tubelet; print(time.process_time() - t)"
    )
    assert min(float(in_new_process(code)) for _ in range(5)) < 0.15


def test_all_is_sorted_and_complete():
    assert list(tubelet.__all__) == sorted(tubelet.__all__)
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    taken = {
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert set(tubelet.__all__) == taken
    assert all(hasattr(tubelet, name) for name in tubelet.__all__)


def public():
    for name in tubelet.__all__:
        value = getattr(tubelet, name)
        module = value if inspect.ismodule(value) else None
        for inner, member in vars(module).items() if module else [(name, value)]:
            if not inner.startswith("_") and getattr(member, "__module__", "").startswith("tubelet"):
                yield f"{name}.{inner}" if module else inner, member


@pytest.mark.parametrize(("name", "member"), [pytest.param(*each, id=each[0]) for each in public()])
def test_public_names_are_described(name, member):
    assert (inspect.getdoc(member) or "").strip(), f"{name} has no docstring"
    if inspect.isclass(member):
        for method, function in inspect.getmembers(member, inspect.isfunction):
            if not method.startswith("_") and function.__module__ == member.__module__:
                assert inspect.getdoc(function), f"{name}.{method} has no docstring"


def test_public_functions_on_tensors_give_shapes():
    """Whatever takes or gives a tensor says its shape, such as (B, C, T, H, W) or (N, K)."""
    for name, member in public():
        functions = [(name, member)] if inspect.isfunction(member) else [
            (f"{name}.{method}", function) for method, function in inspect.getmembers(member, inspect.isfunction)
            if not method.startswith("_") and function.__module__ == member.__module__
        ]  # fmt: skip
        for full, function in functions:
            if "Tensor" in str(inspect.signature(function)):
                text = (inspect.getdoc(function) or "") + (inspect.getdoc(member) or "")
                assert re.search(r"\([A-Z0-9][\w']*(, [\w' *]+)+\)|\(\.\.\., H, W\)|state_dict", text), (
                    f"{full}: no shape"
                )

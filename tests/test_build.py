"""The build: what is found, what is chosen, and the sentence that each wrong state gives."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest
import torch

from segfast import _build_info, _toolkit
from segfast._extension import C

ROOT = Path(__file__).resolve().parents[1]
CUDA_13_ARCHS = [(7, 5), (8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (11, 0), (12, 0), (12, 1)]


def write_script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def fake_toolkit(home: Path, version: int = 13000, runtime: str = "libcudart.so") -> Path:
    """A tree that looks like a CUDA toolkit; its nvcc answers what the build asks."""
    archs = "\n".join(f"compute_{major}{minor}" for major, minor in CUDA_13_ARCHS)
    write_script(
        home / "bin" / "nvcc",
        f'case "$1" in\n--dryrun) echo "#$ _HERE_={home}/bin" >&2 ;;\n'
        f'--list-gpu-arch) echo "{archs}" ;;\nesac',
    )
    (home / "include").mkdir()
    header = f"#define CUDART_VERSION  {version}\n"
    (home / "include" / "cuda_runtime_api.h").write_text(header)
    (home / "lib64").mkdir()
    (home / "lib64" / runtime).touch()
    return home


@pytest.fixture
def env(tmp_path, monkeypatch):
    """An environment with no toolkit in sight: not on PATH, not from pip, not in /usr/local."""
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site-packages")])
    monkeypatch.setattr(_toolkit, "SYSTEM_HOME", tmp_path / "system")
    return {"PATH": str(tmp_path / "bin")}


def plan(env, visible=(), torch_cuda="13.0"):
    return _toolkit.make_plan(env, "2.14.1", torch_cuda, visible)


def test_cuda_home_comes_first(env, tmp_path):
    env["CUDA_HOME"] = str(fake_toolkit(tmp_path / "mine"))
    fake_toolkit(tmp_path / "system")
    assert plan(env).toolkit.home == tmp_path / "mine"


def test_nvcc_that_is_a_wrapper_script(env, tmp_path):
    """The script's own prefix has no headers; the toolkit that it calls has."""
    home = fake_toolkit(tmp_path / "cuda-13.0")
    write_script(tmp_path / "bin" / "nvcc", f'exec {home}/bin/nvcc "$@"')
    found = plan(env).toolkit
    assert found.home == home
    assert found.include == home / "include"
    assert found.link_args == ["-lcudart"]


def test_pip_toolkit_has_only_a_versioned_runtime(env, tmp_path):
    home = tmp_path / "site-packages" / "nvidia" / "cu13"
    fake_toolkit(home, runtime="libcudart.so.13")
    assert plan(env).toolkit.home == home
    assert plan(env).toolkit.link_args == ["-l:libcudart.so.13"]


def test_conda_keeps_headers_under_targets(env, tmp_path):
    home = fake_toolkit(tmp_path / "conda")
    target = home / "targets" / "x86_64-linux"
    target.mkdir(parents=True)
    for name in ("include", "lib64"):
        shutil.move(home / name, target / name)
    env["CUDA_HOME"] = str(home)
    assert plan(env).toolkit.include == target / "include"


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("bin/nvcc", "no bin/nvcc"),
        ("include/cuda_runtime_api.h", "no include/cuda_runtime_api.h"),
        ("lib64/libcudart.so", "no libcudart.so"),
    ],
)
def test_incomplete_toolkit_is_passed_over(env, tmp_path, missing, said):
    home = fake_toolkit(tmp_path / "broken")
    (home / missing).unlink()
    assert _toolkit.inspect(home) == said
    env["CUDA_HOME"] = str(home)
    assert plan(env).toolkit is None
    whole = fake_toolkit(tmp_path / "system")
    assert plan(env).toolkit.home == whole


def test_no_toolkit_means_a_cpu_build_that_says_so(env):
    found = plan(env)
    assert found.toolkit is None
    assert "CPU only, because no CUDA toolkit was found" in found.summary
    assert "pip install 'cuda-toolkit[nvcc,cudart,cccl]==13.0.*'" in found.summary


def test_other_major_version_names_both_and_both_cures(env, tmp_path):
    env["CUDA_HOME"] = str(fake_toolkit(tmp_path / "old", version=12040))
    with pytest.raises(_toolkit.BuildError) as error:
        plan(env)
    for part in ("built for CUDA 13.0", "is 12.4", "pip install 'cuda-toolkit", "for CUDA 12 "):
        assert part in str(error.value)


def test_other_major_version_is_passed_over_for_a_fitting_one(env, tmp_path):
    env["CUDA_HOME"] = str(fake_toolkit(tmp_path / "old", version=12040))
    home = tmp_path / "site-packages" / "nvidia" / "cu13"
    fake_toolkit(home, version=13010, runtime="libcudart.so.13")  # another minor version is fine
    assert plan(env).toolkit.home == home


def test_torch_without_cuda(env, tmp_path):
    env["CUDA_HOME"] = str(fake_toolkit(tmp_path / "mine"))
    assert "torch 2.14.1 has no CUDA" in plan(env, torch_cuda=None).summary
    env["SEGFAST_FORCE_CUDA"] = "1"
    with pytest.raises(_toolkit.BuildError, match=r"SEGFAST_FORCE_CUDA .* without CUDA"):
        plan(env, torch_cuda=None)


def test_switches(env, tmp_path):
    with pytest.raises(_toolkit.BuildError, match="no CUDA toolkit was found"):
        plan(env | {"SEGFAST_FORCE_CUDA": "1"})
    env["CUDA_HOME"] = str(fake_toolkit(tmp_path / "mine"))
    assert plan(env | {"SEGFAST_NO_CUDA": "1"}).toolkit is None
    assert plan(env | {"SEGFAST_NO_CUDA": "0"}).toolkit is not None
    with pytest.raises(_toolkit.BuildError, match="both set"):
        plan(env | {"SEGFAST_NO_CUDA": "1", "SEGFAST_FORCE_CUDA": "1"})
    with pytest.raises(_toolkit.BuildError, match="SEGFAST_NO_CUDA must be 1 or 0, got 'maybe'"):
        plan(env | {"SEGFAST_NO_CUDA": "maybe"})


def test_arch_list_of_the_user_wins(env, tmp_path):
    env["CUDA_HOME"] = str(fake_toolkit(tmp_path / "mine"))
    assert plan(env, visible=[(9, 0)]).archs == "9.0"
    env["TORCH_CUDA_ARCH_LIST"] = "8.0;8.6+PTX"
    assert plan(env, visible=[(9, 0)]).archs == "8.0;8.6+PTX"


@pytest.mark.parametrize(
    ("visible", "archs"),
    [
        ([], "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"),  # no GPU: Turing to Blackwell, and later by PTX
        ([(9, 0), (9, 0)], "9.0"),  # the same GPU twice
        ([(9, 0), (8, 0)], "8.0;9.0"),
        ([(8, 8)], "8.7"),  # unknown to this toolkit: the nearest older of its generation
        ([(13, 0)], "12.1+PTX"),  # newer than the toolkit
    ],
)
def test_archs(visible, archs):
    assert _toolkit.choose_archs(visible, CUDA_13_ARCHS) == archs
    assert all(_toolkit.covers(archs, capability) for capability in visible)


def test_gpu_older_than_the_toolkit():
    with pytest.raises(_toolkit.BuildError, match=r"capability 7\.0, but the oldest .* is 7\.5"):
        _toolkit.choose_archs([(7, 0)], CUDA_13_ARCHS)


def test_which_gpus_a_build_covers():
    assert _toolkit.covers("8.0", (8, 9))
    assert not _toolkit.covers("8.0", (9, 0))
    assert _toolkit.covers("8.0+PTX", (9, 0))
    assert not _toolkit.covers("9.0+PTX", (8, 9))
    assert _toolkit.covers("Hopper", (9, 0))


def test_jobs():
    gigabyte = 1 << 30
    assert _toolkit.choose_jobs({}, cores=16, free_bytes=100 * gigabyte) == 16
    assert _toolkit.choose_jobs({}, cores=16, free_bytes=8 * gigabyte) == 4
    assert _toolkit.choose_jobs({}, cores=16, free_bytes=gigabyte // 2) == 1
    assert _toolkit.choose_jobs({"MAX_JOBS": "3"}, cores=1, free_bytes=gigabyte) == 3
    with pytest.raises(_toolkit.BuildError, match="MAX_JOBS must be .* got 'many'"):
        _toolkit.choose_jobs({"MAX_JOBS": "many"}, cores=1, free_bytes=gigabyte)


def test_stale_binary_is_named():
    running = _build_info.describe_torch(torch)
    assert _build_info.why_stale(dict(running), running) is None
    stale = _build_info.why_stale(running | {"torch": "2.13.0+cpu"}, running)
    assert f"built for torch 2.13.0+cpu, but found torch {torch.__version__}" in stale
    assert "pip install --no-build-isolation" in stale
    assert "(unknown)" in _build_info.why_stale({}, running)


def copy_of_package(directory: Path) -> Path:
    """segfast as a fresh clone has it: without what a build leaves."""
    left_out = shutil.ignore_patterns("*.so", "*.json", "__pycache__")
    shutil.copytree(ROOT / "segfast", directory / "segfast", ignore=left_out)
    return directory / "segfast"


def run_python(directory: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(directory)} | env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_never_compiled_computes_with_one_warning(tmp_path):
    copy_of_package(tmp_path)
    code = """if True:
        import torch, segfast
        assert segfast._extension.C is None
        output, indices = segfast.functional.max_pool2d(
            torch.arange(16.0).view(1, 1, 4, 4), 2, return_indices=True
        )
        assert output.flatten().tolist() == indices.flatten().tolist() == [5, 7, 13, 15]
    """
    result = run_python(tmp_path, "-c", code)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("RuntimeWarning") == 1
    assert "pip install --no-build-isolation" in result.stderr


def test_stale_binary_is_named_before_it_is_loaded(tmp_path):
    package = copy_of_package(tmp_path)
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    (package / f"_C{suffix}").write_bytes(b"loading this would fail in another way")
    record = _build_info.describe_torch(torch) | {"torch": "2.0.0"}
    (package / _build_info.FILE_NAME).write_text(json.dumps(record))
    result = run_python(tmp_path, "-c", "import segfast._extension")
    assert "ImportError: segfast was built for torch 2.0.0, but found torch" in result.stderr


def test_setup_without_torch_says_one_sentence(tmp_path):
    """What pip shows under build isolation, where torch cannot be imported."""
    (tmp_path / "torch.py").write_text("raise ImportError('No module named torch')")
    result = run_python(ROOT, "setup.py", "--version", PYTHONPATH=str(tmp_path))
    assert result.returncode != 0
    assert "pip install torch" in result.stderr
    assert "pip install --no-build-isolation ." in result.stderr
    assert "Traceback" not in result.stderr


def test_setup_with_contradicting_switches_says_one_sentence():
    switches = {"SEGFAST_FORCE_CUDA": "1", "SEGFAST_NO_CUDA": "1"}
    result = run_python(ROOT, "setup.py", "--version", **switches)
    assert result.returncode != 0
    assert "both set" in result.stderr
    assert "Traceback" not in result.stderr


def test_source_distribution_holds_what_a_build_needs_and_no_more(tmp_path):
    """setuptools adds tests/test_*.py by itself, without the files that these import."""
    paths = ["--egg-base", str(tmp_path), "sdist", "--dist-dir", str(tmp_path)]
    result = run_python(ROOT, "setup.py", "--quiet", "egg_info", *paths, SEGFAST_NO_CUDA="1")
    assert result.returncode == 0, result.stderr
    [archive] = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    sources = {f"csrc/{line}" for line in (ROOT / "csrc" / "sources.txt").read_text().split()}
    assert names >= sources | {"setup.py", "csrc/sources.txt", "segfast/py.typed"}
    assert not [name for name in names if "tests" in name]


def test_kernels_of_an_instruction_set_hold_no_lambda():
    """GCC compiles a lambda for the baseline, whatever the pragma around it says."""
    headers = {path: path.read_text() for path in (ROOT / "csrc" / "kernels").rglob("*.h")}
    bodies = {path: text for path, text in headers.items() if "SEGFAST_ISA {" in text}
    assert len(bodies) > 20
    a_lambda = re.compile(r"\[[&=][^\]]*\]\s*[({]|(?<!operator)\[(this)?\]\s*\(")
    assert not [path.name for path, text in bodies.items() if a_lambda.search(text)]


@pytest.mark.skipif(C is None, reason="needs the compiled module")
def test_kernels_run_on_the_threads_that_torch_is_given():
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            assert C.parallel_threads() == threads
    finally:
        torch.set_num_threads(before)

"""Models as files that run without their Python source: ONNX, torch.export, AOTInductor."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from segfast._errors import UserError
from segfast._example import example_input
from segfast._files import atomic_file
from segfast._tensors import check_module

Format = Literal["onnx", "pt2", "aoti"]
#: What each format's file is called by default.
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "pt2": ".pt2", "aoti": ".aoti.pt2"}

_AXES = ("batch", None, "height", "width")
# Kernels of different libraries sum in another order: float32's epsilon over some hundred layers.
_TOLERANCE = 1e-3
# The share of logits that may be further off: where two values of a pooling window are as good as
# equal, rounding picks the other, and unpooling puts it elsewhere.
_OFF = 1e-3


class ExportError(UserError):
    """A model that cannot be written in a format. The message says why."""


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    format: Format = "onnx",
    example: Tensor | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes ``model``, as it computes in eval mode, to a file that needs none of its source.

    ========  =====================================================================================
    format    the file
    ========  =====================================================================================
    ``onnx``  ONNX with standard operators only, pooling codes and unpooling included; passed by
              ONNX's checker, and by onnxruntime where it is installed, whose logits must be the
              model's. For onnxruntime, TensorRT, OpenVINO, CoreML and so on.
    ``pt2``   what ``torch.export.load`` reads, where segfast is installed and imported.
    ``aoti``  machine code by AOTInductor for this CPU or GPU, which
              ``torch._inductor.aoti_load_package`` reads where segfast is imported. Compiling takes
              a C++ compiler and a minute or more.
    ========  =====================================================================================

    Batch, height and width are free in the file wherever the model's code leaves them free; see
    ``example``. The model itself is not changed. ONNX and pt2 files hold a float32 model of the
    CPU, whatever ``model``'s type and device; runtimes choose their own.

    Args:
        model: any module that takes one tensor, ours or another. Its input is called ``image`` in
            ONNX and its output, where there is one, ``logits``.
        path: the file. It is replaced at once, when all has been written.
        format: see above.
        example: an input [N, C, H, W]; by default noise of the channels of the model's first
            convolution. A dimension that is 1 stays 1 in the file.
        metadata: what the file should say about the model, such as class names: put into the ONNX
            metadata, a text as it is and anything else as JSON, or into the pt2 file's extra file
            ``segfast.json``.

    Raises:
        ExportError: PyTorch cannot export the model, or the file does not compute what the model
            does; nothing is written.
        ValueError: an unknown format, or no ``example`` where the model does not tell its channels.
        ImportError: ``format="onnx"`` without ``pip install 'segfast[export]'``.
        OSError: the file cannot be written.

    Example:
        >>> segfast.export(model, "model.onnx")
        >>> session = onnxruntime.InferenceSession("model.onnx")
        >>> (logits,) = session.run(None, {"image": image})  # [N, C, H, W] float32
    """
    if format not in get_args(Format):
        raise ValueError(f'format must be "onnx", "pt2" or "aoti", received {format!r}')
    check_module(model)
    twin = copy.deepcopy(getattr(model, "_orig_mod", model))  # of torch.compile: what it compiles
    twin.eval().to(memory_format=torch.contiguous_format)
    if format != "aoti":
        twin.cpu().float()
    example = example_input(twin, batch=2) if example is None else example.detach().contiguous()
    if format != "aoti":
        example = example.cpu().float()
    write = {"onnx": _onnx, "pt2": _pt2, "aoti": _aoti}[format]
    with torch.no_grad():
        content = write(twin, _program(twin, example), example, metadata or {})
    with atomic_file(Path(path)) as file:
        file.write(content)


def _program(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    free = {
        axis: torch.export.Dim.AUTO
        for axis, name in enumerate(_AXES)
        if name and axis < example.dim()
    }
    with _as_export_error("torch.export cannot follow the model"):
        return torch.export.export(model, (example,), dynamic_shapes=(free,))


def _onnx(
    model: nn.Module,
    program: torch.export.ExportedProgram,
    example: Tensor,
    metadata: Mapping[str, Any],
) -> bytes:
    try:
        import onnx

        from segfast._onnx_ops import TRANSLATIONS
    except ImportError as error:
        raise ImportError(
            f"exporting to ONNX needs {error.name}: do pip install 'segfast[export]'"
        ) from error
    expected = model(example)
    single = isinstance(expected, Tensor)
    with _as_export_error("torch.onnx cannot translate the model"):
        exported = torch.onnx.export(
            program,
            input_names=["image"],
            output_names=["logits"] if single else None,
            custom_translation_table=TRANSLATIONS,
            verbose=False,
        )
    assert exported is not None
    proto = exported.model_proto
    _name_axes(proto.graph)
    for item in (proto.graph, *proto.graph.input, *proto.graph.output, *proto.graph.node):
        del item.metadata_props[:]  # stack traces of the machine it was exported on
    texts = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in metadata.items()
    }
    onnx.helper.set_model_props(proto, texts)
    onnx.checker.check_model(proto, full_check=True)
    content: bytes = proto.SerializeToString()
    if single:
        _check_by_onnxruntime(content, example, expected)
        free = [bool(dim.dim_param) for dim in proto.graph.input[0].type.tensor_type.shape.dim]
        if free[2:] == [True, True]:
            _check_another_size(content, model, example)
    return content


def _name_axes(graph: Any) -> None:
    """Calls the free axes batch, height and width, in place of torch's symbols (``s16``)."""
    (image,) = graph.input
    names = {
        dim.dim_param: name
        for dim, name in zip(image.type.tensor_type.shape.dim, _AXES, strict=False)
        if dim.dim_param and name
    }
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:  # a symbol, or a formula of symbols
                dim.dim_param = re.sub(
                    r"\w+", lambda word: names.get(word[0], word[0]), dim.dim_param
                )


def _check_another_size(content: bytes, model: nn.Module, example: Tensor) -> None:
    """The same at an odd size, where a formula of sizes may go wrong; if the model takes one."""
    odd = nn.functional.pad(example, (0, 13, 0, 11), mode="replicate")
    try:
        expected = model(odd)
    except Exception:
        return
    _check_by_onnxruntime(content, odd, expected)


def _check_by_onnxruntime(content: bytes, example: Tensor, expected: Tensor) -> None:
    """Raises ExportError if onnxruntime, where it is installed, gives other logits."""
    try:
        import onnxruntime
    except ImportError:
        return
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": example.numpy()})
    size = list(example.shape)
    if found.shape != tuple(expected.shape):
        raise ExportError(
            f"from the file onnxruntime computes logits of shape {list(found.shape)} for an input "
            f"{size}, the model {list(expected.shape)}: nothing was written"
        )
    difference = (torch.from_numpy(found) - expected).abs()
    off = ~(difference <= _TOLERANCE * max(1.0, float(expected.abs().max())))
    if float(off.float().mean()) > _OFF:
        raise ExportError(
            f"onnxruntime computes other logits from the file than the model (by up to "
            f"{float(difference.max()):.2g} for an input {size}): nothing was written"
        )


def _pt2(
    model: nn.Module,
    program: torch.export.ExportedProgram,
    example: Tensor,
    metadata: Mapping[str, Any],
) -> bytes:
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={"segfast.json": json.dumps(dict(metadata))})
    return file.getvalue()


def _aoti(
    model: nn.Module,
    program: torch.export.ExportedProgram,
    example: Tensor,
    metadata: Mapping[str, Any],
) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        package = os.path.join(folder, "model.pt2")
        with _as_export_error("AOTInductor cannot compile the model"):
            torch._inductor.aoti_compile_and_package(program, package_path=package)
        return Path(package).read_bytes()


@contextlib.contextmanager
def _as_export_error(what: str) -> Iterator[None]:
    """torch's exporters raise all kinds of errors, of many lines."""
    try:
        yield
    except Exception as error:
        innermost: BaseException = error
        while innermost.__cause__ is not None:
            innermost = innermost.__cause__
        reason = next(iter(str(innermost).strip().splitlines()), type(innermost).__name__)
        raise ExportError(f"{what}: {reason}") from error

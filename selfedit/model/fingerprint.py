"""What tells two models apart: adapters are bound to the weights that they were trained on."""

from __future__ import annotations

import hashlib

from torch import Tensor


def weights_fingerprint(weights: dict[str, Tensor]) -> str:
    """SHA-256 over the names, the sizes and about a thousand values of every tensor: cheap, and any real difference
    shows. `weights`: under their names in the model folder."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name]
        flat = tensor.flatten()
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(flat[:: max(1, flat.numel() // 1024)].float().numpy().tobytes())
    return digest.hexdigest()

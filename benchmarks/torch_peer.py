"""PyTorch worker of `step.py`: runs training steps of the same work on request.

    echo '{"kind": "imae", ...}' | python benchmarks/torch_peer.py

Reads one line of JSON, the arguments of `make_step`, makes two warm-up steps and answers
with one line: `compile_seconds` (time of the first step beyond the second), `versions` and
`device`. For every further line, `step`, it makes one training step and answers with its
`seconds` and `loss`. On failure it answers {"error": ...} and exits with status 1.

MAE is transformers' `ViTMAEForPreTraining`; i-MAE is made of the same modules.
"""

import json
import os
import sys
import time

try:
    import torch
    import transformers
except ImportError as error:
    if __name__ != "__main__":
        raise
    print(json.dumps({"error": str(error)}))
    sys.exit(1)


class IMAE(transformers.ViTMAEForPreTraining):
    """ViTMAE with two linear heads in place of its single `decoder_embed`."""

    def __init__(self, config):
        super().__init__(config)
        self.decoder.decoder_embed = torch.nn.Identity()
        widths = config.hidden_size, config.decoder_hidden_size
        self.disentangle_subordinate = torch.nn.Linear(*widths)
        self.disentangle_dominant = torch.nn.Linear(*widths)


def swap_partners(x):
    """Exchanges the members of each pair (2i, 2i + 1) along axis 0."""
    return x.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def teacher_latents(teacher, images, noise):
    """Computes the latents of a MAE after its `decoder_embed`, without gradient."""
    with torch.no_grad():
        tokens = teacher.vit(images, noise=noise).last_hidden_state
        return teacher.decoder.decoder_embed(tokens)


def imae_loss(student, teacher, images, alpha, noise, shared_mask):
    """Computes the i-MAE loss; arrays with 2B entries hold all subordinates first.

    Args:
      student: an `IMAE`.
      teacher: a frozen ViTMAE.
      images: [B, C, H, W] normalized pixels; images 2i and 2i + 1 are a pair.
      alpha: [B], weight of image j in mixture j; its partner is the dominant image.
      noise: [B, L]; the patches of the K smallest values in each row are visible.
      shared_mask: True if the two rows of a pair are equal, which saves half the teacher.
    Returns:
      Loss of pixels and latents, averaged over the batch and summed over the branches.
    """
    partners = swap_partners(images)
    sources = torch.cat([images, partners])
    weight = alpha[:, None, None, None]
    encoded = student.vit(weight * images + (1 - weight) * partners, noise=noise)
    tokens = encoded.last_hidden_state
    heads = student.disentangle_subordinate, student.disentangle_dominant
    latents = torch.cat([head(tokens) for head in heads])
    pred = student.decoder(latents, encoded.ids_restore.repeat(2, 1)).logits

    if shared_mask:
        alone = teacher_latents(teacher, images, noise)
        targets = torch.cat([alone, swap_partners(alone)])
    else:
        targets = teacher_latents(teacher, sources, noise.repeat(2, 1))

    removed = encoded.mask.repeat(2, 1)
    error = (pred - student.patchify(sources)).square().mean(dim=-1)
    reconstruction = (error * removed).sum() / removed.sum()
    return 2 * (reconstruction + torch.nn.functional.mse_loss(latents, targets))


def make_config(image_shape, mask_ratio, patch_size, encoder, decoder):
    """Makes ViTMAE's config; raises ValueError for unsupported image shapes."""
    height, width, channels = image_shape
    if height != width or height % patch_size:
        raise ValueError(
            f"ViTMAE takes square images divisible by the patch size, not {height}x{width} "
            f"by {patch_size}"
        )
    return transformers.ViTMAEConfig(
        image_size=height,
        patch_size=patch_size,
        num_channels=channels,
        hidden_size=encoder["width"],
        num_hidden_layers=encoder["depth"],
        num_attention_heads=encoder["heads"],
        intermediate_size=4 * encoder["width"],
        decoder_hidden_size=decoder["width"],
        decoder_num_hidden_layers=decoder["depth"],
        decoder_num_attention_heads=decoder["heads"],
        decoder_intermediate_size=4 * decoder["width"],
        layer_norm_eps=1e-6,
        mask_ratio=mask_ratio,
        norm_pix_loss=False,
        attn_implementation="sdpa",
    )


def make_network(kind, config):
    """Makes a ViTMAE or an `IMAE` with random weights."""
    network = (IMAE if kind == "imae" else transformers.ViTMAEForPreTraining)(config)
    # Transformers initializes these to zero, which would make all masked patches equal.
    for parameter in (
        network.vit.embeddings.position_embeddings,
        network.decoder.decoder_pos_embed,
        network.decoder.mask_token,
    ):
        torch.nn.init.normal_(parameter, std=0.02)
    return network


def make_objective(kind, config, device, dtype, shared_mask):
    """Returns the network to train and `objective(images)`, its loss on raw pixels."""
    if kind not in ("mae", "imae") or dtype not in ("float32", "bfloat16"):
        raise ValueError(f"no such step: {kind} in {dtype}")
    network = make_network(kind, config).to(device)
    if kind == "imae":
        teacher = make_network("mae", config).to(device).requires_grad_(False)
    num_patches = (config.image_size // config.patch_size) ** 2

    def objective(images):
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            images = images.permute(0, 3, 1, 2).float() / 255
            if kind == "mae":
                return network(images).loss
            batch_size = len(images)
            alpha = 0.5 * (1 - torch.rand(batch_size, device=device))  # (0, 0.5]
            rows = batch_size // 2 if shared_mask else batch_size
            noise = torch.rand(rows, num_patches, device=device)
            noise = noise.repeat_interleave(batch_size // rows, dim=0)
            return imae_loss(network, teacher, images, alpha, noise, shared_mask)

    return network, objective


def make_step(
    *,
    kind: str,
    image_shape: list[int],
    batch_size: int,
    mask_ratio: float,
    patch_size: int,
    encoder: dict[str, int],
    decoder: dict[str, int],
    dtype: str,
    compiled: bool,
    shared_mask: bool,
):
    """Returns a function that makes a training step and returns its (seconds, loss).

    Args:
      kind: "mae" or "imae".
      image_shape: [H, W, C].
      batch_size: B, even for i-MAE.
      mask_ratio: fraction of masked patches.
      patch_size: p.
      encoder, decoder: width, depth and heads.
      dtype: "float32", or "bfloat16" for autocast.
      compiled: use `torch.compile` for forward pass and loss.
      shared_mask: use one mask for both mixtures of a pair.
    """
    if kind == "imae" and batch_size % 2:
        raise ValueError(f"images lie in pairs, but the batch size is {batch_size}")
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = make_config(image_shape, mask_ratio, patch_size, encoder, decoder)
    network, objective = make_objective(kind, config, device, dtype, shared_mask)
    if compiled:
        torch.compiler.config.force_disable_caches = True  # of earlier processes
        objective = torch.compile(objective)
    optimizer = torch.optim.AdamW(
        network.parameters(), 1e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=True
    )
    images = torch.randint(256, (batch_size, *image_shape), dtype=torch.uint8)

    def step():
        start = time.perf_counter()
        loss = objective(images.to(device))
        loss.backward()
        # As in our step: computes the gradient norm and skips non-finite steps.
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        if torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start, loss.item()

    return step


def main() -> None:
    """Answers the lines of standard input."""
    # Other output goes to standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**fields):
        print(json.dumps(fields), file=answers, flush=True)

    try:
        step = make_step(**json.loads(sys.stdin.readline()))
        (first, _), (second, _) = step(), step()
        answer(
            compile_seconds=max(0.0, first - second),
            versions={"torch": torch.__version__, "transformers": transformers.__version__},
            device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        )
        for line in sys.stdin:
            if line.strip() != "step":
                raise ValueError(f"expected 'step', got {line.strip()!r}")
            seconds, loss = step()
            answer(seconds=seconds, loss=loss)
    except Exception as error:
        message = " ".join(str(error).split())
        answer(error=f"{type(error).__name__}: {message}")
        sys.exit(1)


if __name__ == "__main__":
    main()

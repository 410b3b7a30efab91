"""Number of attention heads of weights from elsewhere, which no array's shape tells."""

from collections.abc import Mapping

from imae_jax.errors import UserError

# Usual numbers by width (ViT, DeiT; MAE's decoder), for files that do not state it.
ENCODER_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
DECODER_HEADS = {512: 16}
RELEASE_DECODER_HEADS = {512: 16, 192: 6}  # i-MAE's release


def num_heads(
    given: int | None, said: int | None, usual: Mapping[int, int], width: int, flag: str
) -> tuple[int, list[str]]:
    """Returns the number of heads, and a note if it is assumed.

    Args:
      given: value of the flag, or None.
      said: what the file says, or None.
      usual: usual numbers by width.
      width: width of the Transformer.
      flag: name of the flag.
    Raises:
      UserError: if the number is unknown, or the flag contradicts the file.
    """
    if given is not None and said not in (None, given):
        raise UserError(f"invalid {flag}={given}: the file says {said}; leave it out")
    known = said if given is None else given
    if known is not None:
        return known, []
    if width not in usual:
        raise UserError(
            f"no file says how many heads a model has, and a width of {width} has no usual "
            f"number: give --{flag}"
        )
    count = usual[width]
    note = f"{count} heads are assumed, as usual for width {width}: --{flag} says otherwise"
    return count, [note]

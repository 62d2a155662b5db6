"""What the checks against transformers share."""

import transformers

# A list of names would also wrap the projections of CLIP, which has q, k and v as well.
LANGUAGE_MODEL = r".*language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"


def quiet() -> None:
    """No progress bars, and of the logs errors only."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()

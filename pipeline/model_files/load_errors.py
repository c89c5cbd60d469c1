"""What transformers raises for a model whose files or config are wrong: nearly any kind of error."""

import struct

from huggingface_hub.errors import StrictDataclassError

LOAD_ERRORS: tuple[type[Exception], ...] = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(ImportError, RuntimeError, AssertionError, StrictDataclassError, struct.error),
)

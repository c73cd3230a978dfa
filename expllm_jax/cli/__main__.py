"""`python -m expllm_jax.cli` is `expllm`."""

import sys

from expllm_jax.cli import main

sys.exit(main())

#!/bin/bash
# Equal bits on a GPU, and how long one step of so many of Wan 2.1's 1.3B takes
# beside diffusers:
#
#   experiments/gpu.sh 50
#
# Needs the extras `cuda` and `parity`. The model has the published shapes and
# random weights, of which a time is as good as of others; its text encoder,
# which runs once, has two layers.
set -eu
PYTHON=${PYTHON:-python3}
MODEL=${MODEL:-$(mktemp -d)/model}
$PYTHON launch.py bench --what=determinism
PYTHONPATH=tests $PYTHON - "$MODEL" <<'EOF'
import sys, published, torch
half = torch.bfloat16
published.pipeline(
  sys.argv[1],
  published.dit(
    num_attention_heads=12, attention_head_dim=128, text_dim=4096,
    ffn_dim=8960, num_layers=30,
  ).to(half),
  published.vae(**published.VAE_2_1 | dict(base_dim=96)),
  published.umt5(d_model=4096, d_kv=64, d_ff=1024, num_heads=64, num_layers=2)
  .to(half),
)
EOF
echo "written after $SECONDS s"
$PYTHON launch.py bench --what=speed --model="$MODEL" --steps="$1"

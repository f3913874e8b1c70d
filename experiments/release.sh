#!/bin/bash
# Trains the model that ships, stage after stage, each for so many seconds:
#
#   experiments/release.sh autoencoder=220 prepare text=40 dit=300
#
# The first steps of a stage are its measure of how many fit. What a stage needs
# of an earlier one is in $RUNS (runs/release), and the folder of real video
# that the autoencoder learns from beside the worlds is $CLIPS, or none.
# FLAGS are added to every command.
set -eu
RUNS=${RUNS:-runs/release}
PYTHON=${PYTHON:-python3}
# Kernels are picked by speed: a run repeats by its seed, but not bit for bit.
export XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_deterministic_ops=false"
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$RUNS/compiled}
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=1

# train SECONDS NAME FLAGS...: a run as long as its own first steps foretell.
train() {
  local began=$SECONDS seconds=$1 name=$2 steps
  shift 2
  measure "$name.pace" "$@"
  steps=$($PYTHON - "$RUNS/$name.pace" $((seconds - SECONDS + began - 15)) <<'END'
import json, sys
rows = open(f'{sys.argv[1]}/metrics.jsonl').read().splitlines()
last = json.loads(rows[-1])
pace = last['clips_per_second'] / last['clips']
print(max(200, int(pace * int(sys.argv[2]))))
END
)
  echo "$name: $steps steps"
  $PYTHON launch.py train --workdir="$RUNS/$name" "$@" ${FLAGS:-} \
    --config.run.steps="$steps"
}

# measure NAME FLAGS...: 60 steps, and no model.
measure() {
  local log=$RUNS/$1/metrics.jsonl name=$1 run
  shift
  setsid $PYTHON launch.py train --workdir="$RUNS/$name" "$@" ${FLAGS:-} \
    --config.run.steps=10000 --config.run.log_every=20 &
  run=$!
  while kill -0 $run && [ "$(cat "$log" 2>/dev/null | wc -l)" -lt 3 ]; do
    sleep 0.5
  done
  kill -- -$run || true
  wait $run || true
}

for stage in "$@"; do
  seconds=${stage#*=}
  case ${stage%%=*} in
    autoencoder)
      train "$seconds" autoencoder --config=experiments/autoencoder.py:release \
        --config.data.beside="${CLIPS:-}"
      ;;
    prepare)
      # Many shapes, each run for moments: trying kernels would take longer.
      XLA_FLAGS="$XLA_FLAGS --xla_gpu_autotune_level=0" \
        $PYTHON launch.py prepare --workdir="$RUNS" ${FLAGS:-} \
        --config=experiments/text_to_video.py:release \
        --config.autoencoder_from="$RUNS/autoencoder/model"
      ;;
    text)
      train "$seconds" text --config=experiments/text_encoder.py:release \
        --config.autoencoder_from="$RUNS/autoencoder/model" \
        --config.data.latents="$RUNS/latents"
      ;;
    dit)
      train "$seconds" dit --config=experiments/text_to_video.py:release \
        --config.autoencoder_from="$RUNS/autoencoder/model" \
        --config.init_from="$RUNS/text/model" \
        --config.data.latents="$RUNS/latents"
      ;;
    *)
      echo "$stage: not a stage" >&2
      exit 2
      ;;
  esac
  echo "$stage: done after $SECONDS s"
done

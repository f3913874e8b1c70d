#!/bin/bash
# Trains the model of both worlds, stage after stage, each for so many steps:
#
#   FLAGS=--config.data.workers=15 experiments/release.sh render \
#     autoencoder=12000 cooled_autoencoder=4000 prepare text=500 \
#     images=3000 dit=12000 tasks=8000 cooled=8000
#
# What a stage needs of an earlier one is in $RUNS (runs/release), and the folder
# of real video that the autoencoder learns from beside the worlds is $CLIPS, or
# none. FLAGS are added to every command; on a CPU with AMX and torch,
# ONEDNN=--config.run.onednn has convolutions train and encode several times
# as fast. The probe, which scores what the model makes, needs no other stage.
# Two cores render 17 clips a second, and the autoencoder takes 16 crops a second
# there.
set -eu
RUNS=${RUNS:-runs/release}
PYTHON=${PYTHON:-python3}
# Kernels are picked by speed: a run repeats by its seed, but not bit for bit.
export XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_deterministic_ops=false"

train() {
  local name=$1 steps=$2
  shift 2
  $PYTHON launch.py train --workdir="$RUNS/$name" --config.run.steps="$steps" \
    "$@" ${FLAGS:-}
}

autoencoder() {  # a part of its training, and what it goes on from
  local name=$1 steps=$2 variant=$3
  shift 3
  train "$name" "$steps" --config="experiments/autoencoder.py:$variant" \
    --config.data.beside="${CLIPS:-}" \
    --config.data.rendered="$RUNS/rendered" ${ONEDNN:-} "$@"
}

dit() {  # a part of the DiT's training, what it goes on from, and latents
  train "$1" "$2" --config="experiments/text_to_video.py:$3" \
    --config.autoencoder_from="$RUNS/cooled_autoencoder/model" \
    --config.init_from="$RUNS/$4/model" \
    --config.data.latents="$RUNS/$5/latents"
}

prepare() {  # clips of a part of the DiT's training to latents, once
  [ ! -e "$RUNS/$1/latents" ] || return 0
  $PYTHON launch.py prepare --workdir="$RUNS/$1" ${FLAGS:-} \
    --config="experiments/text_to_video.py:$2" \
    --config.autoencoder_from="$RUNS/cooled_autoencoder/model" \
    ${ONEDNN:-} "${@:3}"
}

render() {  # on all cores; clips of the autoencoder first, as it is first
  $PYTHON - "$RUNS/rendered" ${FLAGS:-} <<'EOF'
import functools
import multiprocessing
import sys

from sora_jax import experiment
from sora_jax.data import pipeline


def keep(source, index):
  source.window(index, 0, 1)


# What comes by a pipe cannot be loaded again, so that workers are forks.
with multiprocessing.get_context('fork').Pool() as pool:
  for name in ('autoencoder', 'text_to_video'):
    config = experiment.load(f'experiments/{name}.py:release', sys.argv[2:])
    config.data.rendered = sys.argv[1]
    source = pipeline.make_source(config.data)
    work = functools.partial(keep, source)
    for done, _ in enumerate(pool.imap(work, range(len(source)), 8), 1):
      if done % 2048 == 0:
        print(f'{name}: rendered {done} of {len(source)} clips', flush=True)
EOF
}

for stage in "$@"; do
  steps=${stage#*=}
  case ${stage%%=*} in
    render)
      # In the background, while the autoencoder compiles and learns; a clip that
      # it wants before its turn it renders by itself.
      render &
      continue
      ;;
    autoencoder)
      autoencoder autoencoder "$steps" release
      ;;
    cooled_autoencoder)
      autoencoder cooled_autoencoder "$steps" release_cooled \
        --config.init_from="$RUNS/autoencoder/model"
      ;;
    probe)
      train probe "$steps" --config=experiments/probe.py ${ONEDNN:-}
      ;;
    prepare)
      wait  # for what is still rendered
      prepare videos release_tasks --config.data.rendered="$RUNS/rendered"
      prepare stills release_images
      ;;
    text)
      train text "$steps" \
        --config=experiments/text_encoder.py:release \
        --config.autoencoder_from="$RUNS/cooled_autoencoder/model" \
        --config.data.latents="$RUNS/videos/latents"
      ;;
    images) dit images "$steps" release_images text stills ;;
    dit) dit dit "$steps" release images videos ;;
    tasks) dit tasks "$steps" release_tasks dit videos ;;
    cooled) dit cooled "$steps" release_cooled tasks videos ;;
    *)
      echo "$stage: not a stage" >&2
      exit 2
      ;;
  esac
  echo "$stage: done after $SECONDS s"
done

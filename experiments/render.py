"""Renders the clips of `release.sh` ahead of their use, on all cores:

  python3 experiments/render.py runs/release/rendered

Those of the autoencoder come first, as it is trained first.
"""

import functools
import multiprocessing
import pathlib
import sys
from typing import Any

ROOT = str(pathlib.Path(__file__).resolve().parents[1])
sys.path.insert(0, ROOT)  # or it would be this folder alone

from experiments import autoencoder, text_to_video  # noqa: E402
from sora_jax.data import pipeline  # noqa: E402


def render(source: Any, index: int) -> None:
  """Keeps a clip of a `rendered.Rendered`."""
  source.window(index, 0, 1)


def main(directory: str) -> None:
  with multiprocessing.get_context('spawn').Pool() as pool:
    for config in (autoencoder.release(), text_to_video.release()):
      config.data.rendered = directory
      source = pipeline.make_source(config.data)
      work = functools.partial(render, source)
      for done, _ in enumerate(pool.imap(work, range(len(source)), 8), 1):
        if done % 2048 == 0:
          print(f'rendered {done} of {len(source)}', flush=True)


if __name__ == '__main__':
  main(sys.argv[1])

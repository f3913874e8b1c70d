"""A small TFDS dataset; TFDS finds builders by their module."""

import numpy as np
import tensorflow_datasets as tfds

COUNT = 4


def frames(i):
  """Record `i` as an array: 2 i + 1 frames of its own shade."""
  return np.full((2 * i + 1, 16, 32, 3), 40 * i, np.uint8)


class ClipsDataset(tfds.core.GeneratorBasedBuilder):
  """Every kind of video that a record may hold.

  `files` are the bytes of record `i` as a file.
  """

  VERSION = tfds.core.Version('1.0.0')

  def __init__(self, *, files, **kwargs):
    self._files = files
    super().__init__(**kwargs)

  def _info(self):
    feature = tfds.features
    shape = (None, 16, 32, 3)
    return tfds.core.DatasetInfo(
      builder=self,
      features=feature.FeaturesDict({
        'number': np.int64,
        'video': feature.Tensor(shape=(), dtype=np.bytes_),
        'array': feature.Tensor(shape=shape, dtype=np.uint8, encoding='zlib'),
        'still': feature.Tensor(shape=(16, 32, 1), dtype=np.uint8),
        'caption': feature.Text(),
        'captions': feature.Sequence(feature.Text()),
      }),
    )

  def _split_generators(self, dl_manager):
    del dl_manager
    return {'train': self._generate_examples()}

  def _generate_examples(self):
    for i in range(COUNT):
      yield (
        i,
        {
          'number': i,
          'video': self._files[i],
          'array': frames(i),
          'still': frames(i)[0, :, :, :1],
          'caption': f'Clip {i}.',
          'captions': [f'Clip {i}.', f'Also {i}.'],
        },
      )

"""Props stand on the ground behind the actors."""

import numpy as np
import pytest

from sora_jax.data.worlds import places, props, shapes

TIME = np.arange(3) / 8


@pytest.mark.parametrize('place', places.PLACES)
@pytest.mark.parametrize('azimuth', [0.0, 2.1])
def test_props_stand_behind_the_scene(place, azimuth):
  seed = np.random.default_rng(0).random((8, 4))
  made = props.props_of(place, azimuth, seed, TIME)
  assert bool(made) == (place in props.PROPS)
  towards = np.array([np.sin(azimuth), 0.0, np.cos(azimuth)])
  for parts in made:
    centre, reach, _ = shapes.joint_bounds([p.shape for p in parts])
    assert len(centre) == len(TIME)
    assert (centre @ towards).max() < -1.4
    assert (centre - reach)[:, :, 1].min() > -0.75
    assert 0.1 < (centre + reach)[:, :, 1].max() < 4.5


def test_weed_sways_and_stone_does_not():
  seed = np.random.default_rng(0).random((8, 4))
  moves = {}
  for place in ('underwater', 'ruins'):
    made = props.props_of(place, 0.3, seed, TIME)
    centres = [shapes.joint_bounds([p.shape for p in m])[0] for m in made]
    moves[place] = max(np.ptp(c, axis=0).max() for c in centres)
  assert moves['ruins'] < 1e-12 < 0.01 < moves['underwater']

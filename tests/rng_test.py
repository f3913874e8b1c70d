import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sora_jax import flow, rng

P = 4
LAW = flow.LevelLaw(shift_base=2)


def root():
  return jax.random.key(3)


def alone(draw, tokens):
  """Noise of one clip by itself."""
  clip_key = rng.key(root(), 'noise', draw)
  return rng.token_noise(clip_key, jnp.arange(tokens), P)


def pack():
  """Clip 7 of 3 tokens and clip 9 of 2, in one row and then apart."""
  return {
    'draw': jnp.array([[7, 9], [9, -1], [-1, 7]]),
    'segment': jnp.array([
      [1, 1, 1, 2, 2, 0],
      [0, 1, 1, 0, 0, 0],
      [0, 0, 2, 2, 2, 0],
    ]),
    'index': jnp.array([
      [0, 1, 2, 0, 1, 0],
      [0, 1, 0, 0, 0, 0],
      [0, 0, 0, 1, 2, 0],
    ]),
  }


def test_a_key_depends_on_the_purpose_and_on_every_index_in_order():
  keys = [
    rng.key(root(), 'noise'),
    rng.key(root(), 'level'),
    rng.key(root(), 'noise', 1),
    rng.key(root(), 'noise', 1, 2),
    rng.key(root(), 'noise', 2, 1),
    rng.key(jax.random.key(4), 'noise', 1),
  ]
  assert len({tuple(jax.random.key_data(k).tolist()) for k in keys}) == 6


def test_a_traced_index_gives_the_key_of_the_number():
  traced = jax.jit(lambda i: rng.key(root(), 'noise', i))(jnp.int32(5))
  np.testing.assert_array_equal(
    jax.random.key_data(traced),
    jax.random.key_data(rng.key(root(), 'noise', 5)),
  )


def test_a_token_gets_its_noise_by_its_index_not_by_its_place():
  noise = alone(7, 6)
  order = jnp.array([4, 0, 5])
  np.testing.assert_array_equal(
    rng.token_noise(rng.key(root(), 'noise', 7), order, P), noise[order]
  )


@pytest.mark.parametrize('apply', [lambda f: f, jax.jit])
def test_a_clip_has_the_same_noise_packed_or_alone_in_any_row(apply):
  p = pack()
  noise = apply(lambda: rng.pack_noise(root(), **p, values=P))()
  np.testing.assert_array_equal(noise[0, :3], alone(7, 3))
  np.testing.assert_array_equal(noise[0, 3:5], alone(9, 2))
  np.testing.assert_array_equal(noise[1, [2, 1]], alone(9, 2))
  np.testing.assert_array_equal(noise[2, 2:5], alone(7, 3))
  assert jnp.isfinite(noise).all()


def test_noise_is_normal_and_differs_between_clips_and_tokens():
  noise = rng.token_noise(rng.key(root(), 'noise', 0), jnp.arange(5000), P)
  assert jnp.mean(noise) == pytest.approx(0, abs=0.03)
  assert jnp.std(noise) == pytest.approx(1, abs=0.03)
  assert len(np.unique(noise)) > 0.99 * noise.size
  assert not np.array_equal(alone(1, 3), alone(2, 3))


def test_a_group_has_the_same_level_in_any_row_and_its_clips_shift():
  draw = jnp.array([[7, 9], [9, -1]])
  levels = rng.pack_levels(
    root(),
    draw,
    group_clip=jnp.array([[1, 2, 2], [1, 0, 1]]),
    group_index=jnp.array([[0, 0, 1], [1, 0, 0]]),
    tokens_in_clip=jnp.array([[2, 8], [8, 0]]),
    law=LAW,
  )
  assert levels[0, 1] == levels[1, 2] and levels[0, 2] == levels[1, 0]
  assert levels[0, 1] != levels[0, 2]
  assert jnp.isfinite(levels).all()
  # Clip 7 has 2 tokens, the base: no shift. Clip 9 has 8: alpha = 2.
  normal = lambda *i: jax.random.normal(rng.key(root(), 'level', *i))
  assert levels[0, 0] == pytest.approx(
    float(jax.nn.sigmoid(normal(7, 0))), rel=1e-5
  )
  logit = np.log(levels[0, 2] / (1 - levels[0, 2]))
  assert logit == pytest.approx(float(normal(9, 1)) + np.log(2), rel=1e-4)


def test_all_of_some_seeds_have_to_be():
  assert rng.check_seeds(2**32 - 3, 3) == 2**32 - 3
  for first, count in ((2**32 - 3, 4), (-1, 1)):
    with pytest.raises(ValueError, match=f'seed {first} must be from 0 to'):
      rng.check_seeds(first, count)

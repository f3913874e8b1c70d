import jax.numpy as jnp
import numpy as np
import pytest

from sora_jax import tokens

SHAPE = (2, 3, 4, 10, 5)  # B F h w C, of an odd aspect
PATCHES = [(1, 1, 1), (1, 2, 2), (3, 2, 5), (1, 4, 2)]


def latents(module=np):
  return module.arange(np.prod(SHAPE)).reshape(SHAPE)


@pytest.mark.parametrize('patch', PATCHES)
@pytest.mark.parametrize('module', [np, jnp])
def test_unpatchify_undoes_patchify(patch, module):
  x = latents(module)
  folded = tokens.patchify(x, patch)
  assert isinstance(folded, type(x))
  unfolded = tokens.unpatchify(folded, SHAPE[1:4], patch)
  np.testing.assert_array_equal(unfolded, x)


@pytest.mark.parametrize('patch', PATCHES)
def test_a_token_holds_its_patch_with_channels_fastest(patch):
  x = latents()
  t, h, w = patch
  folded = tokens.patchify(x, patch)
  grid = tokens.token_grid(SHAPE[1:4], patch)
  for n, (f, y, c) in enumerate(tokens.positions(grid)):
    block = x[:, f * t :, y * h :, c * w :][:, :t, :h, :w]
    np.testing.assert_array_equal(folded[:, n], block.reshape(2, -1))


def test_raster_index_counts_tokens_in_order():
  grid = (3, 2, 5)
  position = tokens.positions(grid)
  assert position.dtype == np.int32
  np.testing.assert_array_equal(position[[0, -1]], [[0, 0, 0], [2, 1, 4]])
  np.testing.assert_array_equal(
    tokens.raster_index(position, grid), np.arange(30)
  )


def test_a_patch_that_does_not_divide_is_refused_with_both_sizes():
  with pytest.raises(ValueError, match=r'\(3, 4, 10\).*\(1, 3, 2\)'):
    tokens.patchify(latents(), (1, 3, 2))


def test_the_wrong_number_of_tokens_is_refused():
  folded = tokens.patchify(latents(), (1, 2, 2))[:, :-1]
  with pytest.raises(ValueError, match='29 tokens .* 3 x 2 x 5'):
    tokens.unpatchify(folded, SHAPE[1:4], (1, 2, 2))


def test_joined_tokens_are_those_of_a_latent_with_the_channels_of_both():
  rng = np.random.default_rng(0)
  one, other = (rng.normal(size=(2, 2, 4, 6, c)) for c in (3, 5))
  fold = lambda x: tokens.patchify(x, (1, 2, 2))
  np.testing.assert_array_equal(
    tokens.join(fold(one), fold(other), (1, 2, 2)),
    fold(np.concatenate([one, other], axis=-1)),
  )

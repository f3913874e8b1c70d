"""Programs for TPUs, by their compiler: libtpu needs none to be there."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec as P

from sora_jax import (
  batch,
  codec,
  config as config_lib,
  flow,
  generate,
  memory,
  networks,
  paint,
  podplan,
  sharding,
)
from sora_jax.models import attention, autoencoder, dit


@pytest.fixture
def chips():
  """Eight chips of a v5p, to compile for."""
  pytest.importorskip('libtpu')
  return podplan.chips('v5p:2x2x2')


@pytest.mark.parametrize('tokens', [8192, 262144, 393216])
def test_no_scores_are_kept(chips, tokens):
  mesh = sharding.make_mesh(
    sharding.MeshConfig(data=2, fsdp=2, tensor=2), chips
  )
  shape = (4, tokens, 4, 128)
  with sharding.use(mesh):
    place = NamedSharding(mesh, P(('data', 'fsdp'), None, 'tensor'))
    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place)
    row = NamedSharding(mesh, P(('data', 'fsdp')))
    segment = jax.ShapeDtypeStruct(shape[:2], jnp.int32, sharding=row)

    def loss(q, k, v, segment):
      y = attention.attend(q, k, v, segment, segment)
      return y.astype(jnp.float32).sum()

    step = jax.jit(jax.grad(loss, (0, 1, 2)))
    compiled = step.lower(x, x, x, segment).compile()
  assert 'splash' in compiled.as_text()
  row = tokens * 2 * 128 * 2  # of a chip's two heads, in bfloat16
  assert compiled.memory_analysis().temp_size_in_bytes < 20 * row


def abstract(tree, place):
  """Shapes that lie somewhere."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree
  )


def test_chips_that_share_tokens_keep_a_part_of_what_one_keeps(chips):
  """A row of 65,536 tokens in training: activations, and keys one by one."""
  config = dit.DiTConfig(
    width=1024, heads=8, mlp=4096, depth=4, remat=True, dtype='bfloat16'
  )
  params = sharding.unbox(
    jax.eval_shape(functools.partial(dit.init, config), jax.random.key(0))
  )

  def loss(params, x, level, position, row, text, words):
    y = dit.SpacetimeDiT(config).apply(
      {'params': params}, x, level, position, row, row - 1, text, words, row
    )
    return jnp.mean(y**2)

  def kept(chips, context):
    mesh = sharding.make_mesh(sharding.MeshConfig(context=context), chips)
    place = sharding.replicated(mesh)
    ints = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=place)
    floats = lambda *shape: jax.ShapeDtypeStruct(
      shape, jnp.float32, sharding=place
    )
    tokens = 65536
    with sharding.use(mesh):
      lowered = jax.jit(jax.grad(loss)).lower(
        abstract(params, place),
        *(floats(1, tokens, 64), floats(1, 1), ints(1, tokens, 3)),
        *(ints(1, tokens), floats(1, 256, 128), ints(1, 256)),
      )
    compiled = lowered.compile()
    assert 'splash' in compiled.as_text()
    return compiled.memory_analysis().temp_size_in_bytes

  # 5.1 and 1.5 GB: the keys and values of a layer are gathered on each.
  assert kept(chips, 8) < kept(chips[:1], 1) / 3


def test_the_1_3b_model_makes_81_frames_of_480p_within_8_gb(chips):
  """All of `sample` but the text encoder, which has left: 50 steps, guided."""
  config = config_lib.Config()
  config.model = dit.DiTConfig(**dit.SIZES['1.3b'], dtype='bfloat16')
  config.autoencoder = autoencoder.AutoencoderConfig(
    latent_mean=(0.0,) * 16, latent_std=(1.0,) * 16, dtype='bfloat16'
  )
  config.denoising.prediction = flow.Prediction.VELOCITY
  settings = generate.settings_of(config.sample)._replace(
    size=batch.parse_size('832x480x81'),
    sampler='unipc',
    schedule='wan',
    steps=50,
    guidance=5.0,
    window=81,
    micro_batch=1,
    tile=256,
  )
  generate.check(config, settings)
  mesh = sharding.make_mesh(sharding.MeshConfig(), chips[:1])
  whole, by_rows = sharding.replicated(mesh), sharding.batch_sharding(mesh)
  shapes = lambda name: sharding.unbox(networks.abstract(config, name))
  lean = functools.partial(dit.lean, config.model)
  params = {
    'dit': jax.eval_shape(lean, shapes('dit')),
    'autoencoder': shapes('autoencoder'),
  }
  params = abstract(params, whole)
  layout = generate.blank(config, settings.size)
  shared = abstract(generate.schedule(config, settings, layout), whole)
  shared = shared._replace(params=networks.painters(params))
  tokens, patch = 21 * 30 * 52, 64
  rows = paint.Rows(
    seed=jax.ShapeDtypeStruct((1,), jnp.uint32),
    known=jax.ShapeDtypeStruct((1, tokens, patch), jnp.float32),
    text=jax.ShapeDtypeStruct((1, 2, 512, 4096), jnp.float32),
    text_segment=jax.ShapeDtypeStruct((1, 2, 512), jnp.int32),
  )
  with sharding.use(mesh):
    run = paint.make_sampler(config, settings, mesh)
    painting = memory.needed(run, shared, abstract(rows, by_rows))
    decode = codec.Decoder(config.autoencoder, mesh, settings.tile)
    # Of the first chunk, 4.1 GB; later ones take 3.4, and minutes to compile.
    decoding = decode.needed(params['autoencoder'], 1, (9, 60, 104), False)
  weights = memory.kept(params)
  assert 2.8e9 < memory.kept(params['dit']) < 3.0e9  # 1.42 B, most in bf16
  assert weights + max(painting, decoding) < 8e9

"""What each of the networks is trained to do.

An objective is `(trainable, batch, key) -> (loss sum, count, metrics)`. The
loss is a sum over what counts (real tokens, or clips), divided by the global
count only after all micro-steps and devices are added up: nothing else is the
same on every mesh. `metrics` are sums over the same things.
"""

import dataclasses
import enum
import math
from typing import Any

import einops
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from sora_jax import batch, flow, rng, tokens
from sora_jax.data.worlds import scene_labels
from sora_jax.models import (
  autoencoder,
  contrast as contrast_lib,
  discriminator,
  dit,
  lora,
  probe,
  text,
)

Params = Any
Sums = dict[str, Array]
Video = Float[Array, 'B T H W 3']

# What is a share of what.
SHARES = {'filled': ('tokens', 'slots'), 'attended': ('pairs', 'pair_slots')}
# Metrics that are no sums over what the loss is a sum over.
WHOLE = {
  *('count', 'clips', 'broken'),
  *('grad_norm', 'skipped', 'skipped_in_row', 'judge'),
}

# Noise levels are reported in this many equal bins: a mean over all levels
# hides whether a change helped at high or at low noise.
LEVEL_BINS = 4
COVER_WEIGHT, MOTION_WEIGHT = 10.0, 4.0  # beside the attributes of a scene


class Weighting(enum.Enum):
  """How much the error of a token counts, by its noise level t."""

  VELOCITY = 'velocity'  # as that of the velocity, at every level alike
  # By 4 t (1 - t) less near both ends. There the errors that nothing could
  # foretell are largest, and drown what there is to learn from a caption.
  BALANCED = 'balanced'


@dataclasses.dataclass(kw_only=True)
class DenoisingConfig:
  """What the diffusion transformer predicts, and at which noise levels."""

  prediction: flow.Prediction = flow.Prediction.X0
  weighting: Weighting = Weighting.VELOCITY
  level: flow.LevelLaw = dataclasses.field(default_factory=flow.LevelLaw)


@dataclasses.dataclass(kw_only=True)
class ReconstructionConfig:
  """Weights of the autoencoder's loss; 0 switches a part off."""

  squared: float = 1.0  # of the squared error, beside L1 whose weight is 1
  multiscale: float = 1.0  # of the L1 error at half and quarter size
  kl: float = 1e-4  # of the mean KL divergence of a latent value
  adversarial: float = 0.0  # of the patch discriminator's verdict
  adversarial_start: int = 0  # step from which it counts
  # Latents stay as other networks know them, and are only better read.
  decoder_only: bool = False


def denoise(
  config: dit.DiTConfig,
  params: Params,
  x: Float[Array, 'B N P'],
  level: Float[Array, 'B G'],
  pack: batch.Pack,
  features: Float[Array, 'B L E'],
  adapters: Params = None,
) -> Float[Array, 'B N P_out']:
  """The network's prediction for the tokens `x` of a pack."""
  added = {lora.COLLECTION: adapters} if adapters else {}
  if pack.condition is not None:
    x = tokens.join(x, pack.condition, config.patch)
  return dit.SpacetimeDiT(config).apply(
    {'params': params, **added},
    x,
    level,
    pack.position,
    pack.segment,
    pack.group,
    features,
    pack.text_segment,
    pack.text_of,
  )


def text_features(
  config: text.TextConfig, params: Params, pack: batch.Pack
) -> Float[Array, 'B L E']:
  """Cached features where the pack has them, else the encoder's own."""
  if pack.text is not None:
    return pack.text
  return text.T5Encoder(config).apply(
    {'params': params}, pack.text_ids, pack.text_segment
  )


def denoising(
  trainable: Params,
  pack: batch.Pack,
  key: Key[Array, ''],
  *,
  model: dit.DiTConfig,
  encoder: text.TextConfig,
  config: DenoisingConfig,
) -> tuple[Array, Array, Sums]:
  """Squared error of the velocity that the network's prediction means.

  The network sees `(1 - t) x0 + t noise` and, by default, gives the clean
  patches: "given input noisy patches (and conditioning information like text
  prompts), it is trained to predict the original 'clean' patches" (Brooks et
  al. 2024, Video generation models as world simulators).

  Args:
    trainable: {'dit', 'text'}; no 'text' where features are cached. With
      'lora', adapters of the 'dit' that count as they are.
    pack: Clean tokens and what surrounds them.
    key: The run's root key; draws are named by clip, not by step.
  """
  noise = rng.pack_noise(
    key, pack.draw, pack.segment, pack.index, pack.tokens.shape[-1]
  )
  level = rng.pack_levels(
    key,
    pack.draw,
    pack.group_clip,
    pack.group_index,
    pack.tokens_in_clip,
    config.level,
  )
  level = jnp.where(pack.group_clean > 0, 0.0, level)
  t = jnp.take_along_axis(level, pack.group, axis=1)
  x_t = flow.interpolate(pack.tokens, noise, t)
  features = text_features(encoder, trainable.get('text'), pack)
  prediction = denoise(
    model, trainable['dit'], x_t, level, pack, features, trainable.get('lora')
  )
  error = flow.velocity_error(
    prediction, pack.tokens, noise, t, config.prediction
  )
  counted = ((pack.segment > 0) & (t > 0)).astype(jnp.float32)
  metrics = {
    'clips': jnp.sum(pack.draw >= 0),
    'broken': jnp.sum(pack.draw == batch.BROKEN),
    'tokens': jnp.sum(counted),
    'slots': jnp.float32(counted.size),
    # Pairs of a query and a key of its own clip, of all pairs in a row.
    'pairs': jnp.sum(jnp.float32(pack.tokens_in_clip) ** 2),
    'pair_slots': jnp.float32(counted.size * counted.shape[1]),
  }
  for i in range(LEVEL_BINS):
    low, high = i / LEVEL_BINS, (i + 1) / LEVEL_BINS
    inside = counted * ((t > low) & (t <= high))
    metrics[f'loss_level_{low:.2f}'] = jnp.sum(error * inside)
    metrics[f'count_level_{low:.2f}'] = jnp.sum(inside)
  if config.weighting is Weighting.BALANCED:
    error *= 4.0 * t * (1.0 - t)
  return jnp.sum(error * counted), jnp.sum(counted), metrics


def contrast(
  trainable: Params, pack: batch.Pack, *, encoder: text.TextConfig
) -> tuple[Array, Array, Sums]:
  """Cross-entropy of telling which caption is a clip's, and which clip its.

  Over all clips of the batch, both ways; two clips with one caption count as
  different.

  Args:
    trainable: {'text', 'contrast'}.
    pack: Clean tokens and their captions, none of them dropped.
    encoder: The text encoder's config.
  """
  features = text_features(encoder, trainable['text'], pack)
  scores = contrast_lib.scores(trainable['contrast'], pack, features)
  there = (pack.draw >= 0).reshape(-1)
  scores = jnp.where(there[None] & there[:, None], scores, -1e30)
  ways = (jax.nn.log_softmax(scores, axis=i) for i in (0, 1))
  loss = -0.5 * sum(jnp.diagonal(way) for way in ways)
  right = jnp.argmax(scores, axis=1) == jnp.arange(len(scores))
  count = jnp.sum(there.astype(jnp.float32))
  metrics = {
    'clips': jnp.sum(there),
    'broken': jnp.sum(pack.draw == batch.BROKEN),
    'tokens': jnp.sum(pack.segment > 0),
    'right': jnp.sum(right & there),
  }
  return jnp.sum(jnp.where(there, loss, 0.0)), count, metrics


def recognition(
  trainable: Params, clips: batch.Labelled, *, model: probe.ProbeConfig
) -> tuple[Array, Array, Sums]:
  """Cross-entropy of each attribute that a clip has, summed over them.

  And that of how much actors cover, of each place, which teaches where to look,
  and the distance of motions, which teaches what moves.

  Args:
    trainable: {'probe'}.
    clips: With labels.
    model: The probe's config.
  """
  seen = probe.look(model, trainable['probe'], to_pixels(clips.video))
  covered = optax.sigmoid_binary_cross_entropy(
    seen.cover, probe.places(clips.mask)
  ).mean(axis=(1, 2, 3))
  missed = optax.huber_loss(seen.motions, probe.pairs(clips.motions))
  missed = missed.mean(axis=(1, 2))
  loss = COVER_WEIGHT * covered + MOTION_WEIGHT * missed
  right = asked = jnp.zeros(len(loss))
  parts = jnp.split(seen.scores, scene_labels.CUTS, axis=1)
  for label, part in zip(clips.labels.T, parts, strict=True):
    there = (label >= 0).astype(jnp.float32)
    chosen = jnp.maximum(label, 0)[:, None]
    log_share = jax.nn.log_softmax(part)
    loss -= there * jnp.take_along_axis(log_share, chosen, axis=1)[:, 0]
    right += there * (jnp.argmax(part, axis=1) == label)
    asked += there
  count = jnp.float32(len(loss))
  metrics = {
    'clips': count,
    'broken': jnp.int32(0),
    'tokens': jnp.float32(math.prod(clips.video.shape[:2])),
    'right': jnp.sum(right / asked),
    'covered': jnp.sum(covered),
    'missed': jnp.sum(missed),
  }
  return jnp.sum(loss), count, metrics


def to_pixels(video: Array) -> Video:
  """uint8 to [-1, 1]."""
  return video.astype(jnp.float32) / 127.5 - 1.0


def reconstruction(
  trainable: Params,
  frames: batch.Frames,
  key: Key[Array, ''],
  *,
  model: autoencoder.AutoencoderConfig,
  config: ReconstructionConfig,
  judge: Params | None = None,
  step: Array | int = 0,
) -> tuple[Array, Array, Sums]:
  """Error of pixels, at three scales, KL divergence, and a judge if asked.

  L1 alone is content with the median: a small ball on white stays white for
  long. The squared error is not, and it is what PSNR measures.

  Latents are sampled as in a variational autoencoder (Kingma and Welling
  2013, arXiv:1312.6114), which makes the decoder bear small errors in them.

  Args:
    trainable: {'autoencoder'}.
    frames: Crops of one size.
    key: The run's root key.
    judge: Parameters of the discriminator; None where it is off.
    step: Of the run, for `adversarial_start`.
  """
  video = to_pixels(frames.video)
  net = autoencoder.Autoencoder(model)
  params = {'params': trainable['autoencoder']}
  mean, log_variance = net.apply(params, video, method='encode')
  if config.decoder_only:
    mean, log_variance = jax.lax.stop_gradient((mean, log_variance))
  noise = jax.vmap(
    lambda d: jax.random.normal(rng.key(key, 'latent', d), mean.shape[1:])
  )(frames.draw)
  z = mean + jnp.exp(0.5 * log_variance) * noise
  decoded = net.apply(params, z, method='decode')

  error = jnp.mean(jnp.abs(decoded - video), axis=(1, 2, 3, 4))
  squared = jnp.mean((decoded - video) ** 2, axis=(1, 2, 3, 4))
  coarse = _coarse_error(decoded - video)
  kl = 0.5 * (mean**2 + jnp.exp(log_variance) - 1.0 - log_variance)
  kl = jnp.mean(kl, axis=(1, 2, 3, 4))
  loss = error + config.squared * squared
  loss += config.multiscale * coarse + config.kl * kl
  if judge is not None:
    verdict = discriminator.judge(judge, decoded)
    on = jnp.asarray(step >= config.adversarial_start, jnp.float32)
    loss = loss - on * config.adversarial * verdict
  counted = (frames.draw >= 0).astype(jnp.float32)
  metrics = {
    'clips': jnp.sum(counted),
    'broken': jnp.sum(frames.draw == batch.BROKEN),
    'tokens': jnp.sum(counted) * math.prod(z.shape[1:4]),
    'l1': jnp.sum(error * counted),
    'mse': jnp.sum(squared * counted),
    'kl': jnp.sum(kl * counted),
  }
  return jnp.sum(loss * counted), jnp.sum(counted), metrics


def _coarse_error(difference: Video) -> Float[Array, ' B']:
  """Mean absolute error of the picture at half and at quarter size.

  At a coarse scale a small constant tint costs as much as at full size, while
  noise averages out: it pulls colours and brightness right early.
  """
  half = _halve(difference)
  mean = lambda x: jnp.mean(jnp.abs(x), axis=(1, 2, 3, 4))
  return mean(half) + mean(_halve(half))


def _halve(video: Video) -> Float[Array, 'B T U V 3']:
  """Means of 2 x 2 pixels."""
  return einops.reduce(
    video, 'B T (H h) (W w) C -> B T H W C', 'mean', h=2, w=2
  )


def discrimination(
  judge: Params,
  trainable: Params,
  frames: batch.Frames,
  *,
  model: autoencoder.AutoencoderConfig,
) -> tuple[Array, Array, Sums]:
  """Hinge loss of the discriminator on real crops and their reconstructions.

  Source: Lim and Ye 2017 (arXiv:1705.02894), as in VQGAN (arXiv:2012.09841).
  """
  video = to_pixels(frames.video)
  params = {'params': trainable['autoencoder']}
  decoded = autoencoder.Autoencoder(model).apply(params, video)
  real = discriminator.patches(judge, video)
  fake = discriminator.patches(judge, jax.lax.stop_gradient(decoded))
  loss = jax.nn.relu(1.0 - real) + jax.nn.relu(1.0 + fake)
  loss = jnp.mean(loss, axis=(1, 2, 3, 4))
  counted = (frames.draw >= 0).astype(jnp.float32)
  return jnp.sum(loss * counted), jnp.sum(counted), {}


def means(sums: dict[str, float]) -> dict[str, float]:
  """Metrics of a step from its sums: what is divided by which count.

  `count_level_*` belongs to the `loss_level_*` of the same name; a level that
  the step did not draw is left out. `filled` is the share of token slots that
  hold a token, `attended` that of a row's pairs of them that lie within a clip.
  The other sums of an objective are over the same things as its loss.
  """
  out = {
    name: sums[part] / sums[whole]
    for name, (part, whole) in SHARES.items()
    if whole in sums
  }
  parts = {name for pair in SHARES.values() for name in pair}
  for name, value in sums.items():
    if name.startswith('count_level') or name in parts:
      continue
    if name.startswith('loss_level'):
      count = sums[name.replace('loss', 'count')]
      if count:
        out[name] = value / count
    else:
      out[name] = value if name in WHOLE else value / max(sums['count'], 1)
  return out

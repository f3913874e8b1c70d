"""Prompts to files, and a manifest of what was made: `launch.py sample`."""

import functools
import hashlib
import json
import os
import threading
import types
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from sora_jax import (
  batch,
  captions,
  config as config_lib,
  generate,
  label as label_lib,
  networks as networks_lib,
  prompting,
  provenance,
  rng,
  sharding,
  spool,
  tasks,
)
from sora_jax.data import encoders, sheets, video

MANIFEST = 'manifest.jsonl'
LONGEST_NAME = 80  # characters before the seed


def main(
  config: config_lib.Config | None, flags: types.SimpleNamespace
) -> None:
  """`launch.py sample`: prompts to files, and a manifest of what was made."""
  del config
  if getattr(flags, 'multihost', False):
    sharding.join_hosts()
  label = label_lib.of(flags)
  sharding.use_cores()
  model = epath.Path(flags.model or networks_lib.SHIPPED)
  networks = networks_lib.read(model)
  for place in flags.lora or ():
    networks = networks_lib.adapt(networks, place)
  settings = override(generate.settings_of(networks.config.sample), flags)
  generate.check(networks.config, settings)
  requests = read_requests(flags)
  prompts = [request.prompt for request in requests]
  scene = prompting.scene_of(flags, networks, settings, prompts)
  latents = scene.canvas.frames
  generate.check_window(settings, networks.config.autoencoder.time, latents)
  requests = [r._replace(canvas=scene.canvas) for r in requests]
  if note := unlearned(scene.size, networks.config.sample.sizes):
    print(note)
  out = epath.Path(flags.out)
  if out.suffix and not out.is_dir():
    _check_one_file(out, len(requests), flags.format)
    paths = [out]
  else:
    paths = [
      out / f'{name_of(i, r, flags.task)}.{flags.format or "mp4"}'
      for i, r in enumerate(requests)
    ]
  run_card = card(networks, settings) | {
    'model': model.name,
    'size': str(scene.size),
    'task': flags.task,
    'scene_sha256': scene.digest,
    **prompting.numbers_of(flags),
  }
  inputs = prompting.inputs_of(flags)
  _gather(paths[0].parent)
  own = slice(jax.process_index(), None, jax.process_count())
  if paths[own]:
    write_all(
      networks,
      settings,
      scene,
      requests[own],
      paths[own],
      run_card,
      label,
      inputs,
    )
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('clips')
  _gather(paths[0].parent)


def _check_one_file(out: epath.Path, count: int, format_: str | None) -> None:
  if count > 1:
    raise ValueError(
      f'--out={out} is one file, and there are {count} prompts; give a '
      'directory'
    )
  if format_ and out.suffix.lower() != f'.{format_}':
    raise ValueError(f'--out={out} is no {format_}; leave out --format')


def override(
  settings: generate.Settings, flags: types.SimpleNamespace
) -> generate.Settings:
  """generate.Settings with those replaced that were given as flags.

  Raises:
    ValueError: they would make nothing.
  """
  given = {
    name: getattr(flags, name)
    for name in generate.Settings._fields
    if getattr(flags, name, None) is not None
  }
  if 'guidance' in given and settings.boundary:  # of both experts
    given = {'guidance_below': given['guidance']} | given
  settings = settings._replace(**given)
  if settings.guidance_rule == 'zero_star' and settings.steps == 1:
    raise ValueError(
      '--guidance_rule=zero_star leaves out the first step, and --steps=1 has '
      'no other; take 2 or more'
    )
  return settings


def unlearned(size: batch.Size, learned: Sequence[str]) -> str:
  """What to say of a size that a model did not learn, or nothing.

  Longer clips go in windows; but who has seen stills has not seen motion.
  """
  sides = lambda size: f'{size.width}x{size.height}'
  sizes = map(batch.parse_size, learned)
  still = size.frames == 1
  known = [sides(s) for s in sizes if (s.frames == 1) == still]
  known = list(dict.fromkeys(known))
  if not learned or sides(size) in known:
    return ''
  kind = 'stills' if still else 'clips'
  if not known:
    return f'note: the model learned no {kind}, which it may make worse'
  more = f' and {len(known) - 8} more' if len(known) > 8 else ''
  return (
    f'note: the model learned {kind} of {", ".join(known[:8])}{more}; at '
    f'{sides(size)} it may do worse'
  )


def read_requests(flags: types.SimpleNamespace) -> list[generate.Request]:
  """Prompts of --prompt and --prompts; the k-th has the seed --seed + k."""
  prompts = list(flags.prompt or [])
  if flags.prompts:
    try:
      lines = epath.Path(flags.prompts).read_text().splitlines()
    except UnicodeDecodeError as error:
      raise ValueError(f'--prompts={flags.prompts} is not UTF-8') from error
    prompts += [line.strip() for line in lines if line.strip()]
  if not prompts:
    raise ValueError('no prompt: give --prompt=TEXT or --prompts=FILE')
  # A shell may break a long prompt; its lines are one sentence.
  prompts = [' '.join(prompt.split()) for prompt in prompts]
  lines = [prompt.replace(prompting.BETWEEN_LINES, '\n') for prompt in prompts]
  rng.check_seeds(flags.seed, len(lines))
  return [generate.Request(p, flags.seed + i) for i, p in enumerate(lines)]


def one_line(prompt: str) -> str:
  """A prompt as a flag gives it."""
  return prompt.replace('\n', prompting.BETWEEN_LINES)


def name_of(index: int, request: generate.Request, task: str = 'text') -> str:
  """A file name that sorts by place and says what the clip should show."""
  words = ''.join(c if c.isalnum() else ' ' for c in request.prompt).split()
  name = f'{index:04d}' if task == 'text' else f'{index:04d}_{task}'
  for word in words:
    if len(name) + len(word) >= LONGEST_NAME:
      break
    name += f'_{word}'
  return f'{name}_seed{request.seed}'


def card(
  networks: networks_lib.Networks, settings: generate.Settings
) -> dict[str, Any]:
  """What the bits of a clip depend on, besides its prompt and seed."""
  fields = settings._asdict() | {'size': str(settings.size)}
  if jax.default_backend() == 'gpu':
    fields['xla_flags'] = os.environ.get('XLA_FLAGS', '')
  return fields | {
    'fps': networks.config.sample.fps,
    'weights_sha256': networks_lib.digest(networks.params),
    'config_sha256': networks_lib.config_digest(networks, settings.cache),
    'jax': jax.__version__,
    'device': jax.devices()[0].device_kind,
  }


def write_all(
  networks: networks_lib.Networks,
  settings: generate.Settings,
  scene: tasks.Scene,
  requests: list[generate.Request],
  paths: list[epath.Path],
  run_card: dict[str, Any],
  label: label_lib.Label,
  inputs: tuple[provenance.Input, ...],
) -> list[dict[str, Any]]:
  """Writes what is not there yet; returns the manifest's lines of all.

  All requests have the canvas of the scene, which the inputs made.

  The manifest lies beside the files. A clip is left as it is where the
  manifest has it with the same prompt, seed, card and label, and its file has
  the bytes that the manifest says. Of several processes each keeps one of its
  own, see `_gather`.
  """
  check_paths(paths, scene.size)
  manifest = paths[0].parent / MANIFEST
  paths[0].parent.mkdir(parents=True, exist_ok=True)
  known = _read_manifest(manifest)
  if jax.process_count() > 1:
    manifest = manifest.with_name(f'manifest.{jax.process_index()}.jsonl')
    known |= _read_manifest(manifest)
    known = {p.name: known[p.name] for p in paths if p.name in known}
  also = run_card | label.card
  if inputs and label.signer:  # of equal frames, labels may differ
    told = [[x.name, hashlib.sha256(x.data).hexdigest()] for x in inputs]
    also |= {'inputs': told}
  wanted = [
    {'file': p.name, 'prompt': r.prompt, 'seed': r.seed} | also
    for p, r in zip(paths, requests, strict=True)
  ]
  todo = [
    i
    for i, path in enumerate(paths)
    if not _is_made(path, known.get(path.name, {}), wanted[i])
  ]
  if len(todo) < len(paths):
    print(f'{len(paths) - len(todo)} of {len(paths)} are there already')
    for i in sorted(set(range(len(paths))) - set(todo)):
      _tell(paths[i], known[paths[i].name])
  if replaced := sum(paths[i].exists() for i in todo):
    print(f'{replaced} were made otherwise, and are replaced')
  if not todo:
    return [known[path.name] for path in paths]
  lock = threading.Lock()

  def write(i: int, parts: Iterator[tuple[np.ndarray, tasks.Video]]) -> None:
    facts = facts_of(requests[i], label) | run_card
    fps = networks.config.sample.fps
    hashes = _write(scene, paths[i], fps, label, facts, inputs, parts)
    with lock:
      known[paths[i].name] = wanted[i] | hashes
      _write_manifest(manifest, known)
      _tell(paths[i], known[paths[i].name])

  mesh = generate.mesh_for(len(todo), settings)
  stream = generate.Stream(networks, settings, mesh, tell=print)
  stream.listen(requests[i] for i in todo)
  count = generate.slots(settings, mesh)
  for first in range(0, len(todo), count):
    group = todo[first : first + count]
    parts = stream([requests[i] for i in group])
    rows = (list(zip(*part, strict=True)) for part in parts)
    spool.spread(rows, [functools.partial(write, i) for i in group])
  return [known[path.name] for path in paths]


def _tell(path: epath.Path, row: dict[str, Any]) -> None:
  """Says of a line of the manifest what a reader looks for."""
  print(
    f'{path}  latent {row["latent_sha256"][:16]}  {one_line(row["prompt"])}'
  )


def _write(
  scene: tasks.Scene,
  path: epath.Path,
  fps: float,
  label: label_lib.Label,
  facts: dict[str, Any],
  inputs: tuple[provenance.Input, ...],
  parts: Iterator[tuple[np.ndarray, tasks.Video]],
) -> dict[str, str]:
  """Writes a clip whose latents and frames come part by part; its hashes."""
  digest = hashlib.sha256()

  def frames():
    for latent, part in parts:
      digest.update(generate.latent_bytes(latent))
      yield part

  hashed = lambda: {'latent_sha256': digest.hexdigest()}
  tell = lambda: facts | hashed()
  finished = scene.finish(frames())
  hashes = label_lib.write(path, finished, fps, label, tell, inputs)
  return hashed() | hashes


def facts_of(
  request: generate.Request, label: label_lib.Label
) -> dict[str, Any]:
  """What a label tells of a request; the prompt only where it shall."""
  prompt = {'prompt': request.prompt} if label.prompt else {}
  return {'seed': request.seed} | prompt


def check_paths(paths: list[epath.Path], size: batch.Size) -> None:
  """Raises ValueError for files that cannot hold a clip of this size."""
  for path in paths:
    suffix = path.suffix.lower()
    if suffix not in encoders.ENCODERS:
      known = ', '.join(encoders.ENCODERS)
      raise ValueError(f'{path}: cannot write type {suffix!r}; one of {known}')
    if suffix in encoders.STILLS and size.frames > 1:
      raise ValueError(
        f'{path}: {suffix[1:]} holds 1 frame, not {size.frames}; write .mp4, '
        f'.gif or .webp, or ask for --size={size.width}x{size.height}'
      )


def _is_made(
  path: epath.Path, row: dict[str, Any], wanted: dict[str, Any]
) -> bool:
  """Whether a file is the clip that is wanted, by its line of the manifest."""
  same = wanted.items() <= row.items()
  return same and path.exists() and row['file_sha256'] == _sha256(path)


def _sha256(path: epath.Path) -> str:
  return hashlib.sha256(path.read_bytes()).hexdigest()


def _gather(folder: epath.Path) -> None:
  """Puts what each of several processes has told into the one manifest.

  Where they share no folder, each keeps what it has told beside its own files.
  """
  parts = sorted(folder.glob('manifest.*.jsonl'))
  if jax.process_index() == 0 and parts:
    known = _read_manifest(folder / MANIFEST)
    for part in parts:
      known |= _read_manifest(part)
    _write_manifest(folder / MANIFEST, known)
    for part in parts:
      part.unlink()
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices('manifests')


def _read_manifest(path: epath.Path) -> dict[str, dict[str, Any]]:
  """Lines of a manifest by their files."""
  if not path.exists():
    return {}
  try:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row['file']: row for row in rows}
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f'{path} is damaged ({error}); remove it to make its clips again'
    ) from error


def _write_manifest(path: epath.Path, known: dict[str, dict[str, Any]]) -> None:
  partial = path.with_name(path.name + '.part')
  rows = (known[name] for name in sorted(known))
  partial.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  partial.replace(path)


def check_config(config: config_lib.Config) -> None:
  """Raises ValueError for what `sample_while_training` could not make."""
  generate.check(config, generate.settings_of(config.sample))
  if config.model.condition_channels:
    raise ValueError(
      f'run.sample_every={config.run.sample_every} must be 0, as the network '
      'starts from an image, and sample.prompts have none'
    )
  if not config.sample.fps > 0:
    raise ValueError(f'sample.fps={config.sample.fps} must be above 0')
  encode = networks_lib.read_tokenizer(config).encode
  for prompt in config.sample.prompts:
    for caption in captions.split(prompt):
      encode(caption, config.sample.text_slots)


def sample_while_training(
  config: config_lib.Config,
  params: dict[str, Any],
  directory_of_step: epath.Path,
) -> None:
  """Writes a clip of each of `sample.prompts` and a sheet of them all."""
  tokenizer = networks_lib.read_tokenizer(config)
  networks = networks_lib.Networks(config, params, tokenizer)
  settings = generate.settings_of(config.sample)
  requests = [
    generate.Request(p, i) for i, p in enumerate(config.sample.prompts)
  ]
  clips = list(generate.sample(networks, requests, settings))
  directory_of_step.mkdir(parents=True, exist_ok=True)
  for i, clip in enumerate(clips):
    path = directory_of_step / f'{name_of(i, clip.request)}.mp4'
    video.write_video(path, clip.video, config.sample.fps)
  if clips:
    sheet = sheets.contact_sheet(
      [c.video for c in clips], labels=[c.request.prompt for c in clips]
    )
    video.write_video(directory_of_step / 'sheet.png', sheet[None], 1.0)

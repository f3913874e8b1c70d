"""Entry point: `python launch.py VERB [--FLAG=VALUE ...]`; see --help."""

from absl import flags

from sora_jax import cli

CONFIG = cli.Flag('config', 'FILE.py[:ARG]', 'the experiment', required=True)
WORKDIR = cli.Flag(
  'workdir', 'DIR', 'where the run is kept and resumed', required=True
)
MODEL = cli.Flag('model', 'DIR', 'model or run to use (the one that ships)')
WORLD = cli.choice(
  'world', ('balls', 'scenes'), 'of the clips', default='balls'
)

VERBS = {
  'demo': cli.Verb(
    'sora_jax.demo',
    'Sample a model; write, show and score its videos.',
    MODEL,
    WORLD,
    cli.Flag('out', 'DIR', 'where the videos go', default='demo'),
    cli.count('cases', 'held-out prompts to score', default=64),
    cli.count('seed', 'seed of the samples', lowest=0, default=0),
    cli.switch('retrain', 'train the model first'),
  ),
  'train': cli.Verb(
    'sora_jax.train',
    'Train an autoencoder, text encoder, DiT or probe; resumes by itself.',
    CONFIG,
    WORKDIR,
    cli.switch('multihost', 'join the other hosts'),
  ),
  'plan': cli.Verb(
    'sora_jax.podplan',
    'Say what training takes of TPUs, by their compiler alone.',
    CONFIG,
    cli.Flag('topology', 'KIND:XxYxZ', 'as v5p:4x4x4', required=True),
    cli.count('slices', 'of that form, joined by a network', default=1),
  ),
  'sample': cli.Verb(
    'sora_jax.sample',
    'Turn prompts into videos.',
    MODEL,
    cli.Flag('prompt', 'TEXT', 'repeatable', flags.DEFINE_multi_string),
    cli.Flag('prompts', 'FILE', 'prompts, one a line; resumes by itself'),
    cli.switch('multihost', 'share them out with the other hosts'),
    cli.Flag('task', 'NAME', 'way of prompting; see README', default='text'),
    cli.Flag('image', 'FILE', 'repeatable', flags.DEFINE_multi_string),
    cli.Flag('video', 'FILE', 'repeatable', flags.DEFINE_multi_string),
    cli.Flag('mask', 'FILE', 'what to replace, or LEFT,TOP,WIDTH,HEIGHT'),
    cli.count('frames', 'to make: 4 k (16), or to connect 4 k - 1 (19)'),
    cli.count('keep', 'latents, of 4 frames, to go on from (2)'),
    cli.Flag('strength', '0..1', 'of an edit (0.6)', flags.DEFINE_float),
    cli.Flag('place', 'LEFT,TOP', 'of a video in a larger frame (middle)'),
    cli.count('seed', 'seed of the first prompt', lowest=0, default=0),
    cli.Flag(
      'size',
      'WxHxT',
      'this and what follows: as the model says',
      cli.DEFINE_size,
    ),
    cli.count('steps', 'solver steps'),
    cli.Flag('schedule', 'NAME', 'of their levels: even or wan'),
    cli.Flag('shift', 'FACTOR', 'of levels to noise', flags.DEFINE_float),
    cli.Flag(
      'lora',
      'FILE',
      'repeatable: adapters; of two experts high:FILE',
      flags.DEFINE_multi_string,
    ),
    cli.Flag('negative', 'TEXT', 'prompt to move away from'),
    cli.Flag('guidance', 'SCALE', 'toward the prompt', flags.DEFINE_float),
    cli.Flag(
      'guidance_below',
      'SCALE',
      'of the second of two experts',
      flags.DEFINE_float,
    ),
    cli.Flag('guidance_rule', 'NAME', 'cfg or zero_star'),
    cli.Flag('guidance_low', 'LEVEL', 'guide above it', flags.DEFINE_float),
    cli.Flag('guidance_high', 'LEVEL', 'and up to it', flags.DEFINE_float),
    cli.Flag('sampler', 'NAME', 'euler, heun, unipc or ancestral'),
    cli.Flag(
      'text_on_host', '', 'the text encoder runs on the CPU', flags.DEFINE_bool
    ),
    cli.count('tile', 'pixels a side to decode at once; 0: all', lowest=0),
    cli.count('micro_batch', 'videos sampled at once'),
    cli.count('window', 'frames painted at once; more go in windows'),
    cli.count('overlap', 'latents that a window goes on from'),
    cli.Flag(
      'cache',
      'CHANGE',
      'let pass without a call of the network; 0: off',
      flags.DEFINE_float,
    ),
    cli.Flag('out', 'PATH', 'a file, or a directory', default='samples'),
    cli.choice('format', ('mp4', 'gif', 'webp', 'png', 'jpg'), 'of the files'),
    cli.switch('label_prompt', 'the label also says the prompt'),
    cli.switch('visible_label', 'letters in a corner say AI'),
    cli.Flag('tsa_url', 'URL', 'authority that stamps the time of signing'),
    cli.Flag('certificate', 'PEM', 'to sign with, and its chain (a local one)'),
    cli.Flag('key', 'PEM', 'of the certificate'),
    cli.switch('unlabelled', 'neither a label nor a watermark'),
  ),
  'verify': cli.Verb(
    'sora_jax.verify',
    'Say whether files are as they were labelled, and what labels say.',
    cli.Flag('trust', 'PEM', 'certificates of signers to trust'),
    files=True,
  ),
  'prepare': cli.Verb(
    'sora_jax.prepare',
    'Turn videos into a manifest of latents and text, to train on.',
    CONFIG,
    WORKDIR,
    cli.Flag('data', 'DIR', 'the videos (else config.data says)'),
  ),
  'evaluate': cli.Verb(
    'sora_jax.evaluate',
    'Score reconstruction and generation; a table and a JSON.',
    MODEL,
    cli.count('cases', 'held-out clips or prompts to score', default=64),
    cli.count('seed', 'seed of the first sample', lowest=0, default=0),
    WORLD,
    cli.Flag(
      'suite', 'tasks|NAME,...', 'to score ways of prompting instead, or some'
    ),
    cli.Flag('data', 'DIR', 'videos to reconstruct as well'),
    cli.Flag('extractor', 'FILE', 'TorchScript to tell Frechet distances by'),
    cli.Flag('out', 'DIR', 'where the scores go', default='evaluation'),
  ),
  'bench': cli.Verb(
    'sora_jax.bench',
    'See whether the same bits come out, and how soon.',
    MODEL,
    cli.choice('what', ('determinism', 'cache', 'speed'), 'to measure'),
    cli.Flag('compare', 'A,B', 'or two folders that `sample` wrote'),
    cli.count('steps', 'solver steps (4; else as the model says)'),
    cli.count('repeats', 'of one request (20)'),
    cli.switch('store', 'the curve of the cache in the model of --model'),
  ),
  'parity': cli.Verb(
    'sora_jax.parity',
    'Hold the networks of a model against diffusers and transformers.',
    MODEL,
  ),
}

if __name__ == '__main__':
  cli.run(VERBS)

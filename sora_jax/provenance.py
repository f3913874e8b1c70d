"""Content credentials: what a file says of its making, signed; and read back.

A manifest of C2PA is put into the bytes of an mp4, png, jpg, webp or gif. It
says that the media were made by a trained network, of which inputs, and with
which settings; an input that has a manifest itself keeps it inside ours.

Nothing here uses the network, but for a time stamp where one is asked for.
Source: C2PA technical specification 2.2; IPTC digital source types.
"""

import hashlib
import importlib.metadata
import io
import json
import urllib.parse
from typing import Any, NamedTuple

import c2pa
from cryptography.hazmat.primitives.asymmetric import ed25519

from sora_jax import certificate, seal

TYPES = {
  '.mp4': 'video/mp4',
  '.gif': 'image/gif',
  '.webp': 'image/webp',
  '.png': 'image/png',
  '.jpg': 'image/jpeg',
  '.jpeg': 'image/jpeg',
  '.avi': 'video/x-msvideo',  # of inputs only
}
# What files begin with, or have a little further on, whatever their names say.
SIGNS = (
  (4, b'ftyp', '.mp4'),  # also .mov and .m4v
  (8, b'AVI ', '.avi'),
  (0, b'GIF8', '.gif'),
  (8, b'WEBP', '.webp'),
  (0, b'\x89PNG', '.png'),
  (0, b'\xff\xd8\xff', '.jpg'),
)
# In the name of most boxes of a manifest: what is left of a damaged one.
TRACE = b'jumdc2'
FACTS = 'org.sora-jax.generation'  # our own assertion
SOURCE_TYPE = 'http://cv.iptc.org/newscodes/digitalsourcetype/'
MADE = f'{SOURCE_TYPE}trainedAlgorithmicMedia'
MIXED = f'{SOURCE_TYPE}compositeWithTrainedAlgorithmicMedia'

# Roles of inputs.
PARENT, COMPONENT, INPUT = 'parentOf', 'componentOf', 'inputTo'

UNKNOWN_SIGNER = 'signingCredential.untrusted'  # as C2PA says it
UNREADABLE = 'the manifest cannot be read'  # as a reason
TRUSTED, VALID, TAMPERED = 'trusted', 'valid', 'tampered'
UNLABELLED, WATERMARK_ONLY = 'unlabelled', 'watermark only'
WORSE_AND_WORSE = VALID, UNLABELLED, TAMPERED  # of inputs


class Ingredient(NamedTuple):
  """What a label says of an input."""

  name: str
  role: str
  label: str  # VALID, TAMPERED or UNLABELLED, when it came in
  generator: str  # that its own label names


class Report(NamedTuple):
  """What is to be believed of a file, and what it says."""

  verdict: str
  reasons: tuple[str, ...] = ()  # why it is not valid
  signer: str = ''
  time: str = ''  # of a stamp on this signature, by whatever authority
  time_trusted: bool = False  # whether that authority is trusted
  generator: str = ''
  source_type: str = ''  # of IPTC, its last word
  facts: dict[str, Any] = {}
  inputs: tuple[Ingredient, ...] = ()


class Input(NamedTuple):
  """A file that a clip is made of, as what it went in, and its own label."""

  name: str
  data: bytes
  role: str  # PARENT, COMPONENT or INPUT
  report: Report

  @property
  def mime(self) -> str:
    """The type of its bytes; '' of one that C2PA does not open."""
    return TYPES.get(_type_of(self.data), '')


def examine(name: str, data: bytes, role: str) -> Input:
  """An input; its label is read here, once for all clips made of it."""
  return Input(name, data, role, read(data))


def sign(
  data: bytes,
  suffix: str,
  signer: certificate.Signer,
  facts: dict[str, Any],
  inputs: tuple[Input, ...] = (),
  tsa_url: str = '',
) -> bytes:
  """The bytes of a file with a manifest, each of them bound.

  Raises:
    ValueError: it cannot be signed, as with a certificate that is out of date
      or not for signing documents, or a time stamp that does not come.
  """
  key = ed25519.Ed25519PrivateKey.generate()
  facts = facts | {'seal': key.public_key().public_bytes_raw().hex()}
  info = c2pa.C2paSignerInfo(
    signer.algorithm, signer.chain, signer.key, tsa_url or None
  )
  signed = io.BytesIO()
  try:
    context = _context(hosts=[urllib.parse.urlsplit(tsa_url).netloc])
    with (
      c2pa.Builder.from_json(json.dumps(_claim(facts, inputs)), context) as b,
      c2pa.Signer.from_info(info) as pen,
    ):
      for i, each in enumerate(inputs):
        if _opens(each):
          media = io.BytesIO(each.data)
          b.add_ingredient(_ingredient(i, each), each.mime, media)
      b.sign(pen, TYPES[suffix], io.BytesIO(data), signed)
  except c2pa.C2paError as error:
    raise ValueError(f'cannot sign: {error}') from error
  sealed = seal.seal(signed.getvalue(), suffix, key)
  report = read(sealed)
  if report.verdict == TAMPERED:
    raise ValueError(f'cannot sign: {", ".join(report.reasons)}')
  return sealed


def read(data: bytes, trust: str = '') -> Report:
  """What a file's label says; `trust` has PEM of certificates to trust."""
  suffix = _type_of(data)
  if not suffix:
    return _without_manifest(data)
  try:
    reader = c2pa.Reader.try_create(
      TYPES[suffix], io.BytesIO(data), context=_context(trust)
    )
  except c2pa.C2paError:
    reader = None
  if reader is None:
    return _without_manifest(data)
  with reader:
    told = json.loads(reader.json())
  return _judged(told, data, suffix)


def _without_manifest(data: bytes) -> Report:
  """Of a file in which C2PA finds nothing: there may be a rest of it."""
  left = TRACE in data
  return Report(TAMPERED, (UNREADABLE,)) if left else Report(UNLABELLED)


def _type_of(data: bytes) -> str:
  """The suffix that a file should have by its bytes; none if unknown."""
  for at, start, suffix in SIGNS:
    if data.startswith(start, at):
      return suffix
  return ''


def _judged(told: dict[str, Any], data: bytes, suffix: str) -> Report:
  """What C2PA tells of a file, which its signer may have filled with anything.

  So every step down is by `_at`; a label of a wrong shape counts as damaged.
  """
  active = _at(told, 'active_manifest', kind=str)
  claim = _at(told, 'manifests', active, kind=dict)
  assertions = {
    _at(each, 'label', kind=str): _at(each, 'data')
    for each in _at(claim, 'assertions', kind=list)
  }
  facts = assertions.get(FACTS, {})
  if not claim or not isinstance(facts, dict):
    return Report(TAMPERED, (UNREADABLE,))
  verdict, reasons = _verdict(told)
  if verdict != TAMPERED and 'seal' in facts:
    if not seal.holds(data, suffix, str(facts['seal'])):
      verdict, reasons = TAMPERED, ('a byte that C2PA leaves open is changed',)
  signature = _at(claim, 'signature_info', kind=dict)
  name = lambda field: _at(signature, field, kind=str)
  passed = _codes(told, 'success')
  return Report(
    verdict,
    reasons,
    signer=name('common_name') or name('issuer'),
    time=name('time') if 'timeStamp.validated' in passed else '',
    time_trusted='timeStamp.trusted' in passed,
    generator=_generator(claim),
    source_type=_source_type(assertions),
    facts=facts,
    inputs=tuple(
      _ingredient_of(each, told, ours=FACTS in assertions)
      for each in _at(claim, 'ingredients', kind=list)
    ),
  )


def _verdict(told: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
  """The verdict of C2PA, and its reasons."""
  reasons = tuple(c for c in _codes(told, 'failure') if c != UNKNOWN_SIGNER)
  state = _at(told, 'validation_state', kind=str)
  verdict = {'Trusted': TRUSTED, 'Valid': VALID}.get(state, TAMPERED)
  return verdict, reasons


def _codes(of: Any, outcome: str) -> list[str]:
  """What C2PA found of a file or of an input."""
  found = _at(of, 'validation_results', 'activeManifest', outcome, kind=list)
  return [_at(each, 'code', kind=str) for each in found]


def _generator(claim: Any) -> str:
  made = next(iter(_at(claim, 'claim_generator_info', kind=list)), {})
  fields = (_at(made, field, kind=str) for field in ('name', 'version'))
  return ' '.join(fields).strip()


def _ingredient_of(each: Any, told: dict[str, Any], ours: bool) -> Ingredient:
  """The worse of what C2PA found of an input and what we found when we signed.

  Others may write anything where we write our finding.
  """
  active = _at(each, 'active_manifest', kind=str)
  labels = [VALID if active else UNLABELLED]
  if set(_codes(each, 'failure')) - {UNKNOWN_SIGNER}:
    labels.append(TAMPERED)
  said = _at(each, 'description', kind=str).partition(',')[0]
  if ours and said in WORSE_AND_WORSE:
    labels.append(said)
  return Ingredient(
    _at(each, 'title', kind=str),
    _at(each, 'relationship', kind=str),
    max(labels, key=WORSE_AND_WORSE.index),
    _generator(_at(told, 'manifests', active)),
  )


def _source_type(assertions: dict[str, Any]) -> str:
  for label, data in assertions.items():
    if label.startswith('c2pa.actions'):
      for action in _at(data, 'actions', kind=list):
        if source := _at(action, 'digitalSourceType', kind=str):
          return source.rpartition('/')[2]
  return ''


def _at(value: Any, *path: str, kind: type = object) -> Any:
  """What lies at a path of JSON; an empty `kind` where no such thing does."""
  for name in path:
    value = value.get(name) if isinstance(value, dict) else None
  return value if isinstance(value, kind) else kind()


def _context(trust: str = '', hosts: list[str] | None = None) -> c2pa.Context:
  settings: dict[str, Any] = {
    'verify': {
      'verify_trust': True,
      'ocsp_fetch': False,
      'remote_manifest_fetch': False,
    },
    'core': {'allowed_network_hosts': [host for host in hosts or () if host]},
    'builder': {'thumbnail': {'enabled': False}},
  }
  if trust:
    settings['trust'] = {'user_anchors': trust}
  return c2pa.Context.from_dict(settings)


def _opens(each: Input) -> bool:
  """Whether C2PA can take over the history of an input, or finds none."""
  return bool(each.mime) and UNREADABLE not in each.report.reasons


def _claim(facts: dict[str, Any], inputs: tuple[Input, ...]) -> dict[str, Any]:
  """What C2PA signs, but for the hashes that it adds."""
  unread = [
    _ingredient(i, each) for i, each in enumerate(inputs) if not _opens(each)
  ]
  return {
    'claim_generator_info': [
      {'name': 'sora_jax', 'version': importlib.metadata.version('sora_jax')}
    ],
    'ingredients': unread,
    'assertions': [
      {'label': 'c2pa.actions.v2', 'data': {'actions': _actions(inputs)}},
      {'label': FACTS, 'data': facts},
    ],
  }


def _ingredient(index: int, each: Input) -> dict[str, Any]:
  digest = hashlib.sha256(each.data).hexdigest()
  return {
    'description': f'{each.report.verdict}, SHA-256 {digest}',
    'title': each.name,
    'format': each.mime or 'application/octet-stream',
    'relationship': each.role,
    'label': _id(index),
  }


def _id(index: int) -> str:
  return f'input{index}'


def _actions(inputs: tuple[Input, ...]) -> list[dict[str, Any]]:
  """Opened and edited where there is a parent; else created, of its parts.

  Source: C2PA 2.2, 18.14, actions.
  """
  role = lambda wanted: [
    _id(i) for i, each in enumerate(inputs) if each.role == wanted
  ]
  using = lambda ids: {'parameters': {'ingredientIds': ids}} if ids else {}
  parents, parts = role(PARENT), role(COMPONENT)
  made = {'digitalSourceType': MIXED if parents or parts else MADE}
  made |= using(role(INPUT))
  if parents:
    first = [
      {'action': 'c2pa.opened'} | using(parents),
      {'action': 'c2pa.edited'} | made,
    ]
  else:
    first = [{'action': 'c2pa.created'} | made]
  return first + [{'action': 'c2pa.placed'} | using([part]) for part in parts]

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
  # Inputs only.
  '.mov': 'video/quicktime',
  '.m4v': 'video/x-m4v',
  '.avi': 'video/x-msvideo',
}
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
  time: str = ''  # of a trusted stamp
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
  def suffix(self) -> str:
    return '.' + self.name.rpartition('.')[2].lower()


def examine(name: str, data: bytes, role: str) -> Input:
  """An input; its label is read here, once for all clips made of it."""
  blank = Input(name, data, role, Report(UNLABELLED))
  return blank._replace(report=read(data, blank.suffix))


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
          mime = TYPES[each.suffix]
          b.add_ingredient(_ingredient(i, each), mime, io.BytesIO(each.data))
      b.sign(pen, TYPES[suffix], io.BytesIO(data), signed)
  except c2pa.C2paError as error:
    raise ValueError(f'cannot sign: {error}') from error
  sealed = seal.seal(signed.getvalue(), suffix, key)
  report = read(sealed, suffix)
  if report.verdict == TAMPERED:
    raise ValueError(f'cannot sign: {", ".join(report.reasons)}')
  return sealed


def read(data: bytes, suffix: str, trust: str = '') -> Report:
  """What a file's label says; `trust` has PEM of certificates to trust."""
  if suffix not in TYPES:
    return Report(UNLABELLED)
  try:
    reader = c2pa.Reader.try_create(
      TYPES[suffix], io.BytesIO(data), context=_context(trust)
    )
  except c2pa.C2paError:
    reader = None
  if reader is None:
    left = TRACE in data
    return Report(TAMPERED, (UNREADABLE,)) if left else Report(UNLABELLED)
  with reader:
    told = json.loads(reader.json())
  if told.get('active_manifest') not in told['manifests']:  # a name changed
    return Report(TAMPERED, (UNREADABLE,))
  return _judged(told, data, suffix)


def _judged(told: dict[str, Any], data: bytes, suffix: str) -> Report:
  claim = told['manifests'][told['active_manifest']]
  assertions = {a['label']: a['data'] for a in claim.get('assertions', ())}
  facts = assertions.get(FACTS, {})
  results = told['validation_results']['activeManifest']
  codes = (failure['code'] for failure in results['failure'])
  reasons = tuple(code for code in codes if code != UNKNOWN_SIGNER)
  verdict = {'Trusted': TRUSTED, 'Valid': VALID}.get(
    told['validation_state'], TAMPERED
  )
  if verdict != TAMPERED and 'seal' in facts:
    if not seal.holds(data, suffix, str(facts['seal'])):
      verdict, reasons = TAMPERED, ('a byte that C2PA leaves open is changed',)
  signature = claim.get('signature_info', {})
  return Report(
    verdict,
    reasons,
    signature.get('common_name') or signature.get('issuer', ''),
    signature.get('time', ''),
    _generator(claim),
    _source_type(assertions),
    facts,
    tuple(_input_of(each, told) for each in claim.get('ingredients', ())),
  )


def _generator(claim: dict[str, Any]) -> str:
  made = claim.get('claim_generator_info', [{}])[0]
  return f'{made.get("name", "")} {made.get("version", "")}'.strip()


def _input_of(each: dict[str, Any], told: dict[str, Any]) -> Ingredient:
  """By what C2PA found of it and, of our own, by our stricter check."""
  results = each.get('validation_results', {}).get('activeManifest', {})
  codes = {failure['code'] for failure in results.get('failure', ())}
  if 'active_manifest' not in each:
    label = UNLABELLED
  elif codes - {UNKNOWN_SIGNER}:
    label = TAMPERED
  else:
    label = VALID
  said = each.get('description', '').partition(',')[0]
  if said in (VALID, TAMPERED, UNLABELLED):
    label = said
  history = told['manifests'].get(each.get('active_manifest'), {})
  return Ingredient(
    each.get('title', ''), each['relationship'], label, _generator(history)
  )


def _source_type(assertions: dict[str, Any]) -> str:
  for label, data in assertions.items():
    if label.startswith('c2pa.actions'):
      for action in data['actions']:
        if 'digitalSourceType' in action:
          return action['digitalSourceType'].rpartition('/')[2]
  return ''


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
  return each.suffix in TYPES and UNREADABLE not in each.report.reasons


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
    'format': TYPES.get(each.suffix, 'application/octet-stream'),
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

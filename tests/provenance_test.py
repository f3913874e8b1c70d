"""Labels in files: what they say, and that nothing else verifies."""

import functools
import http.server
import io
import json
import operator
import random
import re
import shutil
import subprocess
import threading

import av
import c2pa
import numpy as np
import pytest
import tiny

from sora_jax import certificate, provenance, seal, verify
from sora_jax.data import encoders, video

FACTS = {'model': 'balls', 'seed': 3, 'prompt': 'a small red ball'}
ROLES = provenance.PARENT, provenance.COMPONENT, provenance.INPUT


@pytest.fixture(scope='module')
def signer():
  return certificate.local()


@pytest.fixture(scope='module')
def files():
  """Small unsigned files of each type."""
  frames = tiny.gradient(5, 32, 32)
  count = lambda suffix: 1 if suffix in encoders.STILLS else 5
  return {
    suffix: encode(iter(frames[: count(suffix)]), 10.0)
    for suffix, encode in encoders.ENCODERS.items()
  }


@pytest.fixture(scope='module')
def signed(files, signer):
  return {
    suffix: provenance.sign(data, suffix, signer, FACTS)
    for suffix, data in files.items()
  }


def verdict(data, trust=''):
  return provenance.read(data, trust).verdict


def is_good(data):
  return verdict(data) in (provenance.VALID, provenance.TRUSTED)


def flipped(data, at, bits=1):
  changed = bytearray(data)
  changed[at] ^= bits
  return bytes(changed)


@pytest.mark.parametrize('suffix', encoders.ENCODERS)
def test_a_label_says_how_the_file_was_made(signed, signer, suffix):
  report = provenance.read(signed[suffix])
  assert report.verdict == 'valid' and not report.reasons
  assert report.source_type == 'trainedAlgorithmicMedia'
  assert report.generator.startswith('sora_jax ')
  assert FACTS.items() <= report.facts.items()
  assert report.time == ''
  assert verdict(signed[suffix], signer.chain.decode()) == 'trusted'


@pytest.mark.parametrize('suffix', encoders.ENCODERS)
def test_a_labelled_file_shows_the_same_pictures(
  files, signed, tmp_path, suffix
):
  frames = []
  for name, kind in (('plain', files), ('signed', signed)):
    path = tmp_path / f'{name}{suffix}'
    path.write_bytes(kind[suffix])
    count = video.read_info(path).frames
    frames.append(video.read_frames(path, 0, count))
  np.testing.assert_array_equal(*frames)
  assert verdict(files[suffix]) == 'unlabelled'


def test_no_other_certificate_is_trusted(signed, tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CONFIG_HOME', str(tmp_path))
  stranger = certificate.local()
  assert verdict(signed['.mp4'], trust=stranger.chain.decode()) == 'valid'


def test_a_thousand_changed_bytes_are_all_noticed(signed):
  """Of an mp4: what it shows, how it is laid out, and what its label says."""
  data = signed['.mp4']
  parts = {
    'media': (data.index(b'mdat'), len(data)),
    'moov': (data.index(b'moov'), data.index(b'mdat')),
    'assertions': (
      data.index(b'c2pa.assertions'),
      data.index(b'c2pa.claim.v2'),
    ),
  }
  rng = random.Random(0)
  for name, (start, end) in parts.items():
    for _ in range(334):
      at = rng.randrange(start, end)
      changed = flipped(data, at, rng.randrange(1, 256))
      assert verdict(changed) == 'tampered', (name, at)


@pytest.mark.parametrize('suffix', encoders.ENCODERS)
def test_what_c2pa_leaves_open_is_noticed_too(signed, suffix):
  """Names of boxes, padding, an mp4's first box, checksums, the seal itself."""
  data = signed[suffix]
  store = seal._places(data, suffix)
  places = {*range(24), *store[:120].tolist(), *store[-1200::7].tolist()}
  places |= {*range(store[0] - 24, store[0])}
  places |= {*range(store[-1], min(store[-1] + 12, len(data)))}
  for name in (b'c2pa.assertions', b'c2pa.claim.v2', b'c2pa.signature'):
    # A gif cuts some names in two.
    found = re.finditer(re.escape(name), data)
    places |= {at for match in found for at in range(*match.span())}
  assert [at for at in places if is_good(flipped(data, at))] == []


@pytest.mark.slow
@pytest.mark.parametrize('suffix', encoders.ENCODERS)
def test_every_single_byte_is_bound(signed, suffix):
  data = signed[suffix]
  for bits in (0x01, 0xFF):
    good = [i for i in range(len(data)) if is_good(flipped(data, i, bits))]
    assert good == []


@pytest.mark.parametrize('suffix', encoders.ENCODERS)
def test_a_truncated_or_longer_file_is_tampered(signed, suffix):
  data = signed[suffix]
  assert verdict(data + b'\0') == 'tampered'
  for kept in (len(data) - 1, len(data) - 100, data.index(b'c2pa.claim.v2')):
    assert verdict(data[:kept]) == 'tampered'


def test_an_edited_prompt_is_tampered(signed):
  data = signed['.mp4']
  changed = data.replace(b'a small red ball', b'a large red ball')
  assert changed != data
  assert verdict(changed) == 'tampered'


def test_a_label_moved_to_another_video_is_tampered(signed, files, signer):
  other = encoders.mp4(iter(tiny.gradient(5, 32, 32, seed=1)), 10.0)
  other = provenance.sign(other, '.mp4', signer, FACTS)
  media = other.index(b'moov')
  own = signed['.mp4']
  assert verdict(own[: own.index(b'moov')] + other[media:]) == 'tampered'


def test_a_file_copied_by_its_streams_or_encoded_again_is_unlabelled(signed):
  copy = io.BytesIO()
  with (
    av.open(io.BytesIO(signed['.mp4'])) as source,
    av.open(copy, 'w', format='mp4') as target,
  ):
    stream = source.streams.video[0]
    out = target.add_stream_from_template(stream)
    for packet in source.demux(stream):
      if packet.dts is not None:
        packet.stream = out
        target.mux(packet)
  assert verdict(copy.getvalue()) == 'unlabelled'
  frames = video.read_frames(signed['.mp4'], 0, 5)
  assert verdict(encoders.mp4(iter(frames), 10.0)) == 'unlabelled'


def test_a_labelled_input_keeps_its_history(signed, files, signer):
  inputs = tuple(
    provenance.examine('one.mp4', signed['.mp4'], role) for role in ROLES
  )
  for each in inputs:
    made = provenance.sign(files['.mp4'], '.mp4', signer, FACTS, (each,))
    report = provenance.read(made)
    assert report.verdict == 'valid'
    ((name, role, label, generator),) = report.inputs
    assert (name, role, label) == ('one.mp4', each.role, 'valid')
    assert generator.startswith('sora_jax ')
    mixed = each.role != provenance.INPUT
    assert report.source_type.startswith('composite') == mixed
    # And keeps it through another step.
    again = provenance.examine('two.mp4', made, provenance.PARENT)
    last = provenance.sign(files['.mp4'], '.mp4', signer, FACTS, (again,))
    assert last.count(b'a small red ball') == 3
    place = last.index(b'a small red ball')
    assert verdict(last) == 'valid'
    assert verdict(flipped(last, place)) == 'tampered'


def test_a_file_is_of_the_type_of_its_bytes_whatever_its_name(
  signed, files, signer
):
  for suffix, data in signed.items():
    for name in ('a.mp4', 'a.png', 'a.jpg', 'a.mov', 'a'):
      each = provenance.examine(name, data, provenance.COMPONENT)
      assert each.report.verdict == 'valid', (suffix, name)
      made = provenance.sign(files['.png'], '.png', signer, FACTS, (each,))
      assert provenance.read(made).inputs[0].label == 'valid', (suffix, name)
  for data in (b'neither', files['.mp4'].replace(b'ftyp', b'free')):
    each = provenance.examine('a.mov', data, provenance.COMPONENT)
    made = provenance.sign(files['.png'], '.png', signer, FACTS, (each,))
    assert provenance.read(made).inputs[0].label == 'unlabelled'


def test_inputs_without_a_label_and_tampered_ones_are_said_so(
  signed, files, signer
):
  changed = flipped(signed['.mp4'], -1)
  open_byte = flipped(signed['.mp4'], 9)  # which C2PA does not notice
  no_store = flipped(signed['.mp4'], signed['.mp4'].index(b'jumb'))
  inputs = tuple(
    provenance.examine(name, data, provenance.COMPONENT)
    for name, data in {
      'plain.mp4': files['.mp4'],
      'changed.mp4': changed,
      'open.mp4': open_byte,
      'broken.mp4': no_store,
      'film.webm': b'of a type without labels',
    }.items()
  )
  made = provenance.sign(files['.png'], '.png', signer, FACTS, inputs)
  report = provenance.read(made)
  assert report.verdict == 'valid'
  assert {each.name: each.label for each in report.inputs} == {
    'plain.mp4': 'unlabelled',
    'changed.mp4': 'tampered',
    'open.mp4': 'tampered',
    'broken.mp4': 'tampered',
    'film.webm': 'unlabelled',
  }


def foreign(data, signer, assertions=(), ingredients=()):
  """An mp4 with whatever a stranger signs; of its inputs, their bytes too."""
  claim = {
    'claim_generator_info': [{'name': 'other', 'version': '1'}],
    'assertions': [
      {
        'label': 'c2pa.actions.v2',
        'data': {'actions': provenance._actions(())},
      },
      *assertions,
    ],
  }
  info = c2pa.C2paSignerInfo(signer.algorithm, signer.chain, signer.key, None)
  signed, context = io.BytesIO(), provenance._context()
  with (
    c2pa.Builder.from_json(json.dumps(claim), context) as builder,
    c2pa.Signer.from_info(info) as pen,
  ):
    for fields, media in ingredients:
      told = {'title': 'a.mp4', 'relationship': 'componentOf'} | fields
      builder.add_ingredient(told, 'video/mp4', io.BytesIO(media))
    builder.sign(pen, 'video/mp4', io.BytesIO(data), signed)
  return signed.getvalue()


def test_an_input_is_no_better_than_c2pa_found_it(signed, files, signer):
  """Also where the description says so."""
  media, part = files['.mp4'], provenance.COMPONENT
  changed = flipped(signed['.mp4'], -9)
  for data, found in ((changed, 'tampered'), (media, 'unlabelled')):
    said = provenance.Report('valid')
    each = provenance.Input('a.mp4', data, part, said)
    made = provenance.sign(media, '.mp4', signer, FACTS, (each,))
    assert b'valid, SHA-256' in made
    assert provenance.read(made).inputs[0].label == found


def test_what_strangers_write_of_an_input_is_no_finding(signed, files, signer):
  media, good = files['.mp4'], signed['.mp4']
  for data, label in ((good, 'valid'), (flipped(good, -9), 'tampered')):
    for said in ('valid, ...', 'tampered, ...'):
      made = foreign(media, signer, (), [({'description': said}, data)])
      report = provenance.read(made)
      assert report.verdict == 'valid' and report.generator == 'other 1'
      assert report.inputs[0].label == label


@pytest.mark.parametrize('facts', [[1], 'text', 5, None])
def test_facts_of_a_wrong_shape_are_tampered(files, signer, facts):
  assertion = {'label': provenance.FACTS, 'data': facts}
  made = foreign(files['.mp4'], signer, [assertion])
  assert verdict(made) == 'tampered'


def places(value, path=()):
  """The paths to all that is in a tree of JSON."""
  items = {dict: dict.items, list: enumerate}.get(type(value), lambda _: ())
  for name, part in items(value):
    yield (*path, name)
    yield from places(part, (*path, name))


def test_a_label_of_any_shape_has_a_verdict(signed, files, signer):
  """Each part of what C2PA tells left out, or of each other type."""
  inputs = (provenance.examine('a.mp4', signed['.mp4'], provenance.PARENT),)
  data = provenance.sign(files['.mp4'], '.mp4', signer, FACTS, inputs)
  with c2pa.Reader(
    'video/mp4', io.BytesIO(data), context=provenance._context()
  ) as reader:
    text = reader.json()
  verdicts = set()
  for *path, last in places(json.loads(text)):
    for value in ('left out', None, 5, 'text', [], [5], {}, {'a': []}):
      told = json.loads(text)
      parent = functools.reduce(operator.getitem, path, told)
      parent[last] = value
      if value == 'left out':
        del parent[last]
      report = provenance._judged(told, data, '.mp4')
      verdicts.add(report.verdict)
      assert all(isinstance(x, str) for x in verify.lines_of(report))
  assert verdicts == {'valid', 'tampered'}


def test_large_labels_are_read_back(signer, files):
  """A jpg and a gif cut them in pieces."""
  for suffix, data in files.items():
    made = provenance.sign(data, suffix, signer, {'prompt': 'x' * 150_000})
    report = provenance.read(made)
    assert report.verdict == 'valid'
    assert len(report.facts['prompt']) == 150_000
    place = made.index(b'x' * 100)
    assert not is_good(flipped(made, place))


def test_a_certificate_that_may_not_sign_is_refused(signer, files):
  own, root = signer.chain.split(b'-----END CERTIFICATE-----\n')[:2]
  wrong = signer._replace(chain=root + b'-----END CERTIFICATE-----\n')
  with pytest.raises(ValueError, match='cannot sign'):
    provenance.sign(files['.png'], '.png', wrong, FACTS)


TSA = """
[req]
distinguished_name = name
prompt = no
[name]
CN = clock
O = tests
[root]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[stamp]
basicConstraints = critical, CA:FALSE
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
keyUsage = critical, digitalSignature
extendedKeyUsage = critical, timeStamping
[tsa]
default_tsa = clock
[clock]
serial = $ENV::FOLDER/serial
signer_cert = $ENV::FOLDER/clock.pem
signer_key = $ENV::FOLDER/clock.key
certs = $ENV::FOLDER/root.pem
signer_digest = sha256
default_policy = 1.2.3.4
digests = sha256, sha384, sha512
ess_cert_id_alg = sha256
"""


@pytest.fixture
def clock(tmp_path):
  """The address of a time stamp authority of our own."""
  if not shutil.which('openssl'):
    pytest.skip('openssl is not installed')
  settings = tmp_path / 'tsa.cnf'
  settings.write_text(TSA.replace('$ENV::FOLDER', str(tmp_path)))
  (tmp_path / 'serial').write_text('01\n')

  def openssl(*words, data=b''):
    command = ['openssl', *map(str, words)]
    return subprocess.run(
      command, input=data, capture_output=True, check=True
    ).stdout

  root = ('-CA', tmp_path / 'root.pem', '-CAkey', tmp_path / 'root.key')
  for name, part, issuer in (('root', 'root', ()), ('clock', 'stamp', root)):
    openssl(
      *('req', '-x509', '-newkey', 'ec', '-pkeyopt'),
      *('ec_paramgen_curve:P-256', '-nodes', '-days', 2, '-config', settings),
      *('-subj', f'/O=tests/CN={name}', '-extensions', part, *issuer),
      *('-keyout', tmp_path / f'{name}.key', '-out', tmp_path / f'{name}.pem'),
    )

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
      query = tmp_path / 'query'
      query.write_bytes(self.rfile.read(int(self.headers['Content-Length'])))
      answer = openssl(*(
        'ts',
        '-reply',
        '-config',
        settings,
        '-queryfile',
        query,
      ))
      self.send_response(200)
      self.send_header('Content-Type', 'application/timestamp-reply')
      self.send_header('Content-Length', str(len(answer)))
      self.end_headers()
      self.wfile.write(answer)

    def log_message(self, *unused):
      pass

  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}/'
    server.shutdown()


def test_a_time_stamp_is_asked_of_the_authority_that_is_given(
  clock, signer, files, tmp_path
):
  made = provenance.sign(files['.mp4'], '.mp4', signer, FACTS, tsa_url=clock)
  report = provenance.read(made)
  assert report.verdict == 'valid'
  assert report.time.startswith('20') and not report.time_trusted
  root = (tmp_path / 'root.pem').read_text()
  report = provenance.read(made, root)
  assert report.time.startswith('20') and report.time_trusted


def test_a_time_stamp_that_does_not_come_fails(signer, files):
  with pytest.raises(ValueError, match='cannot sign'):
    provenance.sign(
      files['.mp4'], '.mp4', signer, FACTS, tsa_url='http://127.0.0.1:9/'
    )
